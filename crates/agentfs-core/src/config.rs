//! What a volume can be told.

use crate::store::{PackLimits, Quota};

/// How the directory that a volume lies over comes into what is frozen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Materialization {
    /// Not at all: it is read there, and what others have changed fails.
    #[default]
    Lazy,
    /// All of it is copied, by sharing blocks where the host can.
    Eager,
}

/// Limits and the owner of a new root directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Files open at once.
    pub max_open_handles: u64,
    /// Branches, `main` among them.
    pub max_branches: usize,
    /// Snapshots.
    pub max_snapshots: usize,
    /// So many of the snapshots that were looked at last stay in memory, and so many of the newest.
    pub resident_snapshots: usize,
    /// What the volume may hold, its snapshots too.
    pub quota: Quota,
    /// What each branch may hold of its own: what it wrote since it was frozen last.
    pub branch_quota: Quota,
    /// The log is compacted when what came after its last checkpoint is larger than so many times that, and `log_slack`.
    pub log_factor: u64,
    /// Bytes of log that are not worth compacting.
    pub log_slack: u64,
    /// Files up to so many bytes lie in packs; 0: none does.
    pub small_file: u32,
    /// Frozen content of so many bytes, and more, is left where it is when the file is written to, where the host cannot
    /// share blocks: what is written lies over it in layers. Less is copied.
    pub layered_from: u64,
    /// When packs are full, and when they are emptied.
    pub packs: PackLimits,
    /// What a snapshot or branch of `main` has of the directory that the volume lies over.
    pub materialization: Materialization,
    /// A number for this run of the host's kernel: another than at the last mount means that what was not synced may be
    /// lost.
    pub boot: u128,
    /// Owner of the root directory when the volume is made.
    pub root_uid: u32,
    /// Group of the root directory when the volume is made.
    pub root_gid: u32,
    /// Permissions of the root directory when the volume is made.
    pub root_mode: u16,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            max_open_handles: 1 << 20,
            max_branches: (1 << 19) - 1,
            max_snapshots: 1 << 24,
            resident_snapshots: 1024,
            quota: Quota::NONE,
            branch_quota: Quota::NONE,
            log_factor: 4,
            log_slack: 4 << 20,
            small_file: 64 << 10,
            layered_from: 1 << 20,
            packs: PackLimits { size: 64 << 20, slack: 8 << 20 },
            materialization: Materialization::Lazy,
            boot: 0,
            root_uid: 0,
            root_gid: 0,
            root_mode: 0o755,
        }
    }
}
