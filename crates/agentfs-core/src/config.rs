//! What a volume can be told.

/// Limits and the owner of a new root directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Files open at once.
    pub max_open_handles: u64,
    /// Branches, `main` among them.
    pub max_branches: usize,
    /// Snapshots.
    pub max_snapshots: usize,
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
            max_branches: 1 << 19,
            max_snapshots: 1 << 24,
            root_uid: 0,
            root_gid: 0,
            root_mode: 0o755,
        }
    }
}
