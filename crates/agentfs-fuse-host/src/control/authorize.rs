//! Who may use the control file: the superuser and who mounted the volume. The file's mode says so too, but a
//! descriptor may be handed on: what counts is who asks.

use agentfs_core::{Caller, FsError, Result};

pub(super) fn authorize(caller: Caller, owner: u32) -> Result<()> {
    if caller.is_root() || caller.uid == owner {
        return Ok(());
    }
    Err(FsError::Refused(format!("only root and uid {owner}, who mounted the volume, may control it")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_refused() {
        assert!(authorize(Caller::ROOT, 1000).is_ok());
        assert!(authorize(Caller { uid: 1000, gid: 0, is_member: true }, 1000).is_ok());
        assert!(matches!(
            authorize(Caller { uid: 1001, gid: 1000, is_member: true }, 1000),
            Err(FsError::Refused(_))
        ));
    }
}
