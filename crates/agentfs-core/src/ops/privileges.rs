//! What a change of content or owner takes from a file: suid, sgid, file capabilities.

use crate::branch::Draft;
use crate::error::Result;
use crate::tree::Inode;
use crate::types::{Caller, InodeId};

const SUID: u16 = 0o4000;
const SGID: u16 = 0o2000;
const GROUP_EXEC: u16 = 0o010;
const CAPABILITIES: &[u8] = b"security.capability";

/// What a change of content takes from a file, beside file capabilities; each takes what those before do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strip {
    /// Nothing: who changes it may keep all.
    Nothing,
    /// suid, and sgid where it means one.
    Ids,
    /// sgid also where the group may not execute: who changes it is no member of the group.
    AllIds,
}

impl From<bool> for Strip {
    /// As the kernel asks for it, of a member of the group.
    fn from(strip: bool) -> Strip {
        if strip { Strip::Ids } else { Strip::Nothing }
    }
}

impl Strip {
    /// What it takes when `caller` changes the content.
    pub(super) fn by(caller: Caller) -> Strip {
        match caller {
            root if root.is_root() => Strip::Nothing,
            Caller { is_member: true, .. } => Strip::Ids,
            _ => Strip::AllIds,
        }
    }
}

fn has_capabilities(inode: &Inode) -> bool {
    inode.xattrs.as_ref().is_some_and(|xattrs| xattrs.contains_key(CAPABILITIES))
}

/// Without suid; without sgid where it means one (without group execution it once meant locking), or anywhere.
fn stripped(mode: u16, strip: Strip) -> u16 {
    let means_one = mode & GROUP_EXEC != 0 || strip == Strip::AllIds;
    mode & !(SUID | if means_one { SGID } else { 0 })
}

/// Clears suid, sgid and file capabilities.
pub(super) fn strip(draft: &mut Draft<'_>, ino: InodeId, strip: Strip) -> Result<()> {
    let inode = draft.inode(ino)?;
    if strip != Strip::Nothing && inode.meta.mode != stripped(inode.meta.mode, strip) {
        let meta = draft.meta(ino)?;
        meta.mode = stripped(meta.mode, strip);
    }
    strip_capabilities(draft, ino)
}

/// Clears file capabilities, which no write leaves, whoever writes.
fn strip_capabilities(draft: &mut Draft<'_>, ino: InodeId) -> Result<()> {
    let inode = draft.inode(ino)?;
    if has_capabilities(inode) {
        let mut xattrs = draft.xattrs(ino)?;
        xattrs.remove(CAPABILITIES);
        draft.set_xattrs(ino, xattrs);
    }
    Ok(())
}
