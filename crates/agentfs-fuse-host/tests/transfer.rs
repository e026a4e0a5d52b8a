//! `export` and `import`: what is interrupted leaves nothing behind, and names from outside lead nowhere else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod histories;
mod support;

use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use agentfs_core::testing::Chance;
use histories::{difference, whole};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use rustix::process::{Pid, Signal, kill_process};
use support::agents::{cli_of, fails, succeeds, told};
use support::{Volume, can_mount, run};

fn spawn(v: &Volume, args: &[&str]) -> Child {
    cli_of(v).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Some files that take a while.
fn bulk(root: &Path, text: &str) {
    for n in 0..80 {
        let dir = root.join(format!("bulk{}", n % 4));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(n.to_string()), text.repeat(20_000)).unwrap();
    }
}

fn fixed(path: &Path) {
    let time = Timespec { tv_sec: 499_162_500, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

fn same(a: &Path, b: &Path, what: &str) {
    let differing = difference(&whole(a), &whole(b));
    assert!(differing.is_empty(), "{what}: {differing}");
}

/// What is there of snapshots and branches, and of files beside a place.
fn left(v: &Volume, beside: &Path) -> (String, Vec<PathBuf>) {
    let listed = succeeds(v, &["snapshot-list"]) + &succeeds(v, &["branch-list"]);
    let mut files: Vec<PathBuf> = fs::read_dir(beside).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    (listed, files)
}

#[test]
fn what_is_told_to_end_leaves_nothing_behind() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    bulk(&v.root(), "x");
    let out = tempfile::tempdir().unwrap();
    let source = tempfile::tempdir().unwrap();
    bulk(source.path(), "y");
    let at = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    let (directory, archive, from) = (at("d"), at("t.tar"), source.path().to_str().unwrap().to_owned());
    v.grow_branch("main", "b");
    let (mut chance, mut interrupted) = (Chance(1), 0);
    for round in 0..60 {
        let before = (left(&v, out.path()), whole(&v.branch("b")));
        let args: &[&str] = match round % 3 {
            0 => &["export", "b", "--dir", &directory],
            1 => &["export", "b", "--tar", &archive],
            _ => &["import", &from, "--branch", "b"],
        };
        let signal = [Signal::INT, Signal::TERM, Signal::HUP][round / 3 % 3];
        let mut child = spawn(&v, args);
        std::thread::sleep(Duration::from_micros(3000 + chance.below(40_000)));
        let _ = kill_process(Pid::from_child(&child), signal);
        let code = child.wait().unwrap().code();
        if code == Some(128 + signal.as_raw()) {
            interrupted += 1;
            let differing = difference(&whole(&v.branch("b")), &before.1);
            assert!(differing.is_empty(), "{args:?}, round {round}: {differing}");
            let (listed, files) = left(&v, out.path());
            assert_eq!(files, before.0.1, "{args:?}, round {round}");
            // Of an import, what was before it and what was before that was undone.
            let kept = listed.lines().filter(|line| !line.contains("before-")).collect::<Vec<_>>();
            let kept_before: Vec<_> = before.0.0.lines().filter(|line| !line.contains("before-")).collect();
            assert_eq!(kept, kept_before, "{args:?}, round {round}");
        } else {
            assert!(matches!(code, Some(0) | None), "{args:?}, round {round}: {code:?}");
            let _ = fs::remove_dir_all(&directory);
            let _ = fs::remove_file(&archive);
            for left in fs::read_dir(out.path()).unwrap() {
                let _ = histories::remove(&left.unwrap().path()); // a signal before it could be caught
            }
            bulk(&v.branch("b"), if round % 2 == 0 { "z" } else { "x" });
        }
    }
    println!("{interrupted} of 60 were interrupted");
    assert!(interrupted > 10);
}

#[test]
fn an_import_is_undone() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("a"), "a").unwrap();
    v.grow_branch("main", "b");
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("a"), "other").unwrap();
    fs::create_dir(source.path().join("d")).unwrap();
    let before = whole(&v.branch("b"));
    succeeds(&v, &["import", source.path().to_str().unwrap(), "--branch", "b"]);
    same(&v.branch("b"), source.path(), "imported");
    assert!(succeeds(&v, &["log"]).contains("imported"));
    assert!(succeeds(&v, &["undo"]).starts_with("UNDONE\timport\t"));
    assert_eq!(difference(&whole(&v.branch("b")), &before), "");
    // An import that is killed is undone, too.
    bulk(source.path(), "x");
    let mut child = spawn(&v, &["import", source.path().to_str().unwrap(), "--branch", "b"]);
    let begun = Instant::now();
    while !v.branch("b").join("bulk0").exists() && begun.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_ne!(difference(&whole(&v.branch("b")), &before), "");
    succeeds(&v, &["undo"]);
    assert_eq!(difference(&whole(&v.branch("b")), &before), "");
}

/// A file is imported and exported for what it is, whatever its size and time.
#[test]
fn equal_sizes_and_times_are_no_equal_files() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    let source = tempfile::tempdir().unwrap();
    let from = source.path().to_str().unwrap();
    for text in ["AAAA", "BBBB"] {
        fs::create_dir_all(source.path().join("d")).unwrap();
        for name in ["f", "d/g"] {
            fs::write(source.path().join(name), text).unwrap();
            fixed(&source.path().join(name));
        }
        succeeds(&v, &["import", from]);
        assert_eq!(fs::read_to_string(v.path("f")).unwrap(), text);
        assert_eq!(fs::read_to_string(v.path("d/g")).unwrap(), text);
    }
    // Two names of one file become two files, where they are two in what is imported.
    fs::hard_link(v.path("f"), v.path("h")).unwrap();
    fs::copy(source.path().join("f"), source.path().join("h")).unwrap();
    succeeds(&v, &["import", from]);
    same(&v.root(), source.path(), "imported");
}

/// A branch that was exported in part, and goes on: the next export is of one moment.
#[test]
fn an_export_that_was_killed_and_begun_again_is_of_one_moment() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    bulk(&v.root(), "x");
    v.grow_branch("main", "b");
    let out = tempfile::tempdir().unwrap();
    let (directory, mut chance) = (out.path().join("d"), Chance(3));
    let to = directory.to_str().unwrap();
    for round in 0..12 {
        let mut child = spawn(&v, &["export", "b", "--dir", to]);
        std::thread::sleep(Duration::from_micros(3000 + chance.below(60_000)));
        let _ = child.kill();
        let _ = child.wait();
        let b = v.branch("b");
        fs::remove_dir_all(b.join(format!("bulk{}", round % 4))).unwrap();
        bulk(&b, if round % 2 == 0 { "y" } else { "x" });
        fs::remove_file(b.join(format!("bulk{}/{}", round % 4, round % 4))).unwrap();
        if directory.exists() {
            fs::remove_dir_all(&directory).unwrap(); // it was finished
        }
        succeeds(&v, &["export", "b", "--dir", to]);
        same(&directory, &b, &format!("round {round}"));
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1, "nothing beside it");
        fs::remove_dir_all(&directory).unwrap();
    }
}

/// The archive on standard output is an archive, and what no archive has is not counted.
#[test]
fn an_archive_on_standard_output_is_nothing_else() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("a"), "a").unwrap();
    fs::create_dir(v.path("d")).unwrap();
    let _socket = UnixListener::bind(v.path("d/socket")).unwrap();
    let output = cli_of(&v).args(["export", "main", "--tar", "-"]).output().unwrap();
    assert!(output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("EXPORTED\tFILES=2\n") && told.contains("1 sockets"), "{told}");
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("t.tar"), &output.stdout).unwrap();
    assert_eq!(output.stdout.len() % 512, 0, "whole blocks");
    run(out.path(), "tar", &["-xf", "t.tar"]);
    fs::remove_file(out.path().join("t.tar")).unwrap();
    fs::remove_file(v.path("d/socket")).unwrap();
    let names = |root: &Path| whole(root).into_keys().collect::<Vec<_>>();
    assert_eq!(names(out.path()), names(&v.root()));
}

/// A tree as deep as paths go takes no time that grows with the third power of its depth.
#[test]
fn a_deep_tree_is_exported() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    let mut path = v.root();
    for _ in 0..900 {
        path.push("d");
        fs::create_dir(&path).unwrap();
    }
    fs::write(v.path(".agentfsignore"), "*.o\n/target\n").unwrap();
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    assert!(succeeds(&v, &["export", "main", "--tar", &at("t.tar")]).contains("FILES=901"));
    assert!(succeeds(&v, &["export", "main", "--dir", &at("d")]).contains("FILES=901"));
}

/// Names are names of branches, and never paths.
#[test]
fn names_of_branches_lead_to_branches_alone() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    v.grow_branch("main", "b");
    fs::create_dir(v.branch("b").join("sub")).unwrap();
    let (source, victim) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(source.path().join("f"), "imported").unwrap();
    fs::write(victim.path().join("f"), "mine").unwrap();
    let from = source.path().to_str().unwrap();
    let absolute = victim.path().to_str().unwrap();
    let depth = v.root().components().count() + 2;
    let relative = format!("{}{absolute}", "../".repeat(depth));
    let snapshots = "../snapshots";
    for name in [absolute, &relative, "b/sub", "b/", "./b", "../branches/b", snapshots, "..", ".", "", "b\0c"]
    {
        if name.contains('\0') {
            continue; // no argument has it
        }
        for args in [
            &["import", from, "--branch", name][..],
            &["export", name, "--dir", &format!("{from}-out")],
            &["apply", name],
            &["diff", name, "main"],
            &["merge", name],
            &["branch-exec", "--branch", name, "--", "touch", "f"],
            &["branch-bind", "--branch", name],
            &["snapshot-create", "--branch", name],
            &["branch-create", "--from", name],
            &["branch-delete", name],
            &["restore", name, "--from", name],
        ] {
            if name.is_empty() && args[0] == "snapshot-create" {
                continue; // the branch that is seen
            }
            let words = fails(&v, args);
            assert!(words.lines().count() <= 2, "{args:?}: {words}");
        }
    }
    for name in ["x/y", "..", "/etc", "a\nb", "\u{1b}[31m"] {
        fails(&v, &["branch-create", "--from", "main", "--name", name]);
        fails(&v, &["snapshot-create", "--name", name]);
        fails(&v, &["branch-rename", "b", name]);
        fails(&v, &["branch-exec", "--branch", name, "--create", "--", "true"]);
    }
    assert_eq!(fs::read_to_string(victim.path().join("f")).unwrap(), "mine");
    assert_eq!(fs::read_dir(victim.path()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(v.branch("b")).unwrap().count(), 1, "only sub");
    assert_eq!(fs::read_dir(v.root()).unwrap().count(), 0);
    succeeds(&v, &["import", from, "--branch", "b"]);
    assert_eq!(fs::read_to_string(v.branch("b").join("f")).unwrap(), "imported");
}

/// What an archive goes through stays what it is.
#[test]
fn an_archive_goes_through_links_and_into_pipes_and_devices() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    bulk(&v.root(), "text");
    v.take_snapshot("main", "s");
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name);
    let export = |to: &Path| succeeds(&v, &["export", "s", "--tar", to.to_str().unwrap()]);
    export(&at("plain"));
    let expected = fs::read(at("plain")).unwrap();
    // Through a link, to what is there and to what is not.
    fs::write(at("target"), "before").unwrap();
    run(out.path(), "chmod", &["640", "target"]);
    std::os::unix::fs::symlink("target", at("link")).unwrap();
    export(&at("link"));
    assert!(at("link").is_symlink());
    assert_eq!(fs::read(at("target")).unwrap(), expected);
    assert_eq!(fs::metadata(at("target")).unwrap().permissions().mode() & 0o777, 0o640);
    // Into a pipe, that somebody reads.
    run(out.path(), "mkfifo", &["pipe"]);
    let pipe = at("pipe");
    let reader = std::thread::spawn(move || fs::read(pipe).unwrap());
    export(&at("pipe"));
    assert!(reader.join().unwrap() == expected && at("pipe").metadata().unwrap().file_type().is_fifo());
    if rustix::process::geteuid().is_root() {
        run(out.path(), "mknod", &["null", "c", "1", "3"]);
        export(&at("null"));
        assert!(at("null").metadata().unwrap().file_type().is_char_device());
    } else {
        println!("SKIPPED: a device of its own, which only root makes");
    }
}

#[test]
fn nothing_is_exported_into_what_the_volume_lies_over() {
    if !can_mount() {
        return;
    }
    let lower = tempfile::tempdir().unwrap();
    bulk(lower.path(), "text");
    let v = Volume::mount_with(&["--lower", lower.path().to_str().unwrap()], &[]);
    v.grow_branch("main", "b");
    let before = whole(lower.path());
    for to in ["out", "a/b/out", "bulk1/../out"] {
        let words = fails(&v, &["export", "b", "--dir", lower.path().join(to).to_str().unwrap()]);
        assert!(words.contains("lies over"), "{words}");
    }
    assert!(difference(&whole(lower.path()), &before).is_empty());
}

/// A tree that is not one's own does not make the command wait, or read what lies outside.
#[test]
fn the_file_of_what_is_left_out_is_a_regular_file() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    v.grow_branch("main", "b");
    let file = v.branch("b").join(".agentfsignore");
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("d");
    run(file.parent().unwrap(), "mkfifo", &[".agentfsignore"]);
    for what in ["pipe", "link"] {
        let mut export = std::process::Command::new("timeout");
        export.arg("20").arg(support::agents::cli()).arg("--mount").arg(v.root());
        let (done, words) = told(export.args(["export", "b", "--dir", to.to_str().unwrap()]));
        assert!(!done && words.contains("no regular file"), "{what}: {words}");
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
    }
    fs::remove_file(&file).unwrap();
    fs::write(&file, "\u{feff}left\r\n# no line\n*.o\n").unwrap();
    for name in ["left", "a.o", "kept"] {
        fs::write(v.branch("b").join(name), name).unwrap();
    }
    succeeds(&v, &["export", "b", "--dir", to.to_str().unwrap()]);
    let names: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        names.contains(&"kept".into()) && !names.contains(&"left".into()) && !names.contains(&"a.o".into())
    );
}

/// Several commands read one branch at once, each its own moment; what a killed one froze goes with the next of any branch.
#[test]
fn one_branch_is_exported_several_times_at_once() {
    if !can_mount() {
        return;
    }
    let (v, to) = (Volume::mount(), tempfile::tempdir().unwrap());
    v.grow_branch("main", "b");
    v.grow_branch("main", "c");
    bulk(&v.branch("b"), "some text");
    let before = left(&v, to.path()).0;
    let places: Vec<PathBuf> = (0..4).map(|n| to.path().join(n.to_string())).collect();
    let exports: Vec<Child> =
        places.iter().map(|place| spawn(&v, &["export", "b", "--dir", place.to_str().unwrap()])).collect();
    for (mut export, place) in exports.into_iter().zip(&places) {
        assert!(export.wait().unwrap().success(), "{}", place.display());
        same(place, &v.branch("b"), "an export beside others");
    }
    assert_eq!(left(&v, to.path()).0, before, "what was frozen is gone");
    let begun = Instant::now();
    let mut killed = spawn(&v, &["export", "b", "--dir", to.path().join("killed").to_str().unwrap()]);
    while left(&v, to.path()).0 == before {
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing was frozen");
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_ne!(left(&v, to.path()).0, before, "it was killed before it was done");
    succeeds(&v, &["export", "c", "--dir", to.path().join("c").to_str().unwrap()]);
    assert_eq!(left(&v, to.path()).0, before, "what was left is gone");
    succeeds(&v, &["branch-delete", "b"]);
}

/// Names of ours are of one form; others that begin so are files as any.
#[test]
fn names_that_are_nearly_ours_are_files_as_any() {
    if !can_mount() {
        return;
    }
    let (v, to) = (Volume::mount(), tempfile::tempdir().unwrap());
    let (out, back) = (to.path().join("out"), v.grow_branch("main", "back"));
    for name in [
        ".agentfs-draft-",
        ".agentfs-draft-notes",
        ".agentfs-draft-file-",
        ".agentfs-draft-file-00112233445566",
    ] {
        fs::create_dir_all(v.path("d")).unwrap();
        fs::write(v.path("d").join(name), name).unwrap();
    }
    succeeds(&v, &["export", "main", "--dir", out.to_str().unwrap()]);
    same(&out, &v.root(), "what was exported");
    fs::write(v.branch("back").join(".agentfs-draft-of-mine"), "kept").unwrap();
    succeeds(&v, &["import", out.to_str().unwrap(), "--branch", &back]);
    assert_eq!(fs::read_to_string(v.branch("back").join(".agentfs-draft-of-mine")).unwrap(), "kept");
    fs::remove_file(v.branch("back").join(".agentfs-draft-of-mine")).unwrap();
    same(&out, &v.branch("back"), "what was imported");
}

/// A file that is almost only a hole is compared by what is in it: to read all of it takes longer than any test may.
#[test]
fn what_is_a_hole_on_both_sides_is_not_read() {
    if !can_mount() {
        return;
    }
    let (v, to) = (Volume::mount(), tempfile::tempdir().unwrap());
    let back = v.grow_branch("main", "back");
    let sparse = |at: &Path| {
        let file = fs::File::create(at).unwrap();
        file.set_len(4 << 40).unwrap();
        file.write_all_at(b"far", 3 << 40).unwrap();
        fixed(at);
    };
    fs::create_dir(to.path().join("from")).unwrap();
    sparse(&to.path().join("from/f"));
    for _ in 0..2 {
        succeeds(&v, &["import", to.path().join("from").to_str().unwrap(), "--branch", &back]);
    }
    let mut far = [0; 4];
    fs::File::open(v.branch("back").join("f")).unwrap().read_exact_at(&mut far, (3 << 40) - 1).unwrap();
    assert_eq!(&far, b"\0far");
    // Other bytes at the same place, of the same size and time, are seen.
    let file = fs::File::options().write(true).open(to.path().join("from/f")).unwrap();
    file.write_all_at(b"FAR", 3 << 40).unwrap();
    fixed(&to.path().join("from/f"));
    succeeds(&v, &["import", to.path().join("from").to_str().unwrap(), "--branch", &back]);
    fs::File::open(v.branch("back").join("f")).unwrap().read_exact_at(&mut far, (3 << 40) - 1).unwrap();
    assert_eq!(&far, b"\0FAR");
}
