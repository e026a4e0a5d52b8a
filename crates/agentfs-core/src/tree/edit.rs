//! The only way a version changes. An operation becomes a list of edits, each a value to put and
//! not a step to take: applied twice they leave the same, and a log of them is the version's history.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use super::homes::Home;
use super::{Body, Directory, Entry, Inode, LowerEntry, Meta, Origin, Replaces, Version, Xattrs};
use crate::store::{Change, Content};
use crate::types::{InodeId, Name};

/// What a branch has beside its version.
#[derive(Default)]
pub struct Aside {
    /// Inodes without a name that are still open or remembered by the kernel. No version holds them.
    pub orphans: HashMap<InodeId, Arc<Inode>>,
    /// Files whose size and times are not recorded at each write, because their objects are written in place: after a
    /// crash the store is asked.
    pub dirty: HashSet<InodeId>,
}

/// A change of one value of a version.
#[derive(Clone, Debug)]
pub enum Edit {
    /// A new inode.
    Put(InodeId, Arc<Inode>),
    /// Its attributes are now these.
    Meta(InodeId, Meta),
    /// Its bytes are now these.
    Content(InodeId, Content),
    /// Its extended attributes are now these.
    Xattrs(InodeId, Option<Arc<Xattrs>>),
    /// It came from there in the lower directory.
    Origin(InodeId, Option<Arc<Origin>>),
    /// The directory now lies in that one.
    Parent(InodeId, InodeId),
    /// In this directory, the name leads there.
    Link(InodeId, Name, Entry),
    /// In this directory, the name is gone.
    Unlink(InodeId, Name),
    /// The last name is gone: the inode leaves the version and becomes an orphan.
    Drop(InodeId),
    /// Its object is written in place: its size and times are from now on the object's.
    Dirty(InodeId),
    /// It is no longer: they are those recorded.
    Clean(InodeId),
    /// Of its content, which is in layers, these stretches are now made of this.
    Layers(InodeId, Vec<Change>),
    /// It continues these files from now on.
    Replaces(InodeId, Replaces),
    /// At this path of the lower directory the version relies on this; on nothing any more.
    LowerEntry(Arc<[u8]>, Option<LowerEntry>),
}

impl Edit {
    /// Carries the edit out. What it speaks of is there when the operation that made it checked so;
    /// otherwise nothing happens.
    pub fn apply(self, version: &mut Version, aside: &mut Aside) {
        match self {
            Edit::Put(ino, inode) => {
                version.inodes.insert(ino, inode);
            }
            Edit::Drop(ino) => {
                aside.dirty.remove(&ino);
                let Some(inode) = version.inodes.remove(&ino) else { return };
                // Of a directory that goes in a checkpoint the names are not taken away one by one.
                for (name, entry) in inode.directory().into_iter().flat_map(Directory::iter) {
                    let home = Directory::place_of(name).map(|hash| Home { dir: ino, hash });
                    if let Some(home) = home {
                        change(version, &mut aside.orphans, entry.ino(), |inode| inode.homes.remove(home));
                    }
                }
                aside.orphans.insert(ino, inode);
            }
            Edit::Dirty(ino) => {
                aside.dirty.insert(ino);
            }
            Edit::Clean(ino) => {
                aside.dirty.remove(&ino);
            }
            Edit::Meta(ino, meta) => change(version, &mut aside.orphans, ino, |inode| inode.meta = meta),
            Edit::Content(ino, content) => {
                change(version, &mut aside.orphans, ino, |inode| inode.body = Body::File(content));
            }
            Edit::Layers(ino, changes) => change(version, &mut aside.orphans, ino, |inode| {
                // Repeated behind a checkpoint, what came before other content meets that.
                if let Body::File(Content::Layered(layers)) = &mut inode.body {
                    let layers = Arc::make_mut(layers);
                    changes.iter().for_each(|change| layers.apply(change));
                }
            }),
            Edit::Xattrs(ino, xattrs) => {
                change(version, &mut aside.orphans, ino, |inode| inode.xattrs = xattrs)
            }
            Edit::Origin(ino, origin) => {
                change(version, &mut aside.orphans, ino, |inode| inode.lower = origin)
            }
            Edit::Parent(ino, parent) => change(version, &mut aside.orphans, ino, |inode| {
                if let Body::Directory(directory) = &mut inode.body {
                    directory.parent = parent;
                }
            }),
            Edit::Link(dir, name, entry) => {
                rename(version, aside, dir, Some(entry), |directory| directory.insert(&name, entry));
            }
            Edit::Unlink(dir, name) => rename(version, aside, dir, None, |directory| directory.remove(&name)),
            Edit::Replaces(ino, replaces) => {
                change(version, &mut aside.orphans, ino, |inode| inode.replaces = replaces);
            }
            Edit::LowerEntry(path, Some(entry)) => {
                version.lower_entries.insert(path, entry);
            }
            Edit::LowerEntry(path, None) => {
                version.lower_entries.remove(&path);
            }
        }
    }
}

/// Changes an entry of a directory, and tells what it led to and what it leads to now.
fn rename(
    version: &mut Version,
    aside: &mut Aside,
    dir: InodeId,
    now: Option<Entry>,
    edit: impl FnOnce(&mut Directory) -> (Option<NonZeroU64>, Option<Entry>),
) {
    let (mut place, mut before) = (None, None);
    change(version, &mut aside.orphans, dir, |inode| {
        if let Body::Directory(directory) = &mut inode.body {
            (place, before) = edit(directory);
        }
    });
    let Some(home) = place.map(|hash| Home { dir, hash }) else { return };
    let inode = |entry: Option<Entry>| entry.filter(|entry| !entry.is_whiteout()).map(Entry::ino);
    let (before, now) = (inode(before), inode(now));
    let has = |version: &Version, aside: &Aside, ino: InodeId| {
        let inode = version.get(ino).or_else(|| aside.orphans.get(&ino));
        inode.is_some_and(|inode| inode.homes.has(home))
    };
    if let Some(ino) = before.filter(|ino| now != Some(*ino) && has(version, aside, *ino)) {
        change(version, &mut aside.orphans, ino, |inode| inode.homes.remove(home));
    }
    if let Some(ino) = now.filter(|ino| !has(version, aside, *ino)) {
        change(version, &mut aside.orphans, ino, |inode| inode.homes.add(home));
    }
}

/// Changes an inode in place where this version alone holds it, in a copy where others do.
fn change(
    version: &mut Version,
    orphans: &mut HashMap<InodeId, Arc<Inode>>,
    ino: InodeId,
    edit: impl FnOnce(&mut Inode),
) {
    let found = version.inodes.get_mut(&ino).or_else(|| orphans.get_mut(&ino));
    if let Some(inode) = found {
        edit(Arc::make_mut(inode));
    }
}
