//! Random trees and random edits of two branches: what differs is told path by path as a plain comparison tells it, going
//! back to a snapshot makes the tree that it has, and a merge does what a plain three-way comparison of all paths says, with
//! the conflicts that it says and no other.
//!
//! `PROPTEST_CASES` sets the number of cases.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod forked;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use agentfs_core::testing::{FileOp, random_cases};
use agentfs_core::{Policy, Progress};
use forked::plain::{Plain, slot};
use forked::{Forked, Ground, plain_difference, same, same_but_links, told_difference};

const REGRESSIONS: &str = "tests/merging.proptest-regressions";

#[test]
fn what_differs_is_told_and_a_snapshot_is_what_a_branch_goes_back_to() {
    differences_and_restores(Ground::Volume, 1500);
}

#[test]
fn what_differs_is_told_and_a_snapshot_is_what_a_branch_goes_back_to_over_a_directory() {
    differences_and_restores(Ground::Lower, 250);
}

#[test]
fn each_path_goes_back_by_itself() {
    paths_that_go_back(Ground::Volume, 500);
}

#[test]
fn each_path_goes_back_by_itself_over_a_directory() {
    paths_that_go_back(Ground::Lower, 100);
}

#[test]
fn a_merge_does_what_a_plain_comparison_of_all_paths_says() {
    plain_merges(Ground::Volume, 4000);
}

#[test]
fn a_merge_does_what_a_plain_comparison_of_all_paths_says_over_a_directory() {
    plain_merges(Ground::Lower, 400);
}

#[test]
fn whatever_both_did_a_merge_is_clean_or_refused_and_options_settle_it() {
    any_merges(Ground::Volume, 3000);
}

#[test]
fn whatever_both_did_a_merge_is_clean_or_refused_and_options_settle_it_over_a_directory() {
    any_merges(Ground::Lower, 350);
}

fn differences_and_restores(ground: Ground, cases: u32) {
    random_cases(REGRESSIONS, cases, 90, |ops| {
        let Some(forked) = Forked::new(ground, ops, |_| true) else { return Ok(()) };
        let (core, main) = (forked.core(), forked.dump("main"));
        let expected = plain_difference(&forked.base, &main);
        let told = told_difference(core, &forked.base, &main, "s", "main");
        if told != expected {
            return Err(format!("told {told:?}\nexpected {expected:?}"));
        }
        let b = forked.dump("b");
        let (expected, told) = (plain_difference(&main, &b), told_difference(core, &main, &b, "main", "b"));
        if told != expected {
            return Err(format!("main and b: told {told:?}\nexpected {expected:?}"));
        }
        core.restore("main", "s", &[], false, &Progress::default()).map_err(|error| error.to_string())?;
        same("restored", &forked.base, &forked.dump("main"))?;
        forked.sound()?;
        let left = core.diff("s", "main", &Progress::default()).unwrap();
        if !left.is_empty() {
            return Err(format!("after restoring: {left:?}"));
        }
        let undone = core.undo(&Progress::default()).map_err(|error| error.to_string());
        if !plain_difference(&forked.base, &main).is_empty() {
            undone?;
        }
        same("undone", &main, &forked.dump("main"))?;
        forked.sound()
    });
}

fn paths_that_go_back(ground: Ground, cases: u32) {
    random_cases(REGRESSIONS, cases, 60, |ops| {
        let Some(forked) = Forked::new(ground, ops, |_| true) else {
            return Ok(());
        };
        let core = forked.core();
        let tops: BTreeSet<Vec<u8>> = forked
            .base
            .keys()
            .chain(forked.dump("main").keys())
            .filter(|path| !path.is_empty())
            .cloned()
            .collect();
        for path in tops.iter().filter(|path| !path.contains(&b'/')) {
            let mut expected = forked.dump("main");
            let is_in = |at: &Vec<u8>| at == path || at.starts_with(&[&path[..], b"/"].concat());
            expected.retain(|at, _| !is_in(at));
            expected.extend(
                forked.base.iter().filter(|(at, _)| is_in(at)).map(|(at, node)| (at.clone(), node.clone())),
            );
            let done = core.restore("main", "s", std::slice::from_ref(path), false, &Progress::default());
            let kept = done.map_err(|error| error.to_string())?.kept;
            same_but_links(
                &format!("{:?} restored", path.escape_ascii().to_string()),
                &expected,
                &forked.dump("main"),
            )?;
            forked.sound()?;
            kept.map(|kept| core.delete_snapshot(&kept.id.to_string()))
                .transpose()
                .map_err(|e| e.to_string())?;
        }
        same_but_links("all restored", &forked.base, &forked.dump("main"))
    });
}

fn plain_merges(ground: Ground, cases: u32) {
    let (clean, conflicting) = (AtomicUsize::new(0), AtomicUsize::new(0));
    random_cases(REGRESSIONS, cases, 45, |ops| {
        let is_wanted =
            |op: &FileOp| !matches!(op, FileOp::Link(..) | FileOp::Rename(..) | FileOp::Copy { .. });
        let Some(forked) = Forked::new(ground, ops, is_wanted) else { return Ok(()) };
        let (ours, theirs) = (forked.dump("main"), forked.dump("b"));
        let plain = Plain::of(&forked.base, &ours, &theirs);
        let merged = forked.merge("b", "main", Policy::Refuse)?;
        let told: BTreeSet<_> =
            merged.conflicts.iter().map(|conflict| (conflict.path.to_vec(), conflict.kind)).collect();
        if told != plain.conflicts {
            return Err(format!("told {told:?}\nexpected {:?}", plain.conflicts));
        }
        let found = forked.dump("main");
        forked.sound()?;
        if !plain.conflicts.is_empty() {
            conflicting.fetch_add(1, Ordering::Relaxed);
            return same("with conflicts nothing changes", &ours, &found);
        }
        clean.fetch_add(1, Ordering::Relaxed);
        let is: BTreeMap<_, _> = found
            .keys()
            .map(|path| (path.clone(), slot(&found, path, false).or_else(|| slot(&found, path, true))))
            .collect();
        for path in is.keys().chain(plain.result.keys()) {
            if is.get(path) != plain.result.get(path) {
                return Err(format!(
                    "{:?}: expected {:?}, found {:?}",
                    path.escape_ascii().to_string(),
                    plain.result.get(path),
                    is.get(path)
                ));
            }
        }
        // Merged twice, and back: nothing more happens, and both are the same.
        let again = forked.merge("b", "main", Policy::Refuse)?;
        let back = forked.merge("main", "b", Policy::Refuse)?;
        if again.kept.is_some() || !back.conflicts.is_empty() {
            return Err(format!("again {:?}, back {:?}", again.steps, back.conflicts));
        }
        same("merged back", &found, &forked.dump("b"))?;
        forked.sound()
    });
    println!("{clean:?} merges, {conflicting:?} with conflicts");
    assert!(clean.into_inner() * 10 > cases as usize && conflicting.into_inner() * 10 > cases as usize);
}

fn any_merges(ground: Ground, cases: u32) {
    let counts: [AtomicUsize; 4] = Default::default();
    random_cases(REGRESSIONS, cases, 75, |ops| {
        let Some(forked) = Forked::new(ground, ops, |_| true) else { return Ok(()) };
        let (ours, theirs) = (forked.dump("main"), forked.dump("b"));
        let merged = forked.merge("b", "main", Policy::Refuse)?;
        forked.sound()?;
        if merged.conflicts.is_empty() {
            counts[0].fetch_add(1, Ordering::Relaxed);
            let found = forked.dump("main");
            let back = forked.merge("main", "b", Policy::Refuse)?;
            if !back.conflicts.is_empty() {
                return Err(format!("merged back it conflicts: {:?}", back.conflicts));
            }
            same("merged back", &found, &forked.dump("b"))?;
            return forked.sound();
        }
        same("with conflicts nothing changes", &ours, &forked.dump("main"))?;
        let policy = [Policy::Ours, Policy::Theirs, Policy::Markers][ops.len() % 3];
        let policy = match forked.base.len() % 3 {
            0 => Policy::Ours,
            1 => Policy::Theirs,
            _ => policy,
        };
        match forked.merge("b", "main", policy) {
            Ok(settled) => {
                counts[1].fetch_add(1, Ordering::Relaxed);
                forked.sound()?;
                if settled.kept.is_some() {
                    forked.core().undo(&Progress::default()).map_err(|error| error.to_string())?;
                    same("undone", &ours, &forked.dump("main"))?;
                    forked.sound()?;
                }
            }
            Err(error) if error.contains("cannot be settled") => {
                counts[2].fetch_add(1, Ordering::Relaxed);
                same("refused", &ours, &forked.dump("main"))?;
            }
            Err(error) => return Err(error),
        }
        same("the other is as it was", &theirs, &forked.dump("b"))
    });
    println!("clean, settled, stuck: {counts:?}");
}
