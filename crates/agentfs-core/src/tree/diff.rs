//! The edits that lead from one version to another. Costs what differs: shared parts are not looked at.

use std::sync::Arc;

use imbl::ordmap::DiffItem;

use super::{Body, Directory, Edit, Entry, Inode, Version};
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
            DiffItem::Update { old, new } if is_another(*new.0, old.1, new.1) => {
                visit(Edit::Drop(*new.0));
                put(*new.0, new.1, visit);
            }
            DiffItem::Update { old, new } => change(*new.0, old.1, new.1, visit),
            DiffItem::Remove(ino, _) => dropped.push(Edit::Drop(*ino)),
        }
    }
    for item in from.inodes.diff(&to.inodes) {
        match item {
            DiffItem::Add(ino, inode) => name_all(*ino, inode, visit),
            DiffItem::Update { old, new } if is_another(*new.0, old.1, new.1) => {
                name_all(*new.0, new.1, visit);
                // Put anew, it does not know any more where it is.
                let entry = Entry::new(*new.0, new.1.kind());
                to.places(*new.0).into_iter().for_each(|(dir, name)| visit(Edit::Link(dir, name, entry)));
            }
            DiffItem::Update { old, new } => rename(*new.0, old.1, new.1, visit),
            DiffItem::Remove(..) => {}
        }
    }
    dropped.into_iter().for_each(&mut *visit);
    for item in from.lower_entries.diff(&to.lower_entries) {
        match item {
            DiffItem::Add(path, entry) | DiffItem::Update { new: (path, entry), .. } => {
                visit(Edit::LowerEntry(path.clone(), Some(*entry)));
            }
            DiffItem::Remove(path, _) => visit(Edit::LowerEntry(path.clone(), None)),
        }
    }
}

/// Is it another file, which a merge gave the number of one that was gone? No edit makes the one of the other.
fn is_another(ino: InodeId, old: &Inode, new: &Inode) -> bool {
    let has = |identity| new.identities(ino).any(|known| known == identity);
    !old.identities(ino).all(has) || old.kind() != new.kind()
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
    if old.replaces != new.replaces {
        visit(Edit::Replaces(ino, new.replaces.clone()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Aside, Meta, Replaces, Times};
    use crate::types::{FileKind, Name, Timestamp};

    const FILE: InodeId = InodeId(100);
    const DIRECTORY: InodeId = InodeId(101);
    const INSIDE: InodeId = InodeId(102);

    fn inode(body: Body, replaces: u64) -> Arc<Inode> {
        let meta = Meta {
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            times: Times::all(Timestamp::default()),
            size: 0,
            blocks: 0,
        };
        Arc::new(Inode { replaces: Replaces::all([InodeId(replaces)]), ..Inode::new(meta, body) })
    }

    fn version(edits: Vec<Edit>) -> Version {
        let mut version = Version::new(0o755, 0, 0, Timestamp::default());
        edits.into_iter().for_each(|edit| edit.apply(&mut version, &mut Aside::default()));
        version
    }

    fn link(dir: InodeId, name: &str, ino: InodeId, kind: FileKind) -> Edit {
        Edit::Link(dir, Name::new(name.as_bytes()).expect("a name"), Entry::new(ino, kind))
    }

    fn sorted(mut places: Vec<(InodeId, Name)>) -> Vec<(InodeId, Name)> {
        places.sort();
        places
    }

    /// A number that a merge gave to another file: the difference says which it goes on, and where it is.
    #[test]
    fn another_file_of_the_same_number_is_told_apart() {
        let directory = || Body::Directory(Directory::new(InodeId::ROOT));
        let begin = |replaces: u64| {
            vec![
                Edit::Put(FILE, inode(Body::File(Content::Hole), replaces)),
                Edit::Put(DIRECTORY, inode(directory(), replaces)),
                Edit::Put(INSIDE, inode(Body::File(Content::Hole), 0)),
                link(InodeId::ROOT, "f", FILE, FileKind::File),
                link(InodeId::ROOT, "d", DIRECTORY, FileKind::Directory),
            ]
        };
        let mut before = begin(0);
        before.extend([
            link(DIRECTORY, "old", INSIDE, FileKind::File),
            link(InodeId::ROOT, "old", INSIDE, FileKind::File),
        ]);
        let mut after = begin(77);
        after.extend([
            link(DIRECTORY, "new", FILE, FileKind::File),
            link(InodeId::ROOT, "old", INSIDE, FileKind::File),
        ]);
        let (before, after) = (version(before), version(after));
        for (from, to) in [(&before, &after), (&after, &before)] {
            let (mut made_of, mut aside) = (from.clone(), Aside::default());
            diff(Some(from), to, &mut |edit| edit.apply(&mut made_of, &mut aside));
            assert!(made_of.leads_back(), "each inode knows where its names are");
            for ino in [FILE, DIRECTORY, INSIDE] {
                let (made, wanted) =
                    (made_of.get(ino).expect("it is there"), to.get(ino).expect("it is there"));
                assert_eq!((&made.replaces, &made.body), (&wanted.replaces, &wanted.body));
                assert_eq!(sorted(made_of.places(ino)), sorted(to.places(ino)));
            }
        }
    }
}
