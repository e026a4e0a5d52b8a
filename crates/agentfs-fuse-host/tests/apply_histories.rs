//! Random histories of a branch are applied to the directory that the volume lies over; the whole of it is compared with
//! the branch each time. `APPLY_HISTORIES` says how many of each kind, `APPLY_SEED` with which to begin.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod histories;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentfs_core::testing::Chance;
use histories::{Act, Fact, difference, remove, whole};
use rustix::process::{Pid, Signal, kill_process};
use support::agents::{cli_of, told};
use support::{Volume, can_mount, is_write_back};

fn cases(default: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("APPLY_SEED").unwrap_or(1);
    first..first + number("APPLY_HISTORIES").unwrap_or(default)
}

/// A volume over a directory that goes on from case to case.
struct Bench {
    dir: tempfile::TempDir,
    v: Volume,
    said: Vec<String>,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let lower = dir.path().join("lower");
        fs::create_dir(&lower).unwrap();
        let v = Volume::mount_with(&["--lower", lower.to_str().unwrap()], &[]);
        Bench { dir, v, said: Vec::new() }
    }

    fn lower(&self) -> PathBuf {
        self.dir.path().join("lower")
    }

    /// Begins a case: the directory is what somebody makes of it, and a branch is grown.
    fn begin(&mut self, case: u64, chance: &mut Chance) -> PathBuf {
        self.said.clear();
        let lower = self.lower();
        for entry in fs::read_dir(&lower).unwrap() {
            remove(&entry.unwrap().path()).unwrap();
        }
        self.acts(&lower, chance, 60, "below");
        // What is changed from now on has a later time.
        std::thread::sleep(Duration::from_millis(8));
        self.v.grow_branch("main", &format!("b{case}"));
        self.v.branch(&format!("b{case}")).canonicalize().unwrap()
    }

    fn acts(&mut self, root: &Path, chance: &mut Chance, most: u64, whose: &str) {
        for _ in 0..chance.below(most) {
            let act = Act::any(chance);
            let done = act.act(root).is_ok();
            self.note(whose, &act, done);
        }
    }

    /// What could not be done is no part of the history.
    fn note(&mut self, whose: &str, act: &Act, done: bool) {
        if done {
            let act: String = format!("{act:?}").chars().take(80).collect();
            self.said.push(format!("{whose}: {act}"));
        }
    }

    fn end(&self, case: u64) {
        let (done, words) = self.cli(&["branch-delete", &format!("b{case}"), "--now"]);
        assert!(done, "{words}");
    }

    fn cli(&self, args: &[&str]) -> (bool, String) {
        told(cli_of(&self.v).args(args))
    }

    /// Fails with the history.
    fn fail(&self, case: u64, what: &str) -> ! {
        panic!(
            "case {case}: {what}\n{}\n{}",
            self.said.join("\n"),
            self.v.log().lines().rev().take(5).collect::<Vec<_>>().join("\n")
        );
    }

    fn same(&self, case: u64, a: &BTreeMap<PathBuf, Fact>, b: &BTreeMap<PathBuf, Fact>, what: &str) {
        let differing = difference(a, b);
        if !differing.is_empty() {
            self.fail(case, &format!("{what}:\n{differing}"));
        }
    }

    /// Applies a branch, which nobody keeps from it; all below is what the branch is.
    fn apply(&mut self, case: u64, branch: &str, view: &Path) {
        let before = whole(view);
        let (done, words) = self.cli(&["apply", branch]);
        if !done {
            self.fail(case, &words);
        }
        self.said.push(format!("apply {branch}"));
        self.same(case, &whole(&self.lower()), &before, "below, and the branch");
        self.same(case, &whole(view), &before, "the branch after and before");
    }

    /// Once more is nothing to be done.
    fn again(&mut self, case: u64, branch: &str) {
        let (_, planned) = self.cli(&["apply", branch, "--dry-run"]);
        let (done, words) = self.cli(&["apply", branch]);
        if !done || !words.contains("PUT=0\tREMOVED=0") {
            self.fail(case, &format!("again: {words}\n{planned}"));
        }
    }
}

fn can_run() -> bool {
    can_mount() && !is_write_back("it is refused over another directory")
}

/// Each branch goes on after it was applied, and is applied again.
#[test]
fn below_is_what_the_branch_is_whatever_its_history() {
    if !can_run() {
        return;
    }
    let mut bench = Bench::new();
    for case in cases(1000) {
        let mut chance = Chance(case);
        let view = bench.begin(case, &mut chance);
        let name = format!("b{case}");
        for _ in 0..=chance.below(3) {
            bench.acts(&view, &mut chance, 14, "branch");
            bench.apply(case, &name, &view);
            if chance.below(4) == 0 {
                bench.again(case, &name);
            }
        }
        if case % 50 == 0 {
            let before = whole(&view);
            assert!(bench.v.terminate().success());
            bench.v.remount();
            let view = bench.v.branch(&name);
            bench.same(case, &whole(&view), &before, "after a remount");
            bench.again(case, &name);
        }
        bench.end(case);
    }
}

/// A branch is merged into main, and main is applied; main changes something itself, too.
#[test]
fn below_is_what_main_is_after_merges() {
    if !can_run() {
        return;
    }
    let (mut merged, mut total) = (0, 0);
    for case in cases(200) {
        // What main has itself stays.
        let mut bench = Bench::new();
        let mut chance = Chance(case);
        let view = bench.begin(case, &mut chance);
        let (name, main) = (format!("b{case}"), bench.v.root());
        for _ in 0..=chance.below(2) {
            bench.acts(&view, &mut chance, 10, "branch");
            let after = chance.below(3) == 0;
            if chance.below(3) == 0 {
                bench.acts(&main, &mut chance, 4, "main");
            }
            let (done, words) = bench.cli(&["merge", &name]);
            bench.said.push(format!("merge: {done} {words}"));
            (merged, total) = (merged + u64::from(done), total + 1);
            if after {
                bench.acts(&main, &mut chance, 4, "main");
            }
            bench.apply(case, "main", &main);
        }
        bench.end(case);
    }
    println!("{merged} of {total} merges were done");
    assert!(merged * 4 > total, "hardly any merge was done: {merged} of {total}");
}

/// What somebody else changes below meanwhile is never lost: nothing is written, or nothing of that.
#[test]
fn what_others_change_below_is_never_overwritten() {
    if !can_run() {
        return;
    }
    let mut bench = Bench::new();
    let (mut refused, mut applied) = (0, 0);
    for case in cases(600) {
        let mut chance = Chance(case);
        let view = bench.begin(case, &mut chance);
        let (name, lower) = (format!("b{case}"), bench.lower());
        bench.acts(&view, &mut chance, 12, "branch");
        let was = whole(&lower);
        bench.acts(&lower, &mut chance, 6, "below");
        let before = whole(&lower);
        let (done, words) = bench.cli(&["apply", &name]);
        bench.said.push(format!("apply: {done} {words}"));
        let after = whole(&lower);
        if done {
            applied += 1;
            // What others changed is as they left it, or as the branch has it, too.
            let theirs = before.keys().chain(was.keys()).filter(|path| before.get(*path) != was.get(*path));
            for path in theirs {
                let bodies = [&before, &after].map(|tree| tree.get(path).map(|fact| fact.body.clone()));
                if bodies[0] != bodies[1] && fs::read(view.join(path)).ok() != fs::read(lower.join(path)).ok()
                {
                    bench.fail(
                        case,
                        &format!("{path:?} is {:?}, was {:?}", after.get(path), before.get(path)),
                    );
                }
            }
        } else {
            refused += 1;
            bench.same(case, &after, &before, "refused, and something was written");
        }
        bench.end(case);
    }
    println!("{applied} applied, {refused} refused");
    // 20 of the usual 600.
    let least = (applied + refused) / 30;
    assert!(applied > least && refused > least);
}

fn spawn(bench: &Bench, args: &[&str]) -> Child {
    cli_of(&bench.v).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Some files that take a while.
fn bulk(root: &Path, text: &str) {
    for n in 0..60 {
        let dir = root.join(format!("bulk{}", n % 4));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(n.to_string()), text.repeat(3000)).unwrap();
    }
}

/// Killed at any moment, the next run finishes it, and nothing is left over.
#[test]
fn the_next_run_finishes_one_that_was_killed() {
    if !can_run() {
        return;
    }
    let mut bench = Bench::new();
    let mut in_the_middle = 0;
    for case in cases(120) {
        let mut chance = Chance(case);
        let view = bench.begin(case, &mut chance);
        let (name, lower) = (format!("b{case}"), bench.lower());
        bench.acts(&view, &mut chance, 14, "branch");
        bulk(&view, if case % 2 == 0 { "x" } else { "y" });
        for _ in 0..=chance.below(3) {
            let mut child = spawn(&bench, &["apply", &name]);
            if chance.below(2) == 0 {
                // From when it is written down what is to be done.
                let journal = lower.join(".agentfs-apply/journal");
                while !journal.exists() && child.try_wait().unwrap().is_none() {
                    std::hint::spin_loop();
                }
                std::thread::sleep(Duration::from_micros(chance.below(3000)));
            } else {
                std::thread::sleep(Duration::from_micros(chance.below(60_000)));
            }
            let _ = child.kill();
            in_the_middle += u64::from(child.wait().unwrap().code().is_none());
            bench.said.push("apply, killed".into());
            if chance.below(3) == 0 {
                bench.acts(&view, &mut chance, 6, "branch");
            }
            if chance.below(20) == 0 {
                assert!(bench.v.terminate().success());
                bench.v.remount();
            }
        }
        let view = bench.v.branch(&name);
        bench.apply(case, &name, &view);
        bench.end(case);
    }
    println!("{in_the_middle} were killed before they ended");
    assert!(in_the_middle > 20);
}

/// Told to end, it leaves nothing of itself: below is what it was or what the branch is.
#[test]
fn one_that_is_told_to_end_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    let mut bench = Bench::new();
    let mut interrupted = 0;
    for case in cases(80) {
        let mut chance = Chance(case);
        let view = bench.begin(case, &mut chance);
        let (name, lower) = (format!("b{case}"), bench.lower());
        bench.acts(&view, &mut chance, 14, "branch");
        bulk(&view, if case % 2 == 0 { "x" } else { "y" });
        let (before, branch) = (whole(&lower), whole(&view));
        let mut child = spawn(&bench, &["apply", &name]);
        std::thread::sleep(Duration::from_micros(2000 + chance.below(60_000)));
        let signal = [Signal::INT, Signal::TERM][case as usize % 2];
        let _ = kill_process(Pid::from_child(&child), signal);
        let code = child.wait().unwrap().code();
        bench.said.push(format!("apply, told to end: {code:?}"));
        match code {
            Some(0) => bench.same(case, &whole(&lower), &branch, "applied"),
            // A signal before anything was begun.
            None => bench.same(case, &whole(&lower), &before, "not begun"),
            Some(code) => {
                interrupted += 1;
                assert_eq!(code, 128 + signal.as_raw());
                bench.same(case, &whole(&lower), &before, "interrupted");
            }
        }
        if code.is_some() {
            bench.end(case); // nothing grew from it
        } else {
            let _ = bench.cli(&["branch-delete", &name, "--force", "--now"]);
        }
        assert_eq!(bench.cli(&["branch-list"]).1.lines().count(), 1, "only main is left");
    }
    println!("{interrupted} were interrupted");
    assert!(interrupted > 5);
}

/// While it is applied a program goes on in the branch: what that does is applied by the next run.
#[test]
fn what_a_branch_does_meanwhile_is_applied_by_the_next() {
    if !can_run() {
        return;
    }
    let mut bench = Bench::new();
    for case in cases(120) {
        let mut chance = Chance(case);
        let view = bench.begin(case, &mut chance);
        let name = format!("b{case}");
        bench.acts(&view, &mut chance, 10, "branch");
        bulk(&view, if case % 2 == 0 { "x" } else { "y" });
        let is_done = AtomicBool::new(false);
        let (said, words) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (mut chance, mut said) = (Chance(case + 1_000_000), Vec::new());
                while !is_done.load(Ordering::Relaxed) && said.len() < 300 {
                    let act = Act::any(&mut chance);
                    let done = act.act(&view).is_ok();
                    said.push((act, done));
                }
                said
            });
            let words = bench.cli(&["apply", &name]);
            is_done.store(true, Ordering::Relaxed);
            (writer.join().unwrap(), words)
        });
        said.iter().for_each(|(act, done)| bench.note("meanwhile", act, *done));
        bench.said.push(format!("apply {words:?}"));
        if !words.0 {
            bench.fail(case, "refused");
        }
        bench.apply(case, &name, &view);
        bench.end(case);
    }
}

/// What a directory holds, without the times, which a merge makes anew.
fn timeless(root: &Path) -> BTreeMap<PathBuf, Fact> {
    let mut tree = whole(root);
    tree.values_mut().for_each(Fact::forget_time);
    tree
}

/// What was applied is common past: a branch that goes on is merged without conflicts, and main is what the branch is then. Of
/// rare histories not all is understood; these conflict, which loses nothing, and are counted.
#[test]
fn what_was_applied_is_common_past_to_merges() {
    if !can_run() {
        return;
    }
    let (mut conflicts, mut merges) = (0, 0);
    'histories: for case in cases(120) {
        let mut bench = Bench::new();
        let mut chance = Chance(case);
        let view = bench.begin(case, &mut chance);
        let (name, main) = (format!("b{case}"), bench.v.root());
        for _ in 0..=chance.below(3) {
            bench.acts(&view, &mut chance, 10, "branch");
            if chance.below(3) > 0 {
                bench.apply(case, &name, &view);
            }
            bench.acts(&view, &mut chance, 6, "branch");
            let (dry, planned) = bench.cli(&["merge", &name, "--dry-run"]);
            let (done, words) = bench.cli(&["merge", &name]);
            bench.said.push(format!("merge: {words}"));
            merges += 1;
            if !done && words.contains("CONFLICT") {
                println!("history {case} conflicts: {words}");
                conflicts += 1;
                continue 'histories;
            }
            if !done || !dry {
                bench.fail(case, &format!("{planned}\n{words}"));
            }
            bench.same(case, &timeless(&main), &timeless(&view), "main, and the branch");
        }
        let (done, words) = bench.cli(&["apply", "main"]);
        if !done {
            bench.fail(case, &words);
        }
        bench.same(case, &timeless(&bench.lower()), &timeless(&main), "below, and main");
        bench.end(case);
    }
    assert!(conflicts * 100 <= merges, "{conflicts} of {merges} merges conflicted");
}
