//! The edges of what a volume takes: the last value that fits, and the first that does not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at what goes wrong")]

use std::sync::Arc;

use agentfs_core::{
    Attr, Caller, Config, CreateMode, FileKind, FsCore, FsError, InodeId, Memory, Name, OpenMode, SetAttr,
    Unrecorded, ViewId, XattrMode,
};

const MAIN: ViewId = ViewId::MAIN;
const ROOT: InodeId = InodeId::ROOT;

fn volume(config: Config) -> FsCore {
    FsCore::new_volume(Arc::new(Memory::default()), Arc::new(Unrecorded), config).unwrap()
}

fn name(bytes: &[u8]) -> Name {
    Name::new(bytes).unwrap()
}

fn file(core: &FsCore, called: &[u8]) -> Attr {
    let what = CreateMode { kind: FileKind::File, mode: 0o644, umask: 0, rdev: 0 };
    core.create(MAIN, ROOT, &name(called), what, Caller::ROOT).unwrap()
}

#[test]
fn names_have_1_to_255_bytes_of_any_kind_but_slash_and_nul() {
    let core = volume(Config::default());
    for bytes in [vec![b'x'; 255], vec![0xff; 255], b"\x01".to_vec(), b"...".to_vec(), b" ".to_vec()] {
        let made = file(&core, &bytes);
        assert_eq!(core.lookup(MAIN, ROOT, &name(&bytes)).unwrap().unwrap().ino, made.ino);
    }
    assert!(matches!(Name::new(&[b'x'; 256]), Err(FsError::NameTooLong)));
    for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
        assert!(matches!(Name::new(bad), Err(FsError::InvalidArgument(_))), "{bad:?}");
    }
}

#[test]
fn symlink_targets_have_1_to_4095_bytes() {
    let core = volume(Config::default());
    let link = |called: &[u8], len| core.symlink(MAIN, ROOT, &name(called), &vec![b't'; len], Caller::ROOT);
    for (called, len) in [(b"one", 1), (b"all", 4095)] {
        let made = link(called, len).unwrap();
        assert_eq!((made.size, made.mode), (len as u64, 0o777));
        assert_eq!(core.readlink(MAIN, made.ino).unwrap().len(), len);
    }
    assert!(matches!(link(b"none", 0), Err(FsError::NotFound)));
    assert!(matches!(link(b"many", 4096), Err(FsError::NameTooLong)));
    let plain = file(&core, b"plain").ino;
    assert!(matches!(core.readlink(MAIN, plain), Err(FsError::InvalidArgument(_))));
}

#[test]
fn extended_attributes_hold_0_to_65536_bytes() {
    let core = volume(Config::default());
    let ino = file(&core, b"f").ino;
    let set = |len| core.setxattr(MAIN, ino, b"user.x", &vec![7; len], XattrMode::Any);
    for len in [0, 1, 65_536] {
        set(len).unwrap();
        assert_eq!(core.getxattr(MAIN, ino, b"user.x").unwrap().len(), len);
    }
    assert!(matches!(set(65_537), Err(FsError::AttributeTooLarge)));
    assert_eq!(core.getxattr(MAIN, ino, b"user.x").unwrap().len(), 65_536, "what failed changed nothing");
    for wrong in [&b"system.posix_acl_access"[..], b"user."] {
        let refused = core.setxattr(MAIN, ino, wrong, b"", XattrMode::Any);
        assert!(matches!(refused, Err(FsError::InvalidArgument(_))), "{wrong:?}");
    }
    for other in [&b"system.other"[..], b"nothing"] {
        let refused = core.setxattr(MAIN, ino, other, b"", XattrMode::Any);
        assert!(matches!(refused, Err(FsError::Unsupported(_))), "{other:?}");
    }
}

#[test]
fn files_end_at_the_largest_offset() {
    let core = volume(Config::default());
    let ino = file(&core, b"f").ino;
    let largest = i64::MAX as u64;
    let resize =
        |size| core.setattr(MAIN, ino, &SetAttr { size: Some(size), ..SetAttr::default() }, Caller::ROOT);
    assert_eq!(resize(largest).unwrap().size, largest);
    assert!(matches!(resize(largest + 1), Err(FsError::FileTooLarge)));
    resize(0).unwrap();
    let handle = core.open(MAIN, ino, OpenMode::Write, Caller::ROOT).unwrap();
    assert_eq!(core.write(handle, largest - 1, b"x", false).unwrap(), 1);
    assert!(matches!(core.write(handle, largest, b"x", false), Err(FsError::FileTooLarge)));
    assert!(matches!(core.write(handle, u64::MAX, b"x", false), Err(FsError::FileTooLarge)));
    assert_eq!(core.getattr(MAIN, ino).unwrap().size, largest);
}

#[test]
fn the_limit_of_open_handles_counts_those_open_at_once() {
    let core = volume(Config { max_open_handles: 3, ..Config::default() });
    let ino = file(&core, b"f").ino;
    let open = |mode| core.open(MAIN, ino, mode, Caller::ROOT);
    let handles: Vec<_> = (0..3).map(|_| open(OpenMode::Read).unwrap()).collect();
    assert!(matches!(open(OpenMode::Write), Err(FsError::TooManyHandles)));
    core.release(handles[1]).unwrap();
    assert!(matches!(core.release(handles[1]), Err(FsError::BadHandle)));
    open(OpenMode::Write).unwrap();
    assert!(matches!(open(OpenMode::Read), Err(FsError::TooManyHandles)));
    assert_eq!(core.status().unwrap().open_handles, 3);
}

/// An open that fails changes nothing.
#[test]
fn an_open_refused_for_the_limit_does_not_truncate() {
    let core = volume(Config { max_open_handles: 1, ..Config::default() });
    let ino = file(&core, b"f").ino;
    let handle = core.open(MAIN, ino, OpenMode::Write, Caller::ROOT).unwrap();
    core.write(handle, 0, b"bytes", false).unwrap();
    let refused = core.open(MAIN, ino, OpenMode::Truncate, Caller::ROOT);
    assert!(matches!(refused, Err(FsError::TooManyHandles)));
    assert_eq!(core.getattr(MAIN, ino).unwrap().size, 5);
}

#[test]
fn branches_are_counted_with_main() {
    let core = volume(Config { max_branches: 3, ..Config::default() });
    core.create_branch("main", Some("one")).unwrap();
    core.create_branch("one", Some("two")).unwrap();
    assert!(matches!(core.create_branch("main", None), Err(FsError::LimitReached(_))));
    core.delete_branch("two", false).unwrap();
    core.create_branch("main", Some("two")).unwrap();
    assert_eq!(core.status().unwrap().branches, 3);
}

#[test]
fn snapshots_are_counted() {
    let core = volume(Config { max_snapshots: 2, ..Config::default() });
    core.create_snapshot("main", Some("one")).unwrap();
    core.create_snapshot("main", Some("two")).unwrap();
    assert!(matches!(core.create_snapshot("main", None), Err(FsError::LimitReached(_))));
    core.delete_snapshot("one").unwrap();
    core.create_snapshot("main", Some("one")).unwrap();
    assert_eq!(core.status().unwrap().snapshots, 2);
}

#[test]
fn names_of_branches_and_snapshots_are_unique_each_and_free_again_once_deleted() {
    let core = volume(Config::default());
    core.create_snapshot("main", Some("x")).unwrap();
    assert!(matches!(core.create_snapshot("main", Some("x")), Err(FsError::NameTaken(_))));
    let long = "n".repeat(255);
    core.create_branch("main", Some(&long)).unwrap();
    for bad in ["", ".", "..", "a/b", "a\nb", &"n".repeat(256), &"0".repeat(32)] {
        assert!(matches!(core.create_branch("main", Some(bad)), Err(FsError::BadName(_))), "{bad:?}");
    }
    core.create_branch("main", Some("x")).unwrap();
    assert!(matches!(core.create_branch("x", None), Err(FsError::BadName(_))), "x means two things");
    core.delete_snapshot("x").unwrap();
    core.create_snapshot("x", Some("x")).unwrap();
    assert!(matches!(core.delete_branch("main", true), Err(FsError::Refused(_))));
}
