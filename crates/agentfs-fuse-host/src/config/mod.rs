//! Settings: the command line over the environment over the configuration file over the defaults.
//! What is accepted works; what would not work is refused by name.

mod file;

use std::env::VarError;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use self::file::{Copying, DataPath};
use self::file::{File, Limits, Overlay, StoreChoice};
use crate::args::Args;
use crate::views::Ttl;
use agentfs_core::{Config, Materialization, Quota};
use anyhow::{Context, Result, bail};

/// Every change comes through the kernel that caches: what it knows stays true.
const DEFAULT_TTL_MS: u64 = 3_600_000;

/// No file has more.
const MOST_BYTES: u64 = i64::MAX as u64;

/// All that the daemon needs to know.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) backstore: Backstore,
    pub(crate) core: Config,
    /// The directory that the volume lies over.
    pub(crate) lower: Option<PathBuf>,
    /// Does all that is copied of it have to share blocks with it?
    pub(crate) clones_only: bool,
    pub(crate) ttl: Ttl,
    pub(crate) allow_other: bool,
    pub(crate) default_permissions: bool,
    pub(crate) write_threads: usize,
    pub(crate) max_write: u32,
    pub(crate) max_background: u16,
    pub(crate) data_path: DataPath,
    /// Are the processors to be kept awake while requests come in quickly, where that is allowed?
    pub(crate) keep_awake: bool,
    pub(crate) trace_writes: bool,
}

/// Where bytes go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Backstore {
    Memory,
    HostFs { root: PathBuf, prefer_reflinks: bool },
}

impl Limits {
    /// Those of the volume, and of each branch.
    fn quotas(&self) -> (Quota, Quota) {
        let quota = |bytes: Option<u64>, inodes: Option<u64>| Quota {
            bytes: bytes.unwrap_or(Quota::NONE.bytes),
            inodes: inodes.unwrap_or(Quota::NONE.inodes),
        };
        (quota(self.max_bytes, self.max_inodes), quota(self.max_branch_bytes, self.max_branch_inodes))
    }

    fn has_quotas(&self) -> bool {
        self.quotas() != (Quota::NONE, Quota::NONE)
    }
}

/// Reads one variable of the environment.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Result<String, VarError>;

impl Settings {
    /// Brings together what was said. `mount` names the default store.
    ///
    /// # Errors
    /// One sentence that names the file, key or variable that is wrong.
    pub(crate) fn gather(args: &Args, mount: &Path, env: Environment<'_>) -> Result<Settings> {
        let file = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
        refuse_unsupported(&file)?;
        let data_path = data_path(&file, env)?;
        if file.limits.has_quotas() && data_path != DataPath::Exact {
            bail!(
                "limits on bytes and inodes need the data path \"exact\", and {:?} was asked for: leave one of \
                 them out",
                data_path.name()
            );
        }
        let ttl = |ms: Option<u64>| Duration::from_millis(ms.unwrap_or(DEFAULT_TTL_MS));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let defaults = Config::default();
        let (quota, branch_quota) = file.limits.quotas();
        let layered_from = number(env, "AGENTFS_FUSE_LAYERED_FROM", 1, MOST_BYTES)?;
        let layered_from = layered_from.or(file.layered_from).unwrap_or(defaults.layered_from);
        Ok(Settings {
            lower: lower(args, &file.overlay)?,
            clones_only: file.overlay.materialization == Some(Copying::CloneEager),
            backstore: backstore(args, file.backstore, mount, env)?,
            core: Config {
                max_open_handles: file.limits.max_open_handles.unwrap_or(defaults.max_open_handles),
                max_branches: file.limits.max_branches.unwrap_or(defaults.max_branches),
                max_snapshots: file.limits.max_snapshots.unwrap_or(defaults.max_snapshots),
                resident_snapshots: file.limits.resident_snapshots.unwrap_or(defaults.resident_snapshots),
                quota,
                branch_quota,
                root_uid: file.security.default_uid.unwrap_or(uid),
                root_gid: file.security.default_gid.unwrap_or(gid),
                materialization: match file.overlay.materialization {
                    None | Some(Copying::Lazy) => Materialization::Lazy,
                    Some(Copying::Eager | Copying::CloneEager) => Materialization::Eager,
                },
                // What lies in packs is written anew as a whole.
                small_file: u64::from(defaults.small_file).min(layered_from) as u32,
                layered_from,
                boot: boot_id(),
                ..defaults
            },
            ttl: Ttl {
                attr: ttl(file.cache.attr_ttl_ms),
                entry: ttl(file.cache.entry_ttl_ms),
                negative: ttl(file.cache.negative_ttl_ms),
                live: Duration::from_millis(file.overlay.ttl_ms),
            },
            allow_other: args.allow_other || flag(env, "AGENTFS_FUSE_ALLOW_OTHER", false)?,
            default_permissions: file.security.enforce_posix_permissions,
            write_threads: number(env, "AGENTFS_FUSE_WRITE_THREADS", 1, 1024)?.unwrap_or(cpus as u64)
                as usize,
            max_write: number(env, "AGENTFS_FUSE_MAX_WRITE", 4096, 16 << 20)?.unwrap_or(4 << 20) as u32,
            max_background: number(env, "AGENTFS_FUSE_MAX_BACKGROUND", 1, 65535)?.unwrap_or(64) as u16,
            data_path,
            keep_awake: flag(env, "AGENTFS_FUSE_KEEP_AWAKE", true)?,
            trace_writes: flag(env, "AGENTFS_FUSE_TRACE_WRITES", false)?,
        })
    }
}

/// This run of the kernel, as a number; 0 where it has none.
pub(crate) fn boot_id() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

/// The variables of the environment that mean something to the daemon.
const VARIABLES: [&str; 8] = [
    "AGENTFS_FUSE_ALLOW_OTHER",
    "AGENTFS_FUSE_DATA_PATH",
    "AGENTFS_FUSE_KEEP_AWAKE",
    "AGENTFS_FUSE_LAYERED_FROM",
    "AGENTFS_FUSE_MAX_BACKGROUND",
    "AGENTFS_FUSE_MAX_WRITE",
    "AGENTFS_FUSE_TRACE_WRITES",
    "AGENTFS_FUSE_WRITE_THREADS",
];

/// Refuses, by name, variables that look like the daemon's and mean nothing.
///
/// # Errors
/// One sentence that names the variable and those there are.
pub(crate) fn refuse_unknown_variables(names: impl Iterator<Item = OsString>) -> Result<()> {
    for name in names {
        let name = name.to_string_lossy();
        if name.starts_with("AGENTFS_FUSE_") && !VARIABLES.contains(&&*name) {
            bail!("there is no variable {name}; there are {}", VARIABLES.join(", "));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the configuration {} cannot be read", path.display()))?;
    file::parse(&text).with_context(|| format!("the configuration {} is wrong", path.display()))
}

fn refuse_unsupported(file: &File) -> Result<()> {
    if !file.security.root_bypass_permissions {
        bail!(
            "security.root_bypass_permissions cannot be false: the kernel exempts root from permission checks"
        );
    }
    if file.layered_from.is_some_and(|bytes| !(1..=MOST_BYTES).contains(&bytes)) {
        bail!("layered_from must be a number of bytes from 1 to {MOST_BYTES}");
    }
    Ok(())
}

/// The directory to lie over: the command line's word over the file's.
fn lower(args: &Args, overlay: &Overlay) -> Result<Option<PathBuf>> {
    match (&args.lower, overlay.enabled, &overlay.lower_root) {
        (Some(lower), ..) | (None, true, Some(lower)) => Ok(Some(lower.clone())),
        (None, true, None) => bail!("overlay.enabled needs overlay.lower_root, the directory to lie over"),
        // The store may remember one.
        (None, false, None) => Ok(None),
        (None, false, _) => bail!("overlay.lower_root has no effect without overlay.enabled: leave it out"),
    }
}

/// The variable's word over the file's; `cache.writeback_cache` is an older word for one of them.
fn data_path(file: &File, env: Environment<'_>) -> Result<DataPath> {
    let name = "AGENTFS_FUSE_DATA_PATH";
    let all = DataPath::ALL.map(DataPath::name).join(", ");
    match env(name) {
        Ok(text) if !text.is_empty() => {
            let found = DataPath::ALL.into_iter().find(|path| path.name() == text);
            return found.with_context(|| format!("{name} is {text:?}: it must be one of {all}"));
        }
        Err(VarError::NotUnicode(_)) => bail!("{name} is not text: it must be one of {all}"),
        Ok(_) | Err(VarError::NotPresent) => {}
    }
    match (file.data_path, file.cache.writeback_cache) {
        (Some(path), Some(cached)) if cached != (path == DataPath::WriteBack) => {
            bail!("cache.writeback_cache is {cached} and data_path {:?}: leave one of them out", path.name())
        }
        (Some(path), _) => Ok(path),
        (None, Some(true)) => Ok(DataPath::WriteBack),
        // Of what is written past the daemon, or kept by the kernel, nobody can say in time that it is too much.
        (None, _) if file.limits.has_quotas() => Ok(DataPath::Exact),
        (None, Some(false) | None) => Ok(DataPath::Hybrid),
    }
}

fn backstore(
    args: &Args,
    chosen: Option<StoreChoice>,
    mount: &Path,
    env: Environment<'_>,
) -> Result<Backstore> {
    match (&args.store, chosen) {
        (Some(root), chosen) => {
            let prefer_reflinks =
                !matches!(&chosen, Some(StoreChoice::HostFs(fs)) if !fs.prefer_native_snapshots);
            Ok(Backstore::HostFs { root: root.clone(), prefer_reflinks })
        }
        (None, Some(StoreChoice::InMemory)) => Ok(Backstore::Memory),
        (None, Some(StoreChoice::HostFs(fs))) => {
            Ok(Backstore::HostFs { root: fs.root, prefer_reflinks: fs.prefer_native_snapshots })
        }
        (None, None) => {
            let root = state_directory(env)?.join(escaped(mount));
            Ok(Backstore::HostFs { root, prefer_reflinks: true })
        }
    }
}

/// `$XDG_STATE_HOME/agentfs`, by default `~/.local/state/agentfs`.
pub(crate) fn state_directory(env: Environment<'_>) -> Result<PathBuf> {
    let state = env("XDG_STATE_HOME").ok().filter(|path| path.starts_with('/')).map(PathBuf::from);
    let home =
        || env("HOME").ok().filter(|path| !path.is_empty()).map(|home| Path::new(&home).join(".local/state"));
    let found = state.or_else(home).map(|path| path.join("agentfs"));
    found.context("neither XDG_STATE_HOME nor HOME is set: name a store with --store")
}

/// A path as one file name: '/' becomes '-', and what could be mistaken is written in hexadecimal.
pub(crate) fn escaped(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
    let shown = |b: &u8| match *b {
        b'/' => "-".to_owned(),
        b if plain(b) => char::from(b).to_string(),
        b => format!("%{b:02x}"),
    };
    let bytes = path.as_os_str().as_bytes();
    let text: String = bytes.strip_prefix(b"/").unwrap_or(bytes).iter().map(shown).collect();
    if text.is_empty() { "-".to_owned() } else { text }
}

fn flag(env: Environment<'_>, name: &str, otherwise: bool) -> Result<bool> {
    match env(name).as_deref() {
        Ok("1") => Ok(true),
        Ok("0") => Ok(false),
        Ok("") | Err(VarError::NotPresent) => Ok(otherwise),
        Ok(other) => bail!("{name} is {other:?}: it must be 0 or 1"),
        Err(VarError::NotUnicode(_)) => bail!("{name} is not text: it must be 0 or 1"),
    }
}

fn number(env: Environment<'_>, name: &str, least: u64, most: u64) -> Result<Option<u64>> {
    match env(name) {
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            bail!("{name} is not text: it must be a number from {least} to {most}")
        }
        Ok(text) => match text.parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => bail!("{name} is {text:?}: it must be a number from {least} to {most}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn gather(json: &str, env: &[(&str, &str)], args: &[&str]) -> Result<Settings> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, json).unwrap();
        let base = ["agentfs-fuse-host", "--config", path.to_str().unwrap()];
        let args = Args::parse_from(base.iter().chain(args).chain(&["/mnt"]));
        let find = |name: &str| {
            let all = env.iter().chain(&[("HOME", "/home/u")]);
            all.clone().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()).ok_or(VarError::NotPresent)
        };
        Settings::gather(&args, Path::new("/mnt/my vol"), &find)
    }

    #[test]
    fn the_documented_schema_is_accepted() {
        let json = r#"{"cache":{"attr_ttl_ms":5,"entry_ttl_ms":6,"negative_ttl_ms":7,"writeback_cache":false},
            "data_path":"exact",
            "limits":{"max_open_handles":10,"max_branches":11,"max_snapshots":12,"max_bytes":13,"max_inodes":14,"resident_snapshots":17,
                "max_branch_bytes":15,"max_branch_inodes":16},
            "backstore":{"HostFs":{"root":"/s","prefer_native_snapshots":false}},
            "overlay":{"enabled":false,"lower_root":null,"materialization":null,"ttl_ms":8},
            "security":{"enforce_posix_permissions":true,"default_uid":3,"default_gid":4,"root_bypass_permissions":true}}"#;
        let s = gather(json, &[("AGENTFS_FUSE_WRITE_THREADS", "3")], &[]).unwrap();
        assert_eq!(s.backstore, Backstore::HostFs { root: "/s".into(), prefer_reflinks: false });
        assert_eq!((s.ttl.attr.as_millis(), s.ttl.entry.as_millis(), s.ttl.negative.as_millis()), (5, 6, 7));
        assert_eq!(s.ttl.live.as_millis(), 8);
        assert_eq!((s.core.max_open_handles, s.core.max_branches, s.core.max_snapshots), (10, 11, 12));
        assert_eq!(s.core.resident_snapshots, 17);
        assert_eq!(s.core.quota, Quota { bytes: 13, inodes: 14 });
        assert_eq!(s.core.branch_quota, Quota { bytes: 15, inodes: 16 });
        assert_eq!((s.core.root_uid, s.core.root_gid, s.write_threads), (3, 4, 3));
        assert_eq!(s.data_path, DataPath::Exact);
    }

    #[test]
    fn a_wrong_key_is_named_in_one_line_whatever_is_in_it() {
        let error = gather(r#"{"limits":{"a\nb\u001b[31m":1}}"#, &[], &[]).unwrap_err();
        let words = format!("{error:#}");
        assert!(words.contains(r"a\nb\u{1b}[31m") && !words.chars().any(char::is_control), "{words}");
    }

    #[test]
    fn the_data_path_is_the_variables_then_the_files() {
        let path = |json: &str, env: &[(&str, &str)]| gather(json, env, &[]).unwrap().data_path;
        let write_back = r#"{"cache":{"writeback_cache":true}}"#;
        assert_eq!(path("{}", &[]), DataPath::Hybrid);
        assert_eq!(path(r#"{"limits":{"max_bytes":1}}"#, &[]), DataPath::Exact);
        assert_eq!(path(write_back, &[]), DataPath::WriteBack);
        assert_eq!(path(write_back, &[("AGENTFS_FUSE_DATA_PATH", "exact")]), DataPath::Exact);
        assert_eq!(
            path(r#"{"data_path":"write-back","cache":{"writeback_cache":true}}"#, &[]),
            DataPath::WriteBack
        );
        let error = gather("{}", &[("AGENTFS_FUSE_DATA_PATH", "fast")], &[]).unwrap_err().to_string();
        assert!(error.contains("fast") && error.contains("hybrid, exact, write-back"), "{error}");
    }

    #[test]
    fn what_would_not_work_is_refused_by_name() {
        for (json, named) in [
            (r#"{"cahce":{}}"#, "cahce"),
            (r#"{"cache":{"ttl":1}}"#, "ttl"),
            (r#"{"data_path":"quick"}"#, "quick"),
            (r#"{"data_path":"exact","cache":{"writeback_cache":true}}"#, "cache.writeback_cache"),
            (r#"{"overlay":{"enabled":true}}"#, "overlay.lower_root"),
            (r#"{"overlay":{"lower_root":"/x"}}"#, "overlay.lower_root"),
            (r#"{"security":{"root_bypass_permissions":false}}"#, "security.root_bypass_permissions"),
            (r#"{"backstore":"Floppy"}"#, "Floppy"),
        ] {
            let error = format!("{:#}", gather(json, &[], &[]).unwrap_err());
            assert!(error.contains(named), "{error}");
        }
        let error = gather("{}", &[("AGENTFS_FUSE_MAX_WRITE", "lots")], &[]).unwrap_err();
        assert!(error.to_string().contains("AGENTFS_FUSE_MAX_WRITE"));
    }

    #[test]
    fn a_store_is_named_after_its_mount_point_unless_one_is_given() {
        let s = gather("{}", &[], &[]).unwrap();
        let root = "/home/u/.local/state/agentfs/mnt-my%20vol".into();
        assert_eq!(s.backstore, Backstore::HostFs { root, prefer_reflinks: true });
        let s = gather(r#"{"backstore":"InMemory"}"#, &[], &[]).unwrap();
        assert_eq!(s.backstore, Backstore::Memory);
        let s = gather(r#"{"backstore":"InMemory"}"#, &[], &["--store", "/x"]).unwrap();
        assert_eq!(s.backstore, Backstore::HostFs { root: "/x".into(), prefer_reflinks: true });
    }
}
