//! Branches and snapshots side by side on a real mount: each shows its own, and only its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use agentfs_proto::Response;
use support::{Volume, can_mount, code};

fn errno(result: std::io::Result<impl Sized>) -> i32 {
    result.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}

#[test]
fn three_branches_and_a_snapshot_diverge_in_everything() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    for (name, text) in
        [("over", "old"), ("append", "old"), ("cut", "old content"), ("gone", "x"), ("moved", "m")]
    {
        fs::write(v.path(name), text).unwrap();
    }
    fs::create_dir(v.path("dir")).unwrap();
    fs::write(v.path("dir/f"), "f").unwrap();
    fs::create_dir(v.path("empty")).unwrap();
    v.take_snapshot("main", "s");
    v.grow_branch("s", "a");
    v.grow_branch("main", "b");
    let trees = [("a", v.branch("a")), ("b", v.branch("b")), ("main", v.root())];
    for (who, tree) in &trees {
        fs::write(tree.join("over"), who).unwrap();
        let mut file = fs::OpenOptions::new().append(true).open(tree.join("append")).unwrap();
        file.write_all(who.as_bytes()).unwrap();
        fs::File::options().write(true).open(tree.join("cut")).unwrap().set_len(who.len() as u64).unwrap();
        fs::remove_file(tree.join("gone")).unwrap();
        fs::write(tree.join(format!("new-{who}")), who).unwrap();
        fs::rename(tree.join("moved"), tree.join(format!("moved-{who}"))).unwrap();
        fs::rename(tree.join("dir"), tree.join(format!("dir-{who}"))).unwrap();
        fs::set_permissions(tree.join("over"), fs::Permissions::from_mode(0o600 + who.len() as u32)).unwrap();
        fs::remove_dir(tree.join("empty")).unwrap();
        symlink(format!("/to/{who}"), tree.join("link")).unwrap();
        fs::hard_link(tree.join("over"), tree.join(format!("hard-{who}"))).unwrap();
    }
    for (who, tree) in &trees {
        assert_eq!(fs::read_to_string(tree.join("over")).unwrap(), *who);
        assert_eq!(fs::read_to_string(tree.join("append")).unwrap(), format!("old{who}"));
        assert_eq!(fs::read_to_string(tree.join("cut")).unwrap(), "old content"[..who.len()]);
        assert_eq!(fs::read_to_string(tree.join(format!("dir-{who}/f"))).unwrap(), "f");
        assert_eq!(fs::metadata(tree.join("over")).unwrap().mode() & 0o777, 0o600 + who.len() as u32);
        assert_eq!(fs::read_link(tree.join("link")).unwrap().to_str().unwrap(), format!("/to/{who}"));
        assert_eq!(fs::metadata(tree.join("over")).unwrap().nlink(), 2);
        let mut names: Vec<String> =
            fs::read_dir(tree).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let mut expected: Vec<String> = ["append", "cut", "link", "over"].map(str::to_owned).to_vec();
        expected.extend(["dir", "hard", "moved", "new"].map(|n| format!("{n}-{who}")));
        expected.sort();
        assert_eq!(names, expected);
    }
    let s = v.snapshot("s");
    assert_eq!(fs::read_to_string(s.join("over")).unwrap(), "old");
    assert_eq!(fs::read_to_string(s.join("append")).unwrap(), "old");
    assert_eq!(fs::read_to_string(s.join("cut")).unwrap(), "old content");
    assert_eq!(fs::read_to_string(s.join("gone")).unwrap(), "x");
    assert_eq!(fs::read_to_string(s.join("dir/f")).unwrap(), "f");
    assert_eq!(fs::read_dir(&s).unwrap().count(), 7);
}

#[test]
fn a_snapshot_refuses_every_change_and_its_branch_none() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("f"), "one").unwrap();
    fs::create_dir(v.path("d")).unwrap();
    v.take_snapshot("main", "s");
    let s = v.snapshot("s");
    let rofs = libc::EROFS;
    assert_eq!(errno(fs::write(s.join("f"), "x")), rofs);
    assert_eq!(errno(fs::write(s.join("new"), "x")), rofs);
    assert_eq!(errno(fs::create_dir(s.join("n"))), rofs);
    assert_eq!(errno(fs::remove_file(s.join("f"))), rofs);
    assert_eq!(errno(fs::remove_dir(s.join("d"))), rofs);
    assert_eq!(errno(fs::rename(s.join("f"), s.join("g"))), rofs);
    assert_eq!(errno(fs::hard_link(s.join("f"), s.join("g"))), rofs);
    assert_eq!(errno(symlink("x", s.join("l"))), rofs);
    assert_eq!(errno(fs::set_permissions(s.join("f"), fs::Permissions::from_mode(0o777))), rofs);
    assert_eq!(errno(fs::File::open(s.join("f")).unwrap().set_modified(std::time::SystemTime::now())), rofs);
    assert_eq!(fs::read_to_string(s.join("f")).unwrap(), "one");
    fs::write(v.path("f"), "two").unwrap();
    assert_eq!(fs::read_to_string(s.join("f")).unwrap(), "one");
    assert_eq!(fs::read_to_string(v.path("f")).unwrap(), "two");
}

#[test]
fn an_open_file_goes_on_in_its_branch_over_a_snapshot() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    let mut file =
        fs::File::options().create(true).read(true).write(true).truncate(true).open(v.path("f")).unwrap();
    file.write_all(b"before").unwrap();
    v.take_snapshot("main", "s");
    file.write_all(b" after").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before after");
    assert_eq!(fs::read_to_string(v.snapshot("s").join("f")).unwrap(), "before");
    fs::remove_file(v.path("f")).unwrap();
    v.take_snapshot("main", "t");
    file.write_all(b"!").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 13);
    assert_eq!(errno(fs::metadata(v.snapshot("t").join("f"))), libc::ENOENT);
}

#[test]
fn branches_nest_and_live_on_without_their_parents() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("f"), "0").unwrap();
    let mut from = "main".to_owned();
    for depth in 1..=20 {
        let name = format!("b{depth}");
        v.grow_branch(&from, &name);
        let mut file = fs::OpenOptions::new().append(true).open(v.branch(&name).join("f")).unwrap();
        write!(file, " {depth}").unwrap();
        drop(file);
        v.take_snapshot(&name, &format!("s{depth}"));
        from = name;
    }
    let text = |n: usize| (0..=n).map(|i| i.to_string()).collect::<Vec<_>>().join(" ");
    for depth in 1..=20 {
        assert_eq!(fs::read_to_string(v.branch(&format!("b{depth}")).join("f")).unwrap(), text(depth));
    }
    let force = |branch: &str, force| agentfs_proto::request::BranchDelete { branch: branch.into(), force };
    assert_eq!(code(&v.ask(force("b1", false))), libc::EBUSY);
    assert!(matches!(v.ask(force("b1", true)), Response::BranchDelete(_)));
    assert_eq!(errno(fs::metadata(v.branch("b1"))), libc::ENOENT);
    assert_eq!(fs::read_to_string(v.branch("b20").join("f")).unwrap(), text(20));
    assert_eq!(fs::read_to_string(v.snapshot("s1").join("f")).unwrap(), text(1));
}

#[test]
fn names_and_ids_lead_to_the_same_files_also_after_a_rename() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("f"), "x").unwrap();
    let snapshot = v.take_snapshot("main", "s");
    let branch = v.grow_branch("s", "b");
    let by_id = v.path(".agentfs/by-id");
    let inode = |path: std::path::PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(by_id.join(&branch).join("f")), inode(v.branch("b").join("f")));
    assert_eq!(inode(by_id.join(&snapshot).join("f")), inode(v.snapshot("s").join("f")));
    assert_eq!(inode(v.branch("b").join("f")) as u32, inode(v.path("f")) as u32);
    assert_ne!(inode(v.branch("b").join("f")), inode(v.path("f")));
    v.ask(agentfs_proto::request::BranchRename { branch: "b".into(), name: "c".into() });
    v.ask(agentfs_proto::request::SnapshotRename { snapshot: "s".into(), name: "t".into() });
    assert_eq!(errno(fs::metadata(v.branch("b"))), libc::ENOENT);
    assert_eq!(inode(by_id.join(&branch).join("f")), inode(v.branch("c").join("f")));
    assert_eq!(inode(by_id.join(&snapshot).join("f")), inode(v.snapshot("t").join("f")));
    let listed: Vec<_> =
        fs::read_dir(v.path(".agentfs/branches")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(listed.len(), 2);
    assert!(listed.contains(&"main".into()) && listed.contains(&"c".into()));
    assert_eq!(fs::read_to_string(v.branch("main").join("f")).unwrap(), "x");
}

#[test]
fn moving_and_linking_between_branches_is_refused_as_between_filesystems() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("f"), "x").unwrap();
    v.grow_branch("main", "b");
    assert_eq!(errno(fs::rename(v.path("f"), v.branch("b").join("g"))), libc::EXDEV);
    assert_eq!(errno(fs::hard_link(v.path("f"), v.branch("b").join("g"))), libc::EXDEV);
    assert_eq!(fs::read_to_string(v.path("f")).unwrap(), "x");
}

/// `copy_file_range` of a whole file.
fn copy(from: &Path, to: &Path) -> u64 {
    let (from, to) = (fs::File::open(from).unwrap(), fs::File::create(to).unwrap());
    let mut copied = 0;
    loop {
        match rustix::fs::copy_file_range(&from, None, &to, None, 1 << 30).unwrap() {
            0 => return copied,
            some => copied += some as u64,
        }
    }
}

#[test]
fn ranges_are_copied_between_branches_and_whole_files_share_what_does_not_change() {
    if !can_mount() {
        return;
    }
    let mut v = Volume::mount();
    let (small, large) = (vec![b's'; 5000], [vec![b'l'; 3_000_000], vec![b'm'; 17]].concat());
    fs::write(v.path("small"), &small).unwrap();
    fs::write(v.path("large"), &large).unwrap();
    v.grow_branch("main", "b");
    let calls = v.requests("copy_file_range");
    // What a branch grew from is frozen: its large file is shared, and takes no space of its own.
    for (name, bytes) in [("small", &small), ("large", &large)] {
        let to = v.branch("b").join(format!("{name}-copy"));
        assert_eq!(copy(&v.path(name), &to), bytes.len() as u64);
        assert_eq!(&fs::read(&to).unwrap(), bytes);
        assert_eq!(copy(&v.branch("b").join(name), &v.path(&format!("{name}-back"))), bytes.len() as u64);
    }
    assert!(v.requests("copy_file_range") > calls);
    let objects = |v: &Volume| {
        let folders = fs::read_dir(v.store().join("objects")).unwrap();
        let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
        files.filter(|file| file.as_ref().unwrap().metadata().unwrap().len() > 1_000_000).count()
    };
    assert_eq!(objects(&v), 1, "one object for four large files");
    // From then on each is a file of its own.
    for name in ["small", "large"] {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).open(v.branch("b").join(format!("{name}-copy"))).unwrap();
        file.write_all_at(b"CHANGED", 100).unwrap();
        fs::write(v.path(name), "rewritten").unwrap();
    }
    assert!(v.terminate().success());
    v.remount();
    for (name, bytes) in [("small", &small), ("large", &large)] {
        let changed = fs::read(v.branch("b").join(format!("{name}-copy"))).unwrap();
        assert_eq!((&changed[..100], &changed[100..107]), (&bytes[..100], &b"CHANGED"[..]));
        assert_eq!(&changed[107..], &bytes[107..]);
        assert_eq!(&fs::read(v.path(&format!("{name}-back"))).unwrap(), bytes);
        assert_eq!(&fs::read(v.branch("b").join(name)).unwrap(), bytes);
        assert_eq!(fs::read_to_string(v.path(name)).unwrap(), "rewritten");
    }
    // What changes in place is copied.
    fs::write(v.path("own"), &large).unwrap();
    assert_eq!(copy(&v.path("own"), &v.path("own-copy")), large.len() as u64);
    fs::write(v.path("own"), "short").unwrap();
    assert_eq!(fs::read(v.path("own-copy")).unwrap(), large);
}

#[test]
fn the_volumes_own_directories_stay_as_they_are() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    assert_eq!(fs::read_dir(v.root()).unwrap().count(), 0, ".agentfs is not listed");
    assert_eq!(fs::metadata(v.path(".agentfs")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(v.path(".agentfs/control")).unwrap().mode() & 0o7777, 0o600);
    for private in ["branches", "snapshots", "by-id"] {
        assert_eq!(fs::metadata(v.path(".agentfs").join(private)).unwrap().mode() & 0o7777, 0o700);
    }
    assert_eq!(errno(fs::create_dir(v.path(".agentfs/branches/new"))), libc::EPERM);
    assert_eq!(errno(fs::remove_file(v.path(".agentfs/control"))), libc::EPERM);
    assert_eq!(errno(fs::rename(v.path(".agentfs"), v.path("mine"))), libc::EPERM);
    assert_eq!(errno(fs::remove_dir(v.path(".agentfs"))), libc::EPERM);
    v.grow_branch("main", "b");
    let inside: Vec<_> =
        fs::read_dir(v.branch("b").join(".agentfs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(inside, ["control"]);
}

#[test]
fn a_deleted_snapshot_gives_its_view_back_and_the_next_shows_nothing_of_it() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    for round in 0..50 {
        let name = format!("s{round}");
        fs::write(v.path("f"), &name).unwrap();
        v.take_snapshot("main", &name);
        assert_eq!(fs::read_to_string(v.snapshot(&name).join("f")).unwrap(), name);
        if round % 2 == 0 {
            let request = agentfs_proto::request::SnapshotDelete { snapshot: name.clone().into() };
            assert!(matches!(v.ask(request), Response::SnapshotDelete(_)));
            assert_eq!(errno(fs::metadata(v.snapshot(&name).join("f"))), libc::ENOENT);
        }
    }
    for round in (1..50).step_by(2) {
        let name = format!("s{round}");
        assert_eq!(fs::read_to_string(v.snapshot(&name).join("f")).unwrap(), name);
    }
}

#[test]
fn deleting_a_branch_gives_back_what_only_it_held() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("shared"), vec![1; 1 << 20]).unwrap();
    v.grow_branch("main", "b");
    fs::write(v.branch("b").join("own"), vec![2; 3 << 20]).unwrap();
    let open = fs::File::open(v.branch("b").join("own")).unwrap();
    let delete = || agentfs_proto::request::BranchDelete { branch: "b".into(), force: true };
    assert_eq!(code(&v.ask(delete())), libc::EBUSY);
    drop(open);
    let begun = std::time::Instant::now();
    let reply = loop {
        match v.ask(delete()) {
            Response::BranchDelete(reply) => break reply,
            // The kernel closes files after `close` has returned.
            _ if begun.elapsed().as_secs() < 5 => std::thread::yield_now(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reply.bytes_reclaimed, 3 << 20);
    assert_eq!(fs::read(v.path("shared")).unwrap(), vec![1; 1 << 20]);
}

#[test]
fn the_kernel_forgets_what_was_deleted_and_so_does_the_daemon() {
    if !can_mount() {
        return;
    }
    const FILES: usize = 1000;
    let v = Volume::mount();
    (0..FILES).for_each(|n| std::fs::write(v.path(&format!("f{n}")), "x").unwrap());
    let known = || match v.ask(agentfs_proto::Request::Status) {
        Response::Status(status) => status.known_inodes as usize,
        other => panic!("{other:?}"),
    };
    let walk = |root: std::path::PathBuf| {
        for entry in std::fs::read_dir(root).unwrap() {
            entry.unwrap().path().metadata().unwrap();
        }
    };
    let before = known();
    v.grow_branch("main", "b");
    walk(v.branch("b"));
    v.take_snapshot("main", "s");
    walk(v.snapshot("s"));
    assert!(known() >= before + 2 * FILES, "{} of {before}", known());
    let deleted = v.ask(agentfs_proto::request::BranchDelete { branch: "b".into(), force: false });
    assert!(matches!(deleted, Response::BranchDelete(_)), "{deleted:?}");
    let deleted = v.ask(agentfs_proto::request::SnapshotDelete { snapshot: "s".into() });
    assert!(matches!(deleted, Response::SnapshotDelete(_)), "{deleted:?}");
    // It tells so a little later.
    let forgotten = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        known() < before + FILES / 10
    });
    assert!(forgotten, "{} nodes are known, and before it were {before}", known());
}
