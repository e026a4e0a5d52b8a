//! Names in the root of a tree that belong to the volume.

/// The directory that leads to the control file, branches and snapshots.
pub const CONTROL_DIRECTORY: &str = ".agentfs";

/// The directory in which `apply` keeps files that are not in their places yet, in the directory that it writes to.
pub const APPLY_DIRECTORY: &str = ".agentfs-apply";

/// What a volume shows of nothing that it lies over, and `apply` neither writes nor removes.
pub const CLAIMED: [&str; 2] = [CONTROL_DIRECTORY, APPLY_DIRECTORY];
