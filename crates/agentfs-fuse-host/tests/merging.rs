//! `diff`, `merge`, `restore`, `log`, `undo` and `prune` on real mounts, by the command line.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Pid;
use serde_json::Value;
use support::agents::{Agent, cli_of, has_python};
use support::{Volume, can_mount, run};

/// Runs the command line: what it exits with, and says on both of its outputs.
fn cli(v: &Volume, line: &str) -> (i32, String, String) {
    let Output { status, stdout, stderr } = cli_of(v).args(line.split(' ')).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// Has it begin, and says nothing.
fn quietly(v: &Volume, line: &str) -> Child {
    cli_of(v).args(line.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Runs it where it is to do what it is asked.
fn done(v: &Volume, line: &str) -> String {
    let (code, out, err) = cli(v, line);
    assert_eq!(code, 0, "{line}: {out}{err}\n{}", v.log());
    out
}

fn json(v: &Volume, line: &str) -> Value {
    serde_json::from_str(&done(v, &format!("{line} --json"))).unwrap()
}

/// Every file of a tree but what is in `.git`: type and permissions, and bytes.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let root = &root.canonicalize().unwrap();
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let bytes = match meta.file_type() {
                kind if kind.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
                kind if kind.is_file() => fs::read(&path).unwrap(),
                _ => Vec::new(),
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), (meta.mode(), bytes));
            if meta.is_dir() && !path.ends_with(".git") {
                open.push(path);
            }
        }
    }
    found.retain(|path, _| !path.ends_with(".git"));
    found
}

/// This repository's sources, in a volume with a git repository.
fn sources(v: &Volume) {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Not what was built of the crates that are no members of the workspace.
    let copy =
        "tar --exclude=target -c crates specs scripts README.md Cargo.toml Justfile | tar -x -C \"$0\"";
    run(&top, "sh", &["-c", copy, v.root().to_str().unwrap()]);
    commit(&v.root(), true);
}

fn commit(repository: &Path, is_new: bool) {
    if is_new {
        run(repository, "git", &["init", "-q", "."]);
        run(repository, "git", &["config", "user.email", "a@b"]);
        run(repository, "git", &["config", "user.name", "a"]);
        run(repository, "git", &["config", "gc.auto", "0"]);
    }
    run(repository, "git", &["add", "-A"]);
    run(repository, "git", &["commit", "-qm", "a commit"]);
}

fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    fs::write(path, change(fs::read_to_string(path).unwrap())).unwrap();
}

/// A patch, file by file.
fn pieces(patch: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for line in patch.split_inclusive('\n') {
        match pieces.last_mut() {
            Some(piece) if !line.starts_with("diff --git ") && !line.starts_with("Binary files ") => {
                piece.push_str(line);
            }
            _ => pieces.push(line.to_owned()),
        }
    }
    pieces.sort();
    pieces
}

/// What `git diff --no-index` says of two trees.
fn git_diff(old: &Path, new: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    for (root, name) in [(old, "a"), (new, "b")] {
        let to = dir.path().join(name);
        run(dir.path(), "cp", &["-r", root.canonicalize().unwrap().to_str().unwrap(), to.to_str().unwrap()]);
        for hidden in [".git", ".agentfs"] {
            let _ = fs::remove_dir_all(to.join(hidden));
        }
    }
    let mut git = Command::new("git");
    git.args(["-c", "core.abbrev=7", "diff", "--no-index", "--no-prefix", "--no-color", "a", "b"]);
    let output = git.current_dir(dir.path()).env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    // The names of the two directories stand for the prefixes, but where git names one side only.
    let named = |line: &str| {
        let (head, tail) = line.split_once(' ').unwrap_or((line, ""));
        match head {
            "diff" => {
                let (a, b) = tail.trim_start_matches("--git ").split_once(' ').unwrap();
                format!("diff --git a/{} b/{}", &a[2..], &b[2..])
            }
            "rename" => line.replacen(" a/", " ", 1).replacen(" b/", " ", 1),
            _ => line.to_owned(),
        }
    };
    let told: String = String::from_utf8(output.stdout).unwrap().split_inclusive('\n').map(named).collect();
    // Binary files are named, and nothing else is said of them: git takes the rest of the patch then.
    let is_whole = |piece: &String| !told.contains(&format!("{piece}Binary files "));
    pieces(&told).into_iter().filter(is_whole).collect()
}

/// And git makes the branch of each.
fn patches_are_those_of_git(v: &Volume, branches: &[PathBuf; 3]) {
    for (branch, view) in ["left", "right", "third"].iter().zip(branches) {
        let (code, patch, notes) = cli(v, &format!("diff base {branch} --patch"));
        assert_eq!(code, 1, "{patch}{notes}");
        assert_eq!(pieces(&patch), pieces(&git_diff(&v.snapshot("base"), view)), "{branch}");
        assert!(notes.contains("left out: .git"), "{notes}");
        let copy = tempfile::tempdir().unwrap();
        run(
            copy.path(),
            "cp",
            &["-r", &format!("{}/.", v.snapshot("base").canonicalize().unwrap().display()), "."],
        );
        let at = copy.path().join(".git/the-patch");
        fs::write(&at, &patch).unwrap();
        let is_all = !patch.contains("Binary files");
        if is_all {
            run(copy.path(), "git", &["apply", at.to_str().unwrap()]);
            assert_eq!(tree(copy.path()), tree(view), "{branch}: the patch");
        }
    }
}

/// One path, then all, and back again.
fn back_and_forth(v: &Volume, before: &BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    let (all, log) = (tree(&v.root()), done(v, "log"));
    for line in ["● main", "◆ base", "├─ ● left", "⇐ merged left", "⇐ merged right", "⇐ merged third"]
    {
        assert!(log.contains(line), "{line}: {log}");
    }
    let events = json(v, "log")["events"].as_array().unwrap().len();
    assert_eq!(events, 4, "{log}");
    assert!(done(v, "log --dot").starts_with("digraph"));
    done(v, "restore main --from base README.md");
    assert_eq!(tree(&v.root())[Path::new("README.md")], before[Path::new("README.md")]);
    assert!(v.path("specifications/left.md").exists());
    done(v, "restore main --from base");
    assert_eq!(tree(&v.root()), *before);
    assert_eq!(cli(v, "diff base main"), (0, String::new(), String::new()));
    done(v, "undo");
    done(v, "undo");
    assert_eq!(tree(&v.root()), all);
    done(v, "undo");
    assert!(v.path("specs/left.md").exists() && !v.path("specifications").exists());
}

#[test]
fn three_branches_of_this_repository_are_compared_merged_resolved_and_undone() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    sources(&v);
    done(&v, "snapshot-create --name base");
    let branches = ["left", "right", "third"].map(|name| {
        v.grow_branch("main", name);
        v.branch(name)
    });
    let [left, right, third] = &branches;
    // One renames a function everywhere, one edits the same lines and others, one moves files and adds some.
    let core = "crates/agentfs-core/src";
    run(&left.join(core), "sh", &["-c", "grep -rl 'fn join' . | xargs sed -i 's/fn join/fn joined/'"]);
    edit(&left.join("README.md"), |text| format!("# Left\n{text}"));
    fs::write(left.join("specs/left.md"), "left\n").unwrap();
    edit(&right.join("README.md"), |text| format!("# Right\n{text}The end.\n"));
    edit(&right.join("Justfile"), |text| text.replace("Mount a volume", "Mount one volume"));
    fs::remove_file(right.join("specs/control-protocol.md")).unwrap();
    fs::rename(third.join("specs"), third.join("specifications")).unwrap();
    fs::write(third.join("specifications/binary"), [0, 1, 2, 255]).unwrap();
    fs::set_permissions(third.join("README.md"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("README.md", third.join("link")).unwrap();
    for branch in &branches {
        commit(branch, false);
    }
    patches_are_those_of_git(&v, &branches);
    let before = tree(&v.root());
    let merged = done(&v, "merge left");
    assert!(
        merged.starts_with("MERGED\tBRANCH=main\t") && merged.contains("SNAPSHOT=before-merge-1"),
        "{merged}"
    );
    assert_eq!(tree(&v.root()), tree(left));
    assert!(v.path(core).join("store").exists() && v.path("specs/left.md").exists());
    // The heads of both README.md differ.
    let after_left = tree(&v.root());
    let (code, told, notes) = cli(&v, "merge right");
    assert_eq!((code, told.lines().next()), (1, Some("CONFLICT\tedit/edit\tREADME.md")), "{told}");
    assert!(notes.contains("nothing was changed") && notes.contains("fetch"), "{notes}");
    assert_eq!(tree(&v.root()), after_left);
    // Whoever works on it resolves it, in the branch.
    let (code, told, _) = cli(&v, "merge main --into right --leave-markers");
    assert!(code == 0 && told.contains("CONFLICT\tedit/edit\tREADME.md"), "{told}");
    let marked = fs::read_to_string(right.join("README.md")).unwrap();
    assert!(marked.starts_with("<<<<<<< right\n# Right\n=======\n# Left\n>>>>>>> main\n"), "{marked}");
    edit(&right.join("README.md"), |text| {
        text.replace("<<<<<<< right\n# Right\n=======\n# Left\n>>>>>>> main\n", "# Left and right\n")
    });
    done(&v, "merge right");
    assert_eq!(tree(&v.root()), tree(right), "after both were merged into each other they are the same");
    assert!(fs::read_to_string(v.path("README.md")).unwrap().starts_with("# Left and right\n"));
    assert!(!v.path("specs/control-protocol.md").exists() && v.path("specs/left.md").exists());
    // The third moved the directory in which the others deleted one file and made another.
    done(&v, "merge third");
    assert!(v.path("specifications/left.md").exists() && !v.path("specs").exists());
    assert!(!v.path("specifications/control-protocol.md").exists());
    back_and_forth(&v, &before);
    run(&v.root(), "git", &["fsck", "--strict"]);
}

#[test]
fn everybody_sees_a_merge_at_once_and_what_is_open_stays_its_openers() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    let root = v.root();
    for name in ["taken", "moved", "gone", "mode", "both"] {
        fs::write(root.join(name), format!("{name} of before\n1\n2\n3\n4\n5\n6\n")).unwrap();
    }
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/in"), "in").unwrap();
    v.grow_branch("main", "b");
    let b = v.branch("b");
    fs::write(b.join("taken"), "taken of b\n").unwrap();
    fs::rename(b.join("moved"), b.join("there")).unwrap();
    fs::remove_file(b.join("gone")).unwrap();
    fs::set_permissions(b.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    edit(&b.join("both"), |text| text.replace("6\n", "six\n"));
    edit(&root.join("both"), |text| text.replace("1\n", "one\n"));
    fs::rename(b.join("d"), b.join("e")).unwrap();
    fs::write(b.join("new"), "new").unwrap();
    // All of this the kernel knows, and may keep.
    let list = |at: &Path| {
        let mut names: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert!(list(&root).len() == 6 && !root.join("new").exists() && !root.join("there").exists());
    for name in ["taken", "moved", "gone", "mode", "both", "d/in"] {
        fs::metadata(root.join(name)).unwrap();
    }
    let mut open = ["taken", "moved", "gone", "both"].map(|name| {
        let file = fs::File::options().read(true).write(true).open(root.join(name)).unwrap();
        (name, file)
    });
    let directory = fs::File::open(root.join("d")).unwrap();
    done(&v, "merge b");
    assert_eq!(list(&root), ["both", "e", "mode", "new", "taken", "there"]);
    assert_eq!(fs::read_to_string(root.join("taken")).unwrap(), "taken of b\n");
    assert_eq!(fs::read_to_string(root.join("there")).unwrap().lines().next(), Some("moved of before"));
    assert!(!root.join("gone").exists() && !root.join("moved").exists() && !root.join("d").exists());
    assert_eq!(fs::metadata(root.join("mode")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(root.join("both")).unwrap(), "both of before\none\n2\n3\n4\n5\nsix\n");
    assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "new");
    assert_eq!(list(&root.join("e")), ["in"]);
    for (name, file) in &mut open {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert!(text.starts_with(&format!("{name} of before")), "{text}");
        std::io::Write::write_all(file, b"into what was open").unwrap();
    }
    let (_, moved) = &open[1];
    assert_eq!(moved.metadata().unwrap().nlink(), 1, "what was moved is the same file");
    assert!(fs::read_to_string(root.join("there")).unwrap().ends_with("into what was open"));
    assert!(!fs::read_to_string(root.join("taken")).unwrap().contains("open"));
    assert_eq!(
        rustix::fs::openat(&directory, "in", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).map(drop),
        Ok(())
    );
    drop(open);
    done(&v, "undo");
    assert_eq!(list(&root), ["both", "d", "gone", "mode", "moved", "taken"]);
    assert_eq!(fs::metadata(root.join("mode")).unwrap().mode() & 0o777, 0o644);
    assert_eq!(fs::read_to_string(root.join("gone")).unwrap().lines().next(), Some("gone of before"));
}

#[test]
fn who_is_bound_to_the_branch_sees_it_too() {
    if !can_mount() || !has_python() {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("f"), "old").unwrap();
    v.grow_branch("main", "a");
    v.grow_branch("a", "b");
    let mut agent = Agent::start(&v.root());
    agent.bind(&v, "a");
    assert_eq!(agent.text("open('f').read()"), "old");
    fs::write(v.branch("b").join("f"), "new").unwrap();
    fs::create_dir(v.branch("b").join("dir")).unwrap();
    done(&v, "merge b");
    assert_eq!(agent.text("open('f').read()"), "new");
    assert_eq!(agent.value("os.path.isdir('dir')"), true);
    assert_eq!(fs::read_to_string(v.path("f")).unwrap(), "old");
}

#[test]
fn killed_in_the_middle_of_a_merge_or_restore_a_branch_has_all_of_it_or_nothing() {
    if !can_mount() {
        return;
    }
    const FILES: usize = 400;
    let mut v = Volume::mount();
    for n in 0..FILES {
        let dir = v.path(&format!("d{}", n % 20));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), format!("{n}\n1\n2\n3\n4\n5\n")).unwrap();
    }
    done(&v, "snapshot-create --name base");
    v.grow_branch("main", "b");
    let b = v.branch("b");
    for n in 0..FILES {
        let file = b.join(format!("d{}/f{n}", n % 20));
        match n % 4 {
            0 => edit(&file, |text| text.replace("5\n", "five\n")),
            1 => fs::remove_file(&file).unwrap(),
            2 => fs::rename(&file, file.with_extension("moved")).unwrap(),
            _ => fs::write(file.with_extension("new"), vec![b'n'; 6000]).unwrap(),
        }
        if n % 4 == 0 {
            edit(&v.path(&format!("d{}/f{n}", n % 20)), |text| text.replace("1\n", "one\n"));
        }
    }
    let before = tree(&v.root());
    done(&v, "merge b");
    let merged = tree(&v.root());
    assert_ne!(before, merged);
    let base = tree(&v.snapshot("base"));
    done(&v, "undo");
    let (mut counts, mut chance) = ([[0; 2]; 2], agentfs_core::testing::Chance(41));
    for round in 0..40 {
        let (line, after, place) =
            if round % 2 == 0 { ("merge b", &merged, 0) } else { ("restore main --from base", &base, 1) };
        let mut child = cli_of(&v)
            .args(line.split(' '))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(chance.below(120_000)));
        v.kill();
        let answered = child.wait().unwrap().success();
        let checked = support::run_daemon(&["check", v.store().to_str().unwrap()], &[]);
        assert!(checked.status.success(), "round {round}: {}", String::from_utf8_lossy(&checked.stdout));
        v.remount();
        let found = tree(&v.root());
        let is_done = found == *after;
        assert!(
            is_done || (found == before && !answered),
            "round {round}: neither all nor nothing of {line}"
        );
        counts[place][usize::from(is_done)] += 1;
        if is_done {
            done(&v, "undo");
            assert_eq!(tree(&v.root()), before, "round {round}");
        }
    }
    println!("merge, restore: [not done, done] {counts:?}");
    assert!(counts.iter().all(|[_, done]| *done > 0), "the kills came too early: {counts:?}");
}

#[test]
fn a_repository_is_left_alone_unless_it_is_to_be_taken_whole() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    let repository = v.path("r");
    fs::create_dir(&repository).unwrap();
    fs::write(repository.join("f"), "1\n").unwrap();
    commit(&repository, true);
    v.grow_branch("main", "b");
    let b = v.branch("b").join("r");
    fs::write(b.join("g"), "from b\n").unwrap();
    commit(&b, false);
    fs::write(repository.join("h"), "from main\n").unwrap();
    commit(&repository, false);
    let (code, names, notes) = cli(&v, "diff main b");
    assert_eq!((code, names.as_str()), (1, "A\tr/g\nD\tr/h\n"), "{notes}");
    assert!(notes.contains("left out: r/.git"), "{notes}");
    assert!(cli(&v, "diff main b --with-git").1.contains("r/.git/"));
    let (code, _, notes) = cli(&v, "merge b");
    assert_eq!(code, 0, "{notes}");
    assert_eq!(fs::read_to_string(repository.join("g")).unwrap(), "from b\n");
    run(&repository, "git", &["fsck", "--strict"]);
    assert_eq!(run(&repository, "git", &["status", "--porcelain"]), "?? g\n");
    // What the note shows does it right.
    let fetch = notes.split("its commits: ").nth(1).unwrap().split(',').next().unwrap();
    fs::remove_file(repository.join("g")).unwrap();
    run(&v.root(), "sh", &["-c", fetch]);
    run(&repository, "git", &["merge", "-q", "-m", "both", "FETCH_HEAD"]);
    assert_eq!(run(&repository, "git", &["rev-list", "--count", "HEAD"]).trim(), "4");
    assert_eq!(run(&repository, "git", &["status", "--porcelain"]), "");
    // Or it is taken whole.
    v.grow_branch("main", "c");
    let c = v.branch("c").join("r");
    fs::write(c.join("i"), "from c\n").unwrap();
    commit(&c, false);
    fs::write(repository.join("j"), "from main\n").unwrap();
    commit(&repository, false);
    let head = run(&c, "git", &["rev-parse", "HEAD"]);
    done(&v, "merge c --with-git");
    run(&repository, "git", &["fsck", "--strict"]);
    assert_eq!(run(&repository, "git", &["rev-parse", "HEAD"]), head);
}

#[test]
fn over_a_directory_branches_are_compared_merged_and_restored_as_well() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path();
    for n in 0..30 {
        fs::create_dir_all(below.join(format!("d{}", n % 3))).unwrap();
        fs::write(below.join(format!("d{}/f{n}", n % 3)), format!("{n}\n1\n2\n3\n4\n")).unwrap();
    }
    fs::write(below.join(".agentfsignore"), "target/\n*.o\n").unwrap();
    let v = Volume::mount_with(&["--lower", below.to_str().unwrap()], &[]);
    let was = tree(below);
    assert_eq!(cli(&v, "diff lower main"), (0, String::new(), String::new()));
    v.grow_branch("main", "b");
    let b = v.branch("b");
    edit(&b.join("d0/f0"), |text| text.replace("4\n", "four\n"));
    edit(&v.path("d0/f0"), |text| text.replace("1\n", "one\n"));
    fs::remove_dir_all(b.join("d1")).unwrap();
    fs::rename(b.join("d2"), b.join("e2")).unwrap();
    fs::write(v.path("d2/new"), "in main").unwrap();
    fs::create_dir(b.join("target")).unwrap();
    fs::write(b.join("target/x"), "x").unwrap();
    fs::write(b.join("x.o"), "x").unwrap();
    let (code, names, notes) = cli(&v, "diff lower b");
    assert_eq!(code, 1);
    let expected: String = ["D\td1\n".to_owned(), "M\td0/f0\tcontent\n".to_owned(), "R\td2\te2\n".to_owned()]
        .into_iter()
        .chain((0..30).filter(|n| n % 3 == 1).map(|n| format!("D\td1/f{n}\n")))
        .collect();
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&names), sorted(&expected), "{notes}");
    assert!(notes.contains("3 paths, by the .agentfsignore"), "{notes}");
    assert!(cli(&v, "diff lower b --all").1.contains("A\ttarget/x\n"));
    assert!(cli(&v, "diff lower b d0").1 == "M\td0/f0\tcontent\n");
    let (_, patch, _) = cli(&v, "diff lower b --patch d0");
    assert!(patch.contains("-4\n+four\n"), "{patch}");
    let before = tree(&v.root());
    done(&v, "merge b");
    assert_eq!(fs::read_to_string(v.path("d0/f0")).unwrap(), "0\none\n2\n3\nfour\n");
    assert!(!v.path("d1").exists() && !v.path("d2").exists() && !v.path("target").exists());
    assert_eq!(fs::read_to_string(v.path("e2/new")).unwrap(), "in main");
    assert_eq!(fs::read_to_string(v.path("e2/f2")).unwrap(), "2\n1\n2\n3\n4\n");
    let merged = tree(&v.root());
    done(&v, "undo");
    assert_eq!(tree(&v.root()), before);
    done(&v, "restore main --from before-undo-1");
    assert_eq!(tree(&v.root()), merged);
    assert_eq!(tree(below), was, "nothing is written to the directory below");
}

#[test]
fn what_is_asked_for_wrongly_is_refused_in_a_sentence() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("f"), "f").unwrap();
    done(&v, "snapshot-create --name s");
    v.grow_branch("main", "b");
    let refused = |line: &str, code: i32, sentence: &str| {
        let (found, out, err) = cli(&v, line);
        assert!(found == code && err.contains(sentence), "{line}: {found} {out}{err}");
    };
    refused("diff main nothing", 2, "there is no snapshot or branch \"nothing\"");
    refused("diff main lower", 2, "lies over no directory");
    refused("diff main lower --patch", 2, "lies over no directory");
    refused("merge nothing", 1, "nothing");
    refused("merge main", 1, "name one with --into");
    refused("merge b --into b", 1, "into itself");
    refused("merge b --ours --theirs", 2, "cannot be used with");
    refused("restore main --from nothing", 1, "nothing");
    refused("restore main --from s missing", 1, "ENOENT");
    refused("restore main --from s ../x", 1, "..");
    refused("undo", 1, "nothing to undo");
    refused("prune", 2, "--keep-last");
    refused("prune --older-than soon", 2, "invalid value");
    refused("log --dot --json", 2, "cannot be used with");
    assert!(done(&v, "merge b").starts_with("UP_TO_DATE"));
    assert!(done(&v, "restore main --from s").starts_with("UP_TO_DATE"));
    assert!(done(&v, "restore main --from s .").starts_with("UP_TO_DATE"));
}

#[test]
fn a_deleted_branch_comes_back_until_another_is_deleted_or_it_is_deleted_for_good() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("f"), "f").unwrap();
    for name in ["a", "b", "c"] {
        v.grow_branch("main", name);
        fs::write(v.branch(name).join(name), vec![b'x'; 50_000]).unwrap();
    }
    assert!(done(&v, "branch-delete a").contains("SNAPSHOT=before-delete-1"));
    assert!(!v.branch("a").exists());
    assert!(done(&v, "undo").contains("NAME=a"));
    assert_eq!(fs::read(v.branch("a").join("a")).unwrap().len(), 50_000);
    let told = done(&v, "branch-delete b");
    assert!(told.contains("BYTES_RECLAIMED=0"), "{told}");
    // The next takes the room of the one before.
    let told = done(&v, "branch-delete c");
    assert!(!told.contains("BYTES_RECLAIMED=0\t"), "{told}");
    assert!(done(&v, "undo").contains("NAME=c"));
    assert!(cli(&v, "undo").2.contains("is gone: it cannot be undone"), "b is gone for good");
    let told = done(&v, "branch-delete c --now");
    assert!(!told.contains("SNAPSHOT="), "{told}");
}

#[test]
fn old_snapshots_are_told_and_then_deleted() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    v.grow_branch("main", "b");
    for n in 0..4 {
        fs::write(v.branch("b").join("f"), format!("{n}")).unwrap();
        done(&v, "merge b");
    }
    done(&v, "snapshot-create --name mine");
    done(&v, "snapshot-create");
    let names = |v: &Volume| {
        let list = json(v, "snapshot-list");
        list.as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["name"].as_str().unwrap_or("-").to_owned())
            .collect::<Vec<_>>()
    };
    let all = names(&v);
    assert_eq!(all, ["before-merge-1", "before-merge-2", "before-merge-3", "before-merge-4", "mine", "-"]);
    let told = done(&v, "prune --keep-last 2");
    assert_eq!(told.lines().count(), 3, "{told}");
    assert!(told.lines().all(|line| line.starts_with("WOULD_DELETE\t")), "{told}");
    assert_eq!(names(&v), all);
    assert_eq!(done(&v, "prune --older-than 1h --delete"), "");
    done(&v, "prune --keep-last 2 --delete");
    assert_eq!(names(&v), ["before-merge-4", "mine", "-"]);
    done(&v, "undo");
    assert_eq!(fs::read_to_string(v.path("f")).unwrap(), "2");
    assert!(cli(&v, "undo").2.contains("is gone"));
}

#[test]
fn who_writes_meanwhile_loses_nothing_and_an_interrupted_merge_changes_nothing() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    for n in 0..60 {
        fs::create_dir(v.path(&format!("d{n}"))).unwrap();
        fs::write(v.path(&format!("d{n}/f")), "0").unwrap();
    }
    v.grow_branch("main", "b");
    let stop = AtomicBool::new(false);
    let (mut merged, mut interrupted) = (0, 0);
    let count = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut count = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                let (draft, own) = (v.path("draft"), v.path(&format!("d{}/own{count}", count % 60)));
                fs::write(&draft, format!("{count}")).unwrap();
                fs::rename(&draft, own).unwrap();
            }
            count
        });
        let mut text = "0".to_owned();
        for round in 1..=30_u64 {
            for n in 0..60 {
                fs::write(v.branch("b").join(format!("d{n}/f")), format!("{round}")).unwrap();
            }
            let mut child = quietly(&v, "merge b");
            std::thread::sleep(Duration::from_millis(round * 2));
            // It may have ended.
            let _ = rustix::process::kill_process(Pid::from_child(&child), rustix::process::Signal::INT);
            let code = child.wait().unwrap().code();
            if code.is_none() {
                // A signal before it is waited for; the daemon may be about to do it: another comes after that.
                done(&v, "merge b");
            }
            let found: Vec<String> =
                (0..60).map(|n| fs::read_to_string(v.path(&format!("d{n}/f"))).unwrap()).collect();
            let now = found[0].clone();
            assert!(found.iter().all(|text| *text == now), "round {round}: some of it: {found:?}");
            match code {
                Some(0) => {
                    assert_eq!(now, format!("{round}"));
                    merged += 1;
                }
                Some(130) => {
                    assert_eq!(now, text, "round {round}");
                    interrupted += 1;
                }
                None => interrupted += 1,
                Some(_) => panic!("round {round}: {code:?}"),
            }
            text = now;
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    println!("{merged} merged, {interrupted} interrupted, {count} files written meanwhile");
    for n in 1..=count {
        assert_eq!(fs::read_to_string(v.path(&format!("d{}/own{n}", n % 60))).unwrap(), n.to_string());
    }
    done(&v, "merge b");
    assert!((0..60).all(|n| fs::read_to_string(v.path(&format!("d{n}/f"))).unwrap() == "30"));
}

#[test]
fn a_branch_that_is_written_all_the_while_goes_back_too() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    for n in 0..100 {
        fs::write(v.path(&format!("f{n}")), format!("{n}")).unwrap();
    }
    done(&v, "snapshot-create --name s");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (v, stop) = (&v, &stop);
                scope.spawn(move || {
                    for n in 0_u32.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        // What was there a moment ago may be gone.
                        let draft = v.path(&format!("draft{writer}"));
                        let _ = fs::write(&draft, "x")
                            .and_then(|()| fs::rename(&draft, v.path(&format!("new{writer}-{}", n % 50))));
                    }
                })
            })
            .collect();
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(20));
            done(&v, "restore main --from s");
        }
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
    done(&v, "restore main --from s");
    assert_eq!(tree(&v.root()), tree(&v.snapshot("s")));
}

#[test]
fn patches_of_directories_that_were_moved_make_the_other_tree() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    for (path, text) in
        [("d/f", "f\n"), ("d/sub/g", "g\n"), ("e/f", "old\n"), ("build/x", "x\n"), ("src/y", "y\n")]
    {
        fs::create_dir_all(v.path(path).parent().unwrap()).unwrap();
        fs::write(v.path(path), text).unwrap();
    }
    fs::write(v.path(".agentfsignore"), "build/\n").unwrap();
    v.grow_branch("main", "b");
    let b = v.branch("b");
    fs::remove_dir_all(b.join("e")).unwrap();
    fs::rename(b.join("d"), b.join("e")).unwrap();
    fs::write(b.join("e/new"), "new\n").unwrap();
    fs::rename(b.join("src"), b.join("moved")).unwrap();
    fs::rename(b.join("build"), b.join("src")).unwrap();
    let (code, patch, notes) = cli(&v, "diff main b --patch");
    assert_eq!(code, 1, "{notes}");
    let copy = tempfile::tempdir().unwrap();
    run(copy.path(), "cp", &["-r", &format!("{}/.", v.root().display()), "."]);
    fs::write(copy.path().join(".the-patch"), &patch).unwrap();
    run(copy.path(), "git", &["apply", ".the-patch"]);
    fs::remove_file(copy.path().join(".the-patch")).unwrap();
    // What is left out stays where it was.
    fs::remove_dir_all(copy.path().join("build")).unwrap();
    let files = |root: &Path| {
        let mut found = tree(root);
        found.retain(|_, (mode, _)| *mode & libc::S_IFMT != libc::S_IFDIR);
        found
    };
    assert_eq!(files(copy.path()), files(&b), "{patch}");
    // Some of it only.
    let (code, some, _) = cli(&v, "diff main b --patch d");
    assert!(code == 1 && some.contains("rename to e/sub/g") && !some.contains("moved/y"), "{some}");
    assert_eq!(cli(&v, "diff main b --patch e/new").1.matches("diff --git").count(), 1);
    assert_eq!(cli(&v, "diff main b e/sub").0, 1);
    let (code, stat, _) = cli(&v, "diff main b --stat moved");
    assert!(code == 1 && stat.starts_with(" src/y => moved/y |   0\n 1 file changed"), "{stat}");
}

#[test]
fn who_stands_in_a_directory_that_a_merge_moved_goes_on_to_stand_in_it() {
    if !can_mount() || !has_python() {
        return;
    }
    let v = Volume::mount();
    fs::create_dir(v.path("src")).unwrap();
    fs::write(v.path("src/f"), "old").unwrap();
    v.grow_branch("main", "b");
    // Somebody is bound, so that what is at the mount point depends on who asks.
    let _bound = Agent::bound(&v, "b", &v.root());
    let mut agent = Agent::start(&v.path("src"));
    assert_eq!(agent.text("open('f').read()"), "old");
    let b = v.branch("b");
    fs::rename(b.join("src"), b.join("old")).unwrap();
    fs::create_dir(b.join("src")).unwrap();
    fs::write(b.join("src/f"), "new").unwrap();
    done(&v, "merge b");
    assert_eq!(fs::read_to_string(v.path("src/f")).unwrap(), "new");
    assert_eq!(agent.text("open('f').read()"), "old");
    agent.value("open('mine', 'w').close()");
    assert!(v.path("old/mine").exists() && !v.path("src/mine").exists());
}
