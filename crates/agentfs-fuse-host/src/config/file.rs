//! The configuration file: what it may say. Unknown keys are refused by name.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

/// The way that bytes take between programs and the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DataPath {
    /// Through the daemon; larger files that are opened again past it, where the kernel can.
    Hybrid,
    /// Through the daemon, each write before it returns.
    Exact,
    /// Through the daemon, from the kernel's cache some time after the write has returned.
    WriteBack,
}

impl DataPath {
    pub(crate) const ALL: [DataPath; 3] = [DataPath::Hybrid, DataPath::Exact, DataPath::WriteBack];

    /// As it is written in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            DataPath::Hybrid => "hybrid",
            DataPath::Exact => "exact",
            DataPath::WriteBack => "write-back",
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    pub(crate) cache: Cache,
    pub(crate) limits: Limits,
    pub(crate) backstore: Option<StoreChoice>,
    pub(crate) overlay: Overlay,
    pub(crate) security: Security,
    pub(crate) data_path: Option<DataPath>,
    pub(crate) layered_from: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cache {
    pub(crate) attr_ttl_ms: Option<u64>,
    pub(crate) entry_ttl_ms: Option<u64>,
    pub(crate) negative_ttl_ms: Option<u64>,
    pub(crate) writeback_cache: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    pub(crate) max_open_handles: Option<u64>,
    pub(crate) max_branches: Option<usize>,
    pub(crate) max_snapshots: Option<usize>,
    pub(crate) resident_snapshots: Option<usize>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) max_inodes: Option<u64>,
    pub(crate) max_branch_bytes: Option<u64>,
    pub(crate) max_branch_inodes: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) enum StoreChoice {
    InMemory,
    HostFs(HostFs),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostFs {
    pub(crate) root: PathBuf,
    #[serde(default = "yes")]
    pub(crate) prefer_native_snapshots: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Overlay {
    pub(crate) enabled: bool,
    pub(crate) lower_root: Option<PathBuf>,
    pub(crate) materialization: Option<Copying>,
    pub(crate) ttl_ms: u64,
}

/// What is frozen of the directory below is copied?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Copying {
    /// Not.
    Lazy,
    /// All of it.
    Eager,
    /// All of it, by sharing blocks, or it is refused.
    CloneEager,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Security {
    pub(crate) enforce_posix_permissions: bool,
    pub(crate) default_uid: Option<u32>,
    pub(crate) default_gid: Option<u32>,
    pub(crate) root_bypass_permissions: bool,
}

impl Default for Security {
    fn default() -> Security {
        Security {
            enforce_posix_permissions: true,
            default_uid: None,
            default_gid: None,
            root_bypass_permissions: true,
        }
    }
}

fn yes() -> bool {
    true
}

/// Reads what a configuration file says.
///
/// # Errors
/// Which key is wrong, and how.
pub(crate) fn parse(text: &str) -> Result<File> {
    let mut json = serde_json::Deserializer::from_str(text);
    // Says which key is wrong, too.
    let file = serde_path_to_error::deserialize(&mut json).map_err(tamed)?;
    json.end().map_err(tamed).context("it does not end where it should")?;
    Ok(file)
}

/// In one line, whatever the file has in it: some of that goes to a terminal.
fn tamed(error: impl std::error::Error) -> anyhow::Error {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    anyhow::Error::msg(error.to_string().chars().map(shown).collect::<String>())
}
