//! The edits that lead from one version to another. Costs what differs: shared parts are not looked at.

use std::sync::Arc;

use imbl::ordmap::DiffItem;

use super::{Directory, Edit, Inode, Version};
use crate::types::InodeId;

/// Edits that make `to` out of `from`; without `from`, out of nothing.
pub fn diff(from: Option<&Version>, to: &Version) -> Vec<Edit> {
    let nothing = Version::nothing();
    let from = from.unwrap_or(&nothing);
    let (mut edits, mut dropped) = (Vec::new(), Vec::new());
    for item in from.inodes.diff(&to.inodes) {
        match item {
            DiffItem::Add(ino, inode) => add(*ino, inode, &mut edits),
            DiffItem::Update { old, new } => change(*new.0, old.1, new.1, &mut edits),
            DiffItem::Remove(ino, _) => dropped.push(Edit::Drop(*ino)),
        }
    }
    edits.extend(dropped);
    edits
}

fn add(ino: InodeId, inode: &Arc<Inode>, edits: &mut Vec<Edit>) {
    edits.push(Edit::Put(ino, inode.clone()));
    let entries = inode.directory().into_iter().flat_map(Directory::iter);
    edits.extend(entries.map(|(name, entry)| Edit::Link(ino, name.clone(), entry)));
}

fn change(ino: InodeId, old: &Inode, new: &Inode, edits: &mut Vec<Edit>) {
    if old.meta != new.meta {
        edits.push(Edit::Meta(ino, new.meta));
    }
    if old.xattrs != new.xattrs {
        edits.push(Edit::Xattrs(ino, new.xattrs.clone()));
    }
    if let (Some(old), Some(new)) = (old.content(), new.content())
        && !old.same(new)
    {
        edits.push(Edit::Content(ino, new.clone()));
    }
    if let (Some(old), Some(new)) = (old.directory(), new.directory()) {
        if old.parent != new.parent {
            edits.push(Edit::Parent(ino, new.parent));
        }
        edits.extend(old.changes_to(new).map(|(name, entry)| match entry {
            Some(entry) => Edit::Link(ino, name.clone(), entry),
            None => Edit::Unlink(ino, name.clone()),
        }));
    }
}
