//! What snapshots and branches show of files that are open for writing when they are made.

#![allow(clippy::unwrap_used, reason = "a test stops at what goes wrong")]

use std::sync::Arc;

use agentfs_core::{
    Attr, Caller, Config, CreateMode, FileKind, FsCore, InodeId, Memory, Name, OpenMode, Unrecorded, ViewId,
};

const LEN: u64 = 100_000;

/// A volume whose branch `grown` and snapshot `taken` were made while a file was open and written; that file as each
/// shows it, and as `main` does.
fn made_while_writing() -> [Attr; 3] {
    let core =
        FsCore::new_volume(Arc::new(Memory::default()), Arc::new(Unrecorded), Config::default()).unwrap();
    let what = CreateMode { kind: FileKind::File, mode: 0o644, umask: 0, rdev: 0 };
    let name = Name::new(b"f").unwrap();
    let ino = core.create(ViewId::MAIN, InodeId::ROOT, &name, what, Caller::ROOT).unwrap().ino;
    let handle = core.open(ViewId::MAIN, ino, OpenMode::Write, Caller::ROOT).unwrap();
    core.write(handle, 0, &vec![1; LEN as usize], false).unwrap();
    let grown = core.create_branch("main", Some("grown")).unwrap().view;
    let taken = core.create_snapshot("main", Some("taken")).unwrap().id;
    let taken = core.enter_snapshot(taken, InodeId::ROOT).unwrap();
    core.release(handle).unwrap();
    [grown, taken, ViewId::MAIN].map(|view| core.getattr(view, ino).unwrap())
}

#[test]
fn they_show_the_size_that_was_written() {
    assert_eq!(made_while_writing().map(|attr| attr.size), [LEN; 3]);
}

/// Archivers take a file that holds no space for one big hole.
#[test]
fn they_show_the_space_that_is_held() {
    let blocks = made_while_writing().map(|attr| attr.blocks);
    assert!(blocks.iter().all(|blocks| *blocks * 512 >= LEN), "{blocks:?}");
}
