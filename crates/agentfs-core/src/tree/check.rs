//! Is a version sound? Link counts, reachability, parents: what must hold between inodes and names.

use std::collections::HashMap;

use super::Version;
use crate::types::{FileKind, InodeId};

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A name leads to an inode that is not there.
    #[error("directory {0:?} has a name that leads to inode {1:?}, which is missing")]
    DanglingEntry(InodeId, InodeId),
    /// An entry's kind is not its inode's.
    #[error("directory {0:?} calls inode {1:?} a {2:?}")]
    WrongKind(InodeId, InodeId, FileKind),
    /// A link count is wrong.
    #[error("inode {0:?} counts {1} links and has {2}")]
    LinkCount(InodeId, u32, u32),
    /// A directory lies elsewhere than it says.
    #[error("directory {0:?} lies in {1:?} and says {2:?}")]
    WrongParent(InodeId, InodeId, InodeId),
    /// The root cannot be reached from it, or no name leads to it.
    #[error("inode {0:?} cannot be reached from the root")]
    Unreachable(InodeId),
}

/// All faults of `version`, in no particular order.
pub fn check(version: &Version) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut links: HashMap<InodeId, u32> = HashMap::new();
    let mut reached = vec![InodeId::ROOT];
    while let Some(dir) = reached.pop() {
        let Some(directory) = version.get(dir).and_then(|inode| inode.directory()) else { continue };
        *links.entry(dir).or_default() += if dir == InodeId::ROOT { 2 } else { 1 };
        for (_, entry) in directory.iter() {
            let Some(child) = version.get(entry.ino()) else {
                faults.push(Fault::DanglingEntry(dir, entry.ino()));
                continue;
            };
            *links.entry(entry.ino()).or_default() += 1;
            if child.kind() != entry.kind() {
                faults.push(Fault::WrongKind(dir, entry.ino(), entry.kind()));
            }
            if let Some(inner) = child.directory() {
                *links.entry(dir).or_default() += 1;
                if inner.parent != dir {
                    faults.push(Fault::WrongParent(entry.ino(), dir, inner.parent));
                } else {
                    reached.push(entry.ino());
                }
            }
        }
    }
    faults.extend(version.iter().filter_map(|(ino, inode)| match links.get(&ino) {
        None => Some(Fault::Unreachable(ino)),
        Some(found) if *found != inode.meta.nlink => Some(Fault::LinkCount(ino, inode.meta.nlink, *found)),
        Some(_) => None,
    }));
    faults
}
