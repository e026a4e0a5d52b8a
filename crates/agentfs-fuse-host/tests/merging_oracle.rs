//! Git as the oracle: random histories of text files in two branches, merged back and forth by git and here, give the same
//! trees or the same conflicts. Where they differ it is told, and known why.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use agentfs_core::testing::Chance;
use support::agents::cli_of;
use support::{Volume, can_mount};

const HISTORIES: u64 = 200;
const ROUNDS: usize = 4;

/// A change of a tree of files.
#[derive(Debug)]
enum Change {
    Put(String, String),
    Remove(String),
    Rename(String, String),
}

type Tree = BTreeMap<String, String>;

fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    for entry in fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != ".git" {
            found.insert(name.clone(), fs::read_to_string(root.join(name)).unwrap());
        }
    }
    found
}

fn apply(root: &Path, change: &Change) {
    match change {
        Change::Put(name, text) => fs::write(root.join(name), text).unwrap(),
        Change::Remove(name) => fs::remove_file(root.join(name)).unwrap(),
        Change::Rename(from, to) => fs::rename(root.join(from), root.join(to)).unwrap(),
    }
}

/// A line: one of a few words where texts are nasty, else one that is hardly ever there twice.
fn line(chance: &mut Chance, is_nasty: bool) -> String {
    const WORDS: [&str; 6] = ["{", "}", "", "    return;", "a", "b"];
    if is_nasty {
        WORDS[chance.below(6) as usize].to_owned()
    } else {
        format!("line {}", chance.below(1 << 30))
    }
}

fn text(chance: &mut Chance, is_nasty: bool) -> String {
    (0..10 + chance.below(30)).map(|_| line(chance, is_nasty) + "\n").collect()
}

/// Some lines are changed, put in or taken out.
fn edited(chance: &mut Chance, text: &str, is_nasty: bool) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..=chance.below(3) {
        let at = chance.below(lines.len() as u64 + 1) as usize;
        match chance.below(3) {
            0 => lines.insert(at, line(chance, is_nasty)),
            1 if at < lines.len() => drop(lines.remove(at)),
            _ if at < lines.len() => lines[at] = line(chance, is_nasty),
            _ => {}
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// What one side does in a round.
fn changes(chance: &mut Chance, tree: &Tree, side: &str, is_nasty: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut names: Vec<&String> = tree.keys().collect();
    for turn in 0..1 + chance.below(3) {
        if names.is_empty() {
            break;
        }
        let name = names.remove(chance.below(names.len() as u64) as usize).clone();
        changes.push(match chance.below(12) {
            0 => Change::Remove(name),
            1 => Change::Rename(name, format!("moved{}", chance.below(1000))),
            2 => Change::Put(format!("{side}{turn}{}", chance.below(1000)), text(chance, is_nasty)),
            _ => {
                let text = edited(chance, &tree[&name], is_nasty);
                Change::Put(name, text)
            }
        });
    }
    changes
}

fn git(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "merge.conflictStyle=merge"]);
    command.args(args).current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap()
}

fn git_does(dir: &Path, args: &[&str]) -> String {
    let output = git(dir, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The tree that a merge made, or the paths that conflict.
type Merged = Result<Tree, BTreeSet<String>>;

/// Which file a name is of. Git tells of a conflict by all names of a file, we by that in the branch merged into.
#[derive(Clone, Default)]
struct Files {
    now: BTreeMap<String, usize>,
    ever: BTreeMap<String, usize>,
}

impl Files {
    fn note(&mut self, change: &Change, last: &mut usize) {
        match change {
            Change::Put(name, _) if self.now.contains_key(name) => {}
            Change::Put(name, _) => {
                *last += 1;
                self.now.insert(name.clone(), *last);
            }
            Change::Remove(name) => drop(self.now.remove(name)),
            Change::Rename(from, to) => {
                let file = self.now.remove(from).unwrap();
                self.now.insert(to.clone(), file);
            }
        }
        self.ever.extend(self.now.clone());
    }

    /// After another was merged into it.
    fn merged(&self, other: &Files, tree: &Tree) -> Files {
        let file = |name: &String| self.now.get(name).or(other.now.get(name)).copied().unwrap();
        let now: BTreeMap<_, _> = tree.keys().map(|name| (name.clone(), file(name))).collect();
        let ever = other.ever.clone().into_iter().chain(self.ever.clone()).chain(now.clone()).collect();
        Files { now, ever }
    }

    fn of(&self, other: &Files, paths: &BTreeSet<String>) -> BTreeSet<usize> {
        let known = [&self.now, &other.now, &self.ever, &other.ever];
        paths.iter().filter_map(|path| known.iter().find_map(|names| names.get(path)).copied()).collect()
    }
}

fn merge_by_git(into: &Path, source: &str) -> Merged {
    if git(into, &["merge", "-q", "--no-edit", source]).status.success() {
        return Ok(tree(into));
    }
    let paths =
        git_does(into, &["diff", "--name-only", "--diff-filter=U"]).lines().map(str::to_owned).collect();
    git_does(into, &["merge", "--abort"]);
    Err(paths)
}

fn merge_here(v: &Volume, into: &str, source: &str) -> Merged {
    let output = cli_of(v).args(["merge", source, "--into", into]).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    match output.status.code() {
        Some(0) => Ok(tree(&v.branch(into))),
        Some(1) if told.contains("CONFLICT") => {
            let conflicts = told.lines().filter_map(|line| line.strip_prefix("CONFLICT\t"));
            Err(conflicts.flat_map(|line| line.split('\t').skip(1)).map(str::to_owned).collect())
        }
        _ => panic!("{told}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// One history. Says what differs, and how many merges there were; it ends with the first conflict.
fn history(v: &Volume, seed: u64, repository: &Path) -> (usize, Option<String>) {
    let mut chance = Chance(seed * 7919 + 1);
    let is_nasty = seed.is_multiple_of(5);
    let (main, other) = (format!("m{seed}"), format!("b{seed}"));
    v.grow_branch("empty", &main);
    let (ours, theirs) = (repository.join("main"), repository.join("other"));
    fs::create_dir_all(&ours).unwrap();
    git_does(&ours, &["init", "-q", "-b", "main", "."]);
    let (mut last, mut files) = (0, [Files::default(), Files::default()]);
    for n in 0..4 {
        let change = Change::Put(format!("f{n}"), text(&mut chance, is_nasty));
        apply(&ours, &change);
        apply(&v.branch(&main), &change);
        files[0].note(&change, &mut last);
    }
    files[1] = files[0].clone();
    git_does(&ours, &["add", "-A"]);
    git_does(&ours, &["commit", "-qm", "base"]);
    git_does(&ours, &["worktree", "add", "-q", "-b", "other", theirs.to_str().unwrap()]);
    v.grow_branch(&main, &other);
    let mut merges = 0;
    for round in 0..ROUNDS {
        for (at, (dir, branch)) in [(&ours, &main), (&theirs, &other)].into_iter().enumerate() {
            for change in changes(&mut chance, &tree(dir), &branch[..1], is_nasty) {
                apply(dir, &change);
                apply(&v.branch(branch), &change);
                files[at].note(&change, &mut last);
            }
            git_does(dir, &["add", "-A"]);
            git_does(dir, &["commit", "-qm", "edits", "--allow-empty"]);
        }
        let into = usize::from(chance.below(3) == 0);
        let (by_git, here) = match into {
            1 => (merge_by_git(&theirs, "main"), merge_here(v, &other, &main)),
            _ => (merge_by_git(&ours, "other"), merge_here(v, &main, &other)),
        };
        merges += 1;
        let [one, two] = [&files[into], &files[1 - into]];
        let is_alike = match (&by_git, &here) {
            (Ok(by_git), Ok(here)) => by_git == here,
            (Err(by_git), Err(here)) => one.of(two, by_git) == one.of(two, here),
            _ => false,
        };
        if !is_alike {
            let kind = if is_nasty { "few distinct lines" } else { "distinct lines" };
            let differs =
                format!("{seed}, merge {round}, {kind}: git {}, here {}", shown(&by_git), shown(&here));
            return (merges, Some(differs));
        }
        match by_git {
            Ok(tree) => files[into] = one.merged(two, &tree),
            Err(_) => break,
        }
    }
    (merges, None)
}

fn shown(merged: &Merged) -> String {
    match merged {
        Ok(tree) => format!("clean {:?}", tree.keys().collect::<Vec<_>>()),
        Err(paths) => format!("conflicts {paths:?}"),
    }
}

#[test]
fn merges_are_those_of_git() {
    if !can_mount() {
        return;
    }
    if Command::new("git").arg("--version").output().is_err() {
        println!("SKIPPED: git is not installed");
        return;
    }
    let v = Volume::mount();
    v.take_snapshot("main", "empty");
    let (mut merges, mut differing) = (0, Vec::new());
    for seed in 0..HISTORIES {
        let dir = tempfile::tempdir().unwrap();
        let (count, differs) = history(&v, seed, dir.path());
        merges += count;
        differing.extend(differs);
    }
    println!("{merges} merges in {HISTORIES} histories; these differ: {differing:#?}");
    assert!(merges > 300 && differing.len() <= 8, "{differing:#?}");
}
