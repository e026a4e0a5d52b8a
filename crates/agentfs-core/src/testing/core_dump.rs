//! The dump of a tree of the core, seen through its own calls, which must agree among themselves.

use super::compare::Stat;
use super::dump::{Bytes, Dump, Node, size_counts};
use crate::store::Seek;
use crate::types::{Attr, Caller, FileKind, HandleId, InodeId, Name, ViewId};
use crate::{FsCore, OpenMode};

/// The tree that a view shows.
///
/// # Panics
/// When calls contradict each other: listings, lookups, attributes, data and holes.
pub fn dump(core: &FsCore, view: ViewId) -> Dump {
    let mut dump = Dump::new();
    let root = core.getattr(view, InodeId::ROOT).expect("a view has a root");
    dump_below(core, view, (Vec::new(), InodeId::ROOT), &root, &mut dump);
    dump
}

pub(super) fn stat(attr: &Attr) -> Stat {
    let size = if size_counts(attr.kind) { attr.size } else { 0 };
    Stat { kind: attr.kind, mode: attr.mode, nlink: u64::from(attr.nlink), size }
}

fn dump_below(core: &FsCore, view: ViewId, (path, parent): (Vec<u8>, InodeId), attr: &Attr, into: &mut Dump) {
    let ino = attr.ino;
    let bytes = match attr.kind {
        FileKind::File => content(core, view, attr),
        FileKind::Symlink => core.readlink(view, ino).expect("a link has a target").to_vec(),
        FileKind::Directory => {
            for (name, child) in list(core, view, ino, parent) {
                let path = if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
                dump_below(core, view, (path, ino), &child, into);
            }
            Vec::new()
        }
        _ => Vec::new(),
    };
    let value = |name: &[u8]| Bytes(core.getxattr(view, ino, name).expect("a listed attribute").to_vec());
    let names = core.listxattr(view, ino).expect("attributes can be listed");
    let xattrs = names.iter().map(|name| (name.to_vec(), value(name))).collect();
    let mtime = Some((attr.mtime.secs, attr.mtime.nanos));
    into.insert(path, Node { stat: stat(attr), ino: ino.0, bytes: Bytes(bytes), xattrs, mtime });
}

/// The entries of a directory but `.` and `..`, as both ways of listing and `lookup` agree on them.
fn list(core: &FsCore, view: ViewId, dir: InodeId, parent: InodeId) -> Vec<(Vec<u8>, Attr)> {
    let (mut plain, mut plus) = (Vec::new(), Vec::new());
    core.readdir(view, dir, 0, |entry| {
        plain.push((entry.name.to_vec(), entry.ino, entry.kind));
        true
    })
    .expect("a directory can be listed");
    core.readdirplus(view, dir, 0, |entry, attr| {
        plus.push(((entry.name.to_vec(), entry.ino, entry.kind), attr));
        true
    })
    .expect("a directory can be listed with attributes");
    assert_eq!(plain, plus.iter().map(|(entry, _)| entry.clone()).collect::<Vec<_>>());
    let kind = FileKind::Directory;
    assert_eq!(plain[..2], [(b".".to_vec(), dir, kind), (b"..".to_vec(), parent, kind)]);
    plus.into_iter()
        .skip(2)
        .map(|(entry, attr)| (entry.0.clone(), looked_up(core, view, dir, &entry, attr)))
        .collect()
}

fn looked_up(
    core: &FsCore,
    view: ViewId,
    dir: InodeId,
    (name, ino, kind): &(Vec<u8>, InodeId, FileKind),
    listed: Option<Attr>,
) -> Attr {
    let name = Name::new(name).expect("a listed name is a name");
    let attr = core.lookup(view, dir, &name).expect("lookup works").expect("a listed name is found");
    let listed = listed.expect("a listed name has attributes");
    assert_eq!((*ino, *kind, listed.ino, stat(&listed)), (attr.ino, attr.kind, attr.ino, stat(&attr)));
    attr
}

fn content(core: &FsCore, view: ViewId, attr: &Attr) -> Vec<u8> {
    let handle = core.open(view, attr.ino, OpenMode::Read, Caller::ROOT).expect("a file opens");
    let size = usize::try_from(attr.size).expect("a small file");
    let mut bytes = vec![0xAA; size + 100];
    let read = core.read(handle, 0, &mut bytes).expect("a file can be read");
    bytes.truncate(read);
    assert_eq!(read, size, "the bytes that inode {:?} has and the size it shows", attr.ino);
    check_holes(core, handle, &bytes);
    core.release(handle).expect("the handle is open");
    bytes
}

/// Outside of what `SEEK_DATA` and `SEEK_HOLE` call data all is zero.
fn check_holes(core: &FsCore, handle: HandleId, bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        let data = core.seek(handle, Seek::Data, at as u64).map_or(bytes.len(), |data| data as usize);
        assert!((at..=bytes.len()).contains(&data) && bytes[at..data].iter().all(|byte| *byte == 0));
        if data == bytes.len() {
            break;
        }
        let hole = core.seek(handle, Seek::Hole, data as u64).expect("the end is a hole") as usize;
        assert!((data + 1..=bytes.len()).contains(&hole), "data at {data} ends at {hole}");
        at = hole;
    }
}
