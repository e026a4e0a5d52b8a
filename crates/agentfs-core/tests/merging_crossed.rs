//! Several branches that merge each other in any order, crossing and back: each has what it has heard of, once; what one has
//! deleted does not come back, and no edit is lost.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

use std::collections::BTreeSet;
use std::sync::Arc;

use agentfs_core::testing::{Chance, config};
use agentfs_core::{
    Caller, Config, CreateMode, FileKind, FsCore, InodeId, Memory, MergeWish, Name, OpenMode, Policy,
    Progress, SetAttr, ViewId,
};

const BRANCHES: usize = 4;
const CASES: u64 = 150;
const STEPS: usize = 60;

/// What a branch has heard of: files that were made and deleted, and how often each branch edited its part of the shared text.
#[derive(Clone, Default)]
struct Heard {
    made: BTreeSet<String>,
    deleted: BTreeSet<String>,
    edits: [u64; BRANCHES],
}

impl Heard {
    fn names(&self) -> BTreeSet<String> {
        self.made.difference(&self.deleted).cloned().collect()
    }

    fn hear(&mut self, other: &Heard) {
        self.made.extend(other.made.iter().cloned());
        self.deleted.extend(other.deleted.iter().cloned());
        for (own, other) in self.edits.iter_mut().zip(other.edits) {
            *own = (*own).max(other);
        }
    }

    /// Parts far enough from each other that no merge takes edits of two for one.
    fn text(&self) -> String {
        let part = |(branch, count): (usize, &u64)| format!("{branch}: {count}\n{}", "-\n".repeat(8));
        self.edits.iter().enumerate().map(part).collect()
    }
}

fn view(core: &FsCore, branch: usize) -> ViewId {
    core.find_branch(&name(branch)).unwrap().view
}

fn name(branch: usize) -> String {
    if branch == 0 { "main".to_owned() } else { format!("b{branch}") }
}

fn make(core: &FsCore, view: ViewId, name: &str) {
    let what = CreateMode { kind: FileKind::File, mode: 0o644, umask: 0, rdev: 0 };
    core.create(view, InodeId::ROOT, &Name::new(name.as_bytes()).unwrap(), what, Caller::ROOT).unwrap();
}

fn find(core: &FsCore, view: ViewId, name: &str) -> agentfs_core::Attr {
    core.lookup(view, InodeId::ROOT, &Name::new(name.as_bytes()).unwrap()).unwrap().unwrap()
}

fn write(core: &FsCore, view: ViewId, text: &str) {
    let ino = find(core, view, "shared").ino;
    let handle = core.open(view, ino, OpenMode::Write, Caller::ROOT).unwrap();
    core.setattr(view, ino, &SetAttr { size: Some(0), ..SetAttr::default() }, Caller::ROOT).unwrap();
    core.write(handle, 0, text.as_bytes(), false).unwrap();
    core.release(handle).unwrap();
}

fn read(core: &FsCore, view: ViewId) -> String {
    let attr = find(core, view, "shared");
    let handle = core.open(view, attr.ino, OpenMode::Read, Caller::ROOT).unwrap();
    let mut bytes = vec![0; attr.size as usize];
    core.read(handle, 0, &mut bytes).unwrap();
    core.release(handle).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn names(core: &FsCore, view: ViewId) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    core.readdir(view, InodeId::ROOT, 2, |entry| {
        names.insert(String::from_utf8(entry.name.to_vec()).unwrap());
        true
    })
    .unwrap();
    names.remove("shared");
    names
}

fn open(device: &Arc<Memory>) -> FsCore {
    let (core, found) =
        FsCore::open_volume(device.clone(), Config { max_snapshots: 10_000, ..config() }).unwrap();
    assert_eq!(found.damage, None);
    core
}

fn case(seed: u64) -> usize {
    let mut chance = Chance(seed);
    let device = Arc::new(Memory::default());
    let mut core = open(&device);
    let mut heard = vec![Heard::default(); BRANCHES];
    make(&core, ViewId::MAIN, "shared");
    write(&core, ViewId::MAIN, &heard[0].text());
    let (mut made, mut merges) = (0, 0);
    for branch in 1..BRANCHES {
        core.create_branch(&name(chance.below(branch as u64) as usize), Some(&name(branch))).unwrap();
    }
    for step in 0..STEPS {
        let branch = chance.below(BRANCHES as u64) as usize;
        let at = view(&core, branch);
        match chance.below(8) {
            0 => {
                made += 1;
                let file = format!("f{made}");
                make(&core, at, &file);
                heard[branch].made.insert(file);
            }
            1 => {
                let there: Vec<String> = heard[branch].names().into_iter().collect();
                if let Some(file) = there.get(chance.below(there.len().max(1) as u64) as usize) {
                    core.unlink(at, InodeId::ROOT, &Name::new(file.as_bytes()).unwrap()).unwrap();
                    heard[branch].deleted.insert(file.clone());
                }
            }
            2 | 3 => {
                heard[branch].edits[branch] += 1;
                write(&core, at, &heard[branch].text());
            }
            4 if chance.below(4) == 0 => {
                core.close().unwrap();
                core = open(&device);
            }
            4 if chance.below(3) == 0 => drop(core.checkpoint().unwrap()),
            _ => {
                let source = chance.below(BRANCHES as u64) as usize;
                if source == branch {
                    continue;
                }
                let (from, into) = (name(source), name(branch));
                let wish = MergeWish {
                    source: &from,
                    into: Some(&into),
                    policy: Policy::Refuse,
                    is_dry: false,
                    with_git: false,
                    left_out: &|_, _| false,
                };
                let merged = core.merge(&wish, &Progress::default()).unwrap();
                assert!(
                    merged.conflicts.is_empty(),
                    "seed {seed}, step {step}, {from} into {into}: {:?}",
                    merged.conflicts
                );
                merges += 1;
                let other = heard[source].clone();
                heard[branch].hear(&other);
                let at = view(&core, branch);
                assert_eq!(
                    names(&core, at),
                    heard[branch].names(),
                    "seed {seed}, step {step}, {from} into {into}"
                );
                assert_eq!(
                    read(&core, at),
                    heard[branch].text(),
                    "seed {seed}, step {step}, {from} into {into}"
                );
                if chance.below(3) == 0 {
                    // What is kept of before is not needed for later merges.
                    for info in core.list_snapshots(None, usize::MAX) {
                        core.delete_snapshot(&info.id.to_string()).unwrap();
                    }
                }
            }
        }
    }
    merges
}

#[test]
fn branches_that_merge_each_other_have_all_that_they_heard_of_once() {
    let merges: usize = (0..CASES).map(case).sum();
    println!("{merges} merges of {BRANCHES} branches in {CASES} histories");
}
