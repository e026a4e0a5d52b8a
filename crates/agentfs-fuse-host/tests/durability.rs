//! What was answered survives the daemon, however it ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::{Volume, can_mount, run};

/// Everything there is to see of a tree.
fn shown(root: &Path) -> Vec<String> {
    let (mut all, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let bytes = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            let link = fs::read_link(&path).ok();
            all.push(format!(
                "{} ino {} mode {:o} nlink {} uid {} mtime {}.{} {link:?} {bytes:?}",
                path.strip_prefix(root).unwrap().display(),
                meta.ino() & ((1 << 33) - 1),
                meta.mode(),
                meta.nlink(),
                meta.uid(),
                meta.mtime(),
                meta.mtime_nsec(),
            ));
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    all.sort();
    all
}

fn fill(root: &Path) {
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/f"), vec![7; 70_000]).unwrap();
    fs::hard_link(root.join("d/f"), root.join("hard")).unwrap();
    std::os::unix::fs::symlink("/absolute/../target", root.join("link")).unwrap();
    fs::set_permissions(root.join("hard"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(root.join("gone"), "x").unwrap();
    fs::remove_file(root.join("gone")).unwrap();
    fs::rename(root.join("d"), root.join("moved")).unwrap();
    rustix::fs::setxattr(root.join("hard"), "user.kept", b"value", rustix::fs::XattrFlags::empty()).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 3 << 20).unwrap();
}

#[test]
fn branches_snapshots_and_edits_are_there_after_a_remount_and_after_a_kill() {
    if !can_mount() {
        return;
    }
    let mut v = Volume::mount();
    fill(&v.root());
    v.take_snapshot("main", "s");
    v.grow_branch("s", "a");
    v.grow_branch("main", "b");
    fs::write(v.branch("a").join("hard"), "in a").unwrap();
    fs::remove_file(v.branch("b").join("link")).unwrap();
    fs::write(v.path("later"), "in main").unwrap();
    let all = |v: &Volume| [v.root(), v.branch("a"), v.branch("b"), v.snapshot("s")].map(|root| shown(&root));
    let before = all(&v);
    assert!(v.terminate().success());
    v.remount();
    assert_eq!(all(&v), before, "after a clean end");
    let mut xattr = [0; 10];
    assert_eq!(rustix::fs::getxattr(v.path("hard"), "user.kept", &mut xattr[..]).unwrap(), 5);
    // Files open to write when the daemon dies have the size they had.
    let mut open = fs::OpenOptions::new().append(true).open(v.path("later")).unwrap();
    open.write_all(b", and more").unwrap();
    v.grow_branch("a", "c");
    fs::write(v.branch("c").join("only"), "c").unwrap();
    v.kill();
    drop(open);
    v.remount();
    assert_eq!(fs::read_to_string(v.path("later")).unwrap(), "in main, and more");
    assert_eq!(fs::read_to_string(v.branch("c").join("only")).unwrap(), "c");
    assert_eq!(fs::read_to_string(v.branch("c").join("hard")).unwrap(), "in a");
    let after = all(&v);
    assert_eq!(&after[1..], &before[1..]);
    // Space comes back from what an earlier mount made, too.
    let request = agentfs_proto::request::BranchDelete { branch: "c".into(), force: false };
    assert!(matches!(v.ask(request), agentfs_proto::Response::BranchDelete(_)));
}

/// Writes files by writing beside and renaming over, as editors do; publishes how many are done.
fn rename_over(root: &Path, done: &AtomicU64) {
    for n in 1.. {
        let (draft, file) = (root.join("draft"), root.join(format!("f{}", n % 20)));
        let written = fs::write(&draft, format!("{n:>20}")).and_then(|()| fs::rename(&draft, &file));
        if written.is_err() {
            return; // the daemon is gone
        }
        done.store(n, Ordering::Release);
    }
}

#[test]
fn fifty_kills_in_the_middle_of_writing_and_renaming_lose_nothing_that_was_answered() {
    if !can_mount() {
        return;
    }
    let mut v = Volume::mount();
    v.grow_branch("main", "b");
    let mut total = 0;
    for round in 0..50_u64 {
        let roots = [v.root(), v.branch("b")];
        let done = [AtomicU64::new(0), AtomicU64::new(0)];
        std::thread::scope(|scope| {
            for (root, done) in roots.iter().zip(&done) {
                scope.spawn(|| rename_over(root, done));
            }
            std::thread::sleep(Duration::from_millis(20 + round * 3 % 70));
            v.kill();
        });
        v.remount();
        for (root, done) in roots.iter().zip(&done) {
            let done = done.load(Ordering::Acquire);
            total += done;
            for n in done.saturating_sub(19).max(1)..=done {
                let text = fs::read_to_string(root.join(format!("f{}", n % 20))).unwrap();
                let found: u64 =
                    text.trim().parse().unwrap_or_else(|_| panic!("round {round}: torn {text:?}"));
                // The one that was under way may be there, or not.
                assert!(found == n || found == n + 20 || found == done + 1, "round {round}: {found} for {n}");
            }
            for n in 0..20 {
                let _ = fs::remove_file(root.join(format!("f{n}")));
            }
        }
    }
    println!("{total} renames were answered before 50 kills, and all were there");
    assert!(total > 1000, "only {total}");
}

#[test]
fn git_is_sound_after_kills() {
    if !can_mount() {
        return;
    }
    let mut v = Volume::mount();
    let repo = v.path("r");
    fs::create_dir(&repo).unwrap();
    run(&repo, "git", &["init", "-q", "."]);
    run(&repo, "git", &["config", "user.email", "a@b"]);
    run(&repo, "git", &["config", "user.name", "a"]);
    for round in 0..10 {
        fs::write(repo.join(format!("f{round}")), vec![b'x'; 5000 * round]).unwrap();
        run(&repo, "git", &["add", "-A"]);
        run(&repo, "git", &["commit", "-qm", &round.to_string()]);
        v.take_snapshot("main", &format!("s{round}"));
        v.kill();
        v.remount();
        run(&repo, "git", &["fsck", "--strict"]);
        assert_eq!(run(&repo, "git", &["rev-list", "--count", "HEAD"]).trim(), (round + 1).to_string());
        assert_eq!(run(&repo, "git", &["status", "--porcelain"]), "");
    }
    for round in 0..10 {
        let then = v.snapshot(&format!("s{round}")).join("r");
        assert_eq!(run(&then, "git", &["rev-list", "--count", "HEAD"]).trim(), (round + 1).to_string());
    }
}

#[test]
fn a_full_disk_is_told_and_forgotten_when_there_is_room_again() {
    if !can_mount() || !support::is_root("mounting a small tmpfs for a store") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (small, mount) = (dir.path().join("small"), dir.path().join("mnt"));
    fs::create_dir(&small).unwrap();
    fs::create_dir(&mount).unwrap();
    run(
        dir.path(),
        "mount",
        &["-t", "tmpfs", "-o", "size=8m,nr_inodes=2000", "tmpfs", small.to_str().unwrap()],
    );
    let store = small.join("store");
    let spawn = || {
        let mut command = std::process::Command::new(support::DAEMON);
        command.arg("--store").arg(&store).arg(&mount).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut daemon = spawn();
    let outcome =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fill_the_disk(&mount, &mut daemon, &spawn)));
    let _ = std::process::Command::new("umount").arg("-l").arg(&mount).status();
    let _ = daemon.kill();
    let _ = daemon.wait();
    run(dir.path(), "umount", &["-l", small.to_str().unwrap()]);
    outcome.unwrap();
}

fn wait_for(mount: &Path) {
    let begun = std::time::Instant::now();
    while !mount.join(".agentfs/control").exists() {
        assert!(begun.elapsed().as_secs() < 20, "no mount");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn fill_the_disk(mount: &Path, daemon: &mut std::process::Child, spawn: &dyn Fn() -> std::process::Child) {
    wait_for(mount);
    fs::write(mount.join("kept"), vec![1; 100_000]).unwrap();
    let mut full = None;
    for n in 0..200 {
        if let Err(e) = fs::write(mount.join(format!("big{n}")), vec![2; 200_000]) {
            full = Some(e);
            break;
        }
    }
    assert_eq!(full.unwrap().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(fs::read(mount.join("kept")).unwrap(), vec![1; 100_000]);
    for n in 0..200 {
        let _ = fs::remove_file(mount.join(format!("big{n}")));
    }
    // What was deleted gives its space back when the log is durable.
    let begun = std::time::Instant::now();
    while fs::write(mount.join("again"), vec![3; 2_000_000]).is_err() {
        assert!(begun.elapsed().as_secs() < 30, "no room again");
        std::thread::sleep(Duration::from_millis(100));
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(std::process::Command::new("umount").arg("-l").arg(mount).status().unwrap().success());
    *daemon = spawn();
    wait_for(mount);
    assert_eq!(fs::read(mount.join("again")).unwrap(), vec![3; 2_000_000]);
    assert_eq!(fs::read(mount.join("kept")).unwrap(), vec![1; 100_000]);
}
