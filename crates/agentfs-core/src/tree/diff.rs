//! The edits that lead from one version to another. Costs what differs: shared parts are not looked at.

use std::sync::Arc;

use imbl::ordmap::DiffItem;

use super::{Body, Directory, Edit, Inode, Version};
use crate::store::{Content, Layers};
use crate::types::InodeId;

/// Shows `visit` the inodes of `to` that are not, or not the same, in `from`.
pub fn visit_new(from: Option<&Version>, to: &Version, visit: &mut dyn FnMut(InodeId, &Arc<Inode>)) {
    let nothing = Version::nothing();
    for item in from.unwrap_or(&nothing).inodes.diff(&to.inodes) {
        match item {
            DiffItem::Add(ino, inode) | DiffItem::Update { new: (ino, inode), .. } => visit(*ino, inode),
            DiffItem::Remove(..) => {}
        }
    }
}

/// The inodes that are not, or not the same, in both.
pub fn differing(a: &Version, b: &Version) -> Vec<InodeId> {
    let ino = |item| match item {
        DiffItem::Add(ino, _) | DiffItem::Remove(ino, _) | DiffItem::Update { new: (ino, _), .. } => *ino,
    };
    a.inodes.diff(&b.inodes).map(ino).collect()
}

/// Shows `visit` edits that make `to` out of `from`; without `from`, out of nothing. Inodes come before names: what a name
/// leads to is there then.
pub fn diff(from: Option<&Version>, to: &Version, visit: &mut dyn FnMut(Edit)) {
    let nothing = Version::nothing();
    let from = from.unwrap_or(&nothing);
    let mut dropped = Vec::new();
    for item in from.inodes.diff(&to.inodes) {
        match item {
            DiffItem::Add(ino, inode) => put(*ino, inode, visit),
            DiffItem::Update { old, new } => change(*new.0, old.1, new.1, visit),
            DiffItem::Remove(ino, _) => dropped.push(Edit::Drop(*ino)),
        }
    }
    for item in from.inodes.diff(&to.inodes) {
        match item {
            DiffItem::Add(ino, inode) => name_all(*ino, inode, visit),
            DiffItem::Update { old, new } => rename(*new.0, old.1, new.1, visit),
            DiffItem::Remove(..) => {}
        }
    }
    dropped.into_iter().for_each(visit);
}

/// Pieces of content that go into one edit.
const PIECES_PER_EDIT: usize = 8192;

fn put(ino: InodeId, inode: &Arc<Inode>, visit: &mut dyn FnMut(Edit)) {
    match inode.content() {
        // An edit goes into one record, which is not to grow without end.
        Some(Content::Layered(layers)) if layers.len() > PIECES_PER_EDIT => {
            let nothing = Layers::default();
            let body = Body::File(Content::Layered(Arc::new(nothing.clone())));
            visit(Edit::Put(ino, Arc::new(Inode { body, ..Inode::clone(inode) })));
            change_layers(ino, &nothing, layers, visit);
        }
        _ => visit(Edit::Put(ino, inode.clone())),
    }
}

fn change_layers(ino: InodeId, old: &Layers, new: &Layers, visit: &mut dyn FnMut(Edit)) {
    let changes = old.changes_to(new);
    changes.chunks(PIECES_PER_EDIT).for_each(|some| visit(Edit::Layers(ino, some.to_vec())));
}

fn name_all(ino: InodeId, inode: &Inode, visit: &mut dyn FnMut(Edit)) {
    let entries = inode.directory().into_iter().flat_map(Directory::iter_any);
    entries.map(|(name, entry)| Edit::Link(ino, name.clone(), entry)).for_each(visit);
}

fn rename(ino: InodeId, old: &Inode, new: &Inode, visit: &mut dyn FnMut(Edit)) {
    let (Some(old), Some(new)) = (old.directory(), new.directory()) else { return };
    old.changes_to(new).for_each(|(name, entry)| match entry {
        Some(entry) => visit(Edit::Link(ino, name.clone(), entry)),
        None => visit(Edit::Unlink(ino, name.clone())),
    });
}

fn change(ino: InodeId, old: &Inode, new: &Inode, visit: &mut dyn FnMut(Edit)) {
    if old.meta != new.meta {
        visit(Edit::Meta(ino, new.meta));
    }
    if old.xattrs != new.xattrs {
        visit(Edit::Xattrs(ino, new.xattrs.clone()));
    }
    if old.lower != new.lower {
        visit(Edit::Origin(ino, new.lower.clone()));
    }
    match (old.content(), new.content()) {
        (Some(Content::Layered(old)), Some(Content::Layered(new))) => change_layers(ino, old, new, visit),
        (Some(old), Some(new)) if !old.same(new) => visit(Edit::Content(ino, new.clone())),
        _ => {}
    }
    if let (Some(old), Some(new)) = (old.directory(), new.directory())
        && old.parent != new.parent
    {
        visit(Edit::Parent(ino, new.parent));
    }
}
