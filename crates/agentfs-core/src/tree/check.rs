//! Is a version sound? Link counts, reachability, parents: what must hold between inodes and names.

use std::collections::{HashMap, HashSet};

use super::Version;
use crate::store::Content;
use crate::types::{FileKind, InodeId, Name};

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
    /// A directory has another name already.
    #[error("directory {0:?} has a second name, {1:?}, for directory {2:?}")]
    SecondName(InodeId, Name, InodeId),
    /// Content in layers goes on behind the end of its file.
    #[error("inode {0:?} has {1} bytes and content up to byte {2}")]
    ContentBehindEnd(InodeId, u64, u64),
    /// The root cannot be reached from it, or no name leads to it.
    #[error("inode {0:?} cannot be reached from the root")]
    Unreachable(InodeId),
}

/// A directory with a name where it does not say that it lies, or where it has one already.
struct Stray {
    dir: InodeId,
    name: Name,
    ino: InodeId,
    says: InodeId,
}

/// All faults of `version`, in no particular order.
pub fn check(version: &Version) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut links: HashMap<InodeId, u32> = HashMap::new();
    let (mut next, mut seen) = (vec![InodeId::ROOT], HashSet::from([InodeId::ROOT]));
    let mut strays: Vec<Stray> = Vec::new();
    // First all that lies where it says, then the rest: with two names, the one that is right counts.
    loop {
        while let Some(dir) = next.pop() {
            let Some(directory) = version.get(dir).and_then(|inode| inode.directory()) else { continue };
            *links.entry(dir).or_default() += if dir == InodeId::ROOT { 2 } else { 1 };
            for (name, entry) in directory.iter() {
                let ino = entry.ino();
                let Some(child) = version.get(ino) else {
                    faults.push(Fault::DanglingEntry(dir, ino));
                    continue;
                };
                if child.kind() != entry.kind() {
                    faults.push(Fault::WrongKind(dir, ino, entry.kind()));
                }
                match child.directory() {
                    None => *links.entry(ino).or_default() += 1,
                    Some(inner) if inner.parent == dir && seen.insert(ino) => {
                        *links.entry(ino).or_default() += 1;
                        *links.entry(dir).or_default() += 1;
                        next.push(ino);
                    }
                    Some(inner) => strays.push(Stray { dir, name: name.clone(), ino, says: inner.parent }),
                }
            }
        }
        let Some(Stray { dir, name, ino, says }) = strays.pop() else { break };
        if seen.insert(ino) {
            faults.push(Fault::WrongParent(ino, dir, says));
            *links.entry(ino).or_default() += 1;
            *links.entry(dir).or_default() += 1;
            next.push(ino);
        } else {
            faults.push(Fault::SecondName(dir, name, ino));
        }
    }
    faults.extend(version.iter().filter_map(|(ino, inode)| match inode.content() {
        Some(Content::Layered(layers)) if layers.end() > inode.meta.size => {
            Some(Fault::ContentBehindEnd(ino, inode.meta.size, layers.end()))
        }
        _ => None,
    }));
    faults.extend(version.iter().filter_map(|(ino, inode)| match links.get(&ino) {
        // The lower directory may have names for it, of which nothing is recorded.
        None if ino.is_lower() && inode.directory().is_none() => None,
        Some(_) if inode.directory().is_some() && inode.lower.is_some() => None,
        Some(found) if ino.is_lower() && *found < inode.meta.nlink => None,
        None => Some(Fault::Unreachable(ino)),
        Some(found) if *found != inode.meta.nlink => Some(Fault::LinkCount(ino, inode.meta.nlink, *found)),
        Some(_) => None,
    }));
    faults
}
