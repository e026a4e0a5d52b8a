//! Who asks.

/// The process behind an operation, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Effective (filesystem) user.
    pub uid: u32,
    /// Effective (filesystem) group.
    pub gid: u32,
    /// Is it a member of the group of the file that it changes? Who is none, nor the superuser, leaves no sgid there.
    pub is_member: bool,
}

impl Caller {
    /// The superuser.
    pub const ROOT: Caller = Caller { uid: 0, gid: 0, is_member: true };

    /// Is it the superuser?
    pub fn is_root(self) -> bool {
        self.uid == 0
    }
}
