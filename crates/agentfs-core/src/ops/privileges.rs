//! What a change of content or owner takes from a file: suid, sgid, file capabilities.

use crate::branch::Draft;
use crate::error::Result;
use crate::tree::Inode;
use crate::types::InodeId;

const SUID: u16 = 0o4000;
const SGID: u16 = 0o2000;
const GROUP_EXEC: u16 = 0o010;
const CAPABILITIES: &[u8] = b"security.capability";

/// Has the file anything that [`strip`] takes?
pub(super) fn any(inode: &Inode) -> bool {
    inode.meta.mode != stripped(inode.meta.mode) || has_capabilities(inode)
}

fn has_capabilities(inode: &Inode) -> bool {
    inode.xattrs.as_ref().is_some_and(|xattrs| xattrs.contains_key(CAPABILITIES))
}

/// Without suid; without sgid where it means one (without group execution it once meant locking).
fn stripped(mode: u16) -> u16 {
    let sgid = if mode & GROUP_EXEC != 0 { SGID } else { 0 };
    mode & !(SUID | sgid)
}

/// Clears suid, sgid and file capabilities.
pub(super) fn strip(draft: &mut Draft<'_>, ino: InodeId) -> Result<()> {
    let inode = draft.inode(ino)?;
    if inode.meta.mode != stripped(inode.meta.mode) {
        let meta = draft.meta(ino)?;
        meta.mode = stripped(meta.mode);
    }
    strip_capabilities(draft, ino)
}

/// Clears file capabilities, which no write leaves, whoever writes.
pub(super) fn strip_capabilities(draft: &mut Draft<'_>, ino: InodeId) -> Result<()> {
    let inode = draft.inode(ino)?;
    if has_capabilities(inode) {
        let mut xattrs = draft.xattrs(ino)?;
        xattrs.remove(CAPABILITIES);
        draft.set_xattrs(ino, xattrs);
    }
    Ok(())
}
