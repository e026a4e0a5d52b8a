//! A large directory listed in pages while names come and go: what stays is shown exactly once.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test stops at what goes wrong")]

use std::collections::HashMap;
use std::sync::Arc;

use agentfs_core::{Caller, Config, CreateMode, FileKind, FsCore, InodeId, Memory, Name, Unrecorded, ViewId};

const ENTRIES: u32 = 100_000;
const PAGE: usize = 500;
const MAIN: ViewId = ViewId::MAIN;
const ROOT: InodeId = InodeId::ROOT;

fn named(prefix: &str, number: u32) -> Name {
    Name::new(format!("{prefix}{number}").as_bytes()).unwrap()
}

fn create(core: &FsCore, name: &Name) {
    let what = CreateMode { kind: FileKind::File, mode: 0o644, umask: 0, rdev: 0 };
    core.create(MAIN, ROOT, name, what, Caller::ROOT).unwrap();
}

/// One page: the names, and where to resume.
fn page(core: &FsCore, position: u64, with_attributes: bool) -> Vec<(Vec<u8>, u64)> {
    let mut names = Vec::with_capacity(PAGE);
    let mut take = |name: &[u8], position| {
        names.push((name.to_vec(), position));
        names.len() < PAGE
    };
    let listed = if with_attributes {
        core.readdirplus(MAIN, ROOT, position, |entry, attr| {
            assert_eq!(attr.is_none(), matches!(entry.name, b"." | b".."));
            assert!(attr.is_none_or(|attr| attr.ino == entry.ino));
            take(entry.name, entry.position)
        })
    } else {
        core.readdir(MAIN, ROOT, position, |entry| take(entry.name, entry.position))
    };
    listed.unwrap();
    names
}

/// Lists all, and after each page removes some even-numbered names and adds new ones.
fn list_while_changing(with_attributes: bool) {
    let core =
        FsCore::new_volume(Arc::new(Memory::default()), Arc::new(Unrecorded), Config::default()).unwrap();
    (0..ENTRIES).for_each(|number| create(&core, &named("file-", number)));
    let (mut shown, mut position, mut round) = (HashMap::new(), 0, 0);
    loop {
        let names = page(&core, position, with_attributes);
        let Some((_, last)) = names.last() else { break };
        position = *last;
        names.into_iter().for_each(|(name, _)| *shown.entry(name).or_insert(0) += 1);
        for number in (0..50).map(|k| round * 50 + k) {
            core.unlink(MAIN, ROOT, &named("file-", number * 2)).unwrap();
            create(&core, &named("new-", number));
        }
        round += 1;
        assert!(round < ENTRIES / 100, "the listing does not end");
    }
    let stays = |number: u32| number % 2 == 1 || number / 2 >= round * 50;
    for number in (0..ENTRIES).filter(|number| stays(*number)) {
        let count = shown.get(named("file-", number).as_bytes()).copied();
        assert_eq!(count, Some(1), "file-{number} in {round} pages");
    }
    assert!([&b"."[..], b".."].iter().all(|dot| shown.get(*dot) == Some(&1)));
    println!("{} names shown in {round} pages", shown.len());
}

#[test]
fn names_that_stay_are_listed_once() {
    list_while_changing(false);
}

#[test]
fn names_that_stay_are_listed_once_with_attributes() {
    list_while_changing(true);
}
