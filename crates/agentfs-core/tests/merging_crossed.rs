//! Several branches that merge each other in any order, crossing and back: each has what it has heard of, once; what one has
//! deleted does not come back, and no edit is lost.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod volume;

use std::collections::BTreeSet;
use std::sync::Arc;

use agentfs_core::testing::{Chance, config, merge};
use agentfs_core::{Config, FileKind, FsCore, Memory, Policy};
use volume::Volume;

const BRANCHES: usize = 4;
const CASES: u64 = 150;
const STEPS: usize = 60;

/// What a branch has heard of: files that were made and deleted, and how often each branch edited its part of the shared text.
#[derive(Clone, Default)]
struct Heard {
    made: BTreeSet<String>,
    deleted: BTreeSet<String>,
    edits: [u64; BRANCHES],
    /// How often main has moved the shared text.
    moves: u64,
}

impl Heard {
    fn names(&self) -> BTreeSet<String> {
        self.made.difference(&self.deleted).cloned().collect()
    }

    fn hear(&mut self, other: &Heard) {
        self.made.extend(other.made.iter().cloned());
        self.deleted.extend(other.deleted.iter().cloned());
        self.moves = self.moves.max(other.moves);
        for (own, other) in self.edits.iter_mut().zip(other.edits) {
            *own = (*own).max(other);
        }
    }

    /// Where the shared text is.
    fn shared(&self) -> String {
        format!("shared-{}", self.moves)
    }

    /// Parts far enough from each other that no merge takes edits of two for one.
    fn text(&self) -> String {
        let part = |(branch, count): (usize, &u64)| format!("{branch}: {count}\n{}", "-\n".repeat(8));
        self.edits.iter().enumerate().map(part).collect()
    }
}

fn name(branch: usize) -> String {
    if branch == 0 { "main".to_owned() } else { format!("b{branch}") }
}

fn open(device: &Arc<Memory>) -> Volume {
    let (core, found) =
        FsCore::open_volume(device.clone(), Config { max_snapshots: 10_000, ..config() }).unwrap();
    assert_eq!(found.damage, None);
    Volume(core)
}

fn case(seed: u64) -> usize {
    let mut chance = Chance(seed);
    // In half of the histories main moves the text; in the others it is saved as editors do. What is both moved and replaced
    // in one branch is another file.
    let moves = seed.is_multiple_of(2);
    let device = Arc::new(Memory::default());
    let mut v = open(&device);
    let mut heard = vec![Heard::default(); BRANCHES];
    v.put("main", &heard[0].shared(), &heard[0].text());
    let (mut made, mut merges) = (0, 0);
    for branch in 1..BRANCHES {
        v.0.create_branch(&name(chance.below(branch as u64) as usize), Some(&name(branch))).unwrap();
    }
    for step in 0..STEPS {
        let branch = chance.below(BRANCHES as u64) as usize;
        let at = name(branch);
        match chance.below(9) {
            0 => {
                made += 1;
                let file = format!("f{made}");
                v.make(&at, &file, FileKind::File);
                heard[branch].made.insert(file);
            }
            1 => {
                let there: Vec<String> = heard[branch].names().into_iter().collect();
                if let Some(file) = there.get(chance.below(there.len().max(1) as u64) as usize) {
                    v.remove(&at, file);
                    heard[branch].deleted.insert(file.clone());
                }
            }
            2 | 3 => {
                heard[branch].edits[branch] += 1;
                let (shared, text) = (heard[branch].shared(), heard[branch].text());
                match !moves && chance.below(2) == 0 {
                    true => v.save(&at, &shared, &text),
                    false => v.put(&at, &shared, &text),
                }
            }
            8 if moves => {
                let before = heard[0].shared();
                heard[0].moves += 1;
                v.rename("main", &before, &heard[0].shared());
            }
            4 if chance.below(4) == 0 => {
                v.0.close().unwrap();
                v = open(&device);
            }
            4 if chance.below(3) == 0 => drop(v.0.checkpoint().unwrap()),
            _ => {
                let source = chance.below(BRANCHES as u64) as usize;
                if source == branch {
                    continue;
                }
                let (from, into) = (name(source), name(branch));
                let merged = merge(&v.0, &from, &into, Policy::Refuse).unwrap();
                assert!(
                    merged.conflicts.is_empty(),
                    "seed {seed}, step {step}, {from} into {into}: {:?}",
                    merged.conflicts
                );
                merges += 1;
                let other = heard[source].clone();
                heard[branch].hear(&other);
                let mut names = v.names(&into);
                assert!(names.remove(&heard[branch].shared()), "seed {seed}, step {step}: {names:?}");
                assert_eq!(names, heard[branch].names(), "seed {seed}, step {step}, {from} into {into}");
                assert_eq!(
                    v.text(&into, &heard[branch].shared()).unwrap(),
                    heard[branch].text(),
                    "seed {seed}, step {step}, {from} into {into}"
                );
                if chance.below(3) == 0 {
                    // What is kept of before is not needed for later merges.
                    for info in v.0.list_snapshots(None, usize::MAX) {
                        v.0.delete_snapshot(&info.id.to_string()).unwrap();
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
