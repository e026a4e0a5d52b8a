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
    if support::is_write_back("what nobody waited for is lost with the daemon") {
        open.sync_all().unwrap();
    }
    v.grow_branch("a", "c");
    put(&v.branch("c").join("only"), b"c").unwrap();
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

/// What `check` says of a store that nobody serves.
fn check_store(store: &Path) -> (bool, String) {
    let output = support::run_daemon(&["check", store.to_str().unwrap()], &[]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
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
        let (sound, told) = check_store(&v.store());
        assert!(sound, "round {round}: {told}");
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
fn a_store_is_checked_and_mended_by_the_command_line() {
    if !can_mount() {
        return;
    }
    let mut v = Volume::mount();
    fill(&v.root());
    fs::write(v.path("large"), vec![1; 200_000]).unwrap();
    let (sound, told) = check_store(&v.store());
    assert!(!sound && told.contains("is in use by another daemon"), "{told}");
    v.take_snapshot("main", "s");
    assert!(v.terminate().success());
    let (sound, told) = check_store(&v.store());
    assert!(sound && told.contains("sound: 1 branches, 1 snapshots"), "{told}");
    // An object is lost: the file is named, the exit code says so, in JSON too, and nobody is served its bytes.
    let object = largest(&v.store().join("objects"));
    fs::rename(&object, v.store().join("away")).unwrap();
    let (sound, told) = check_store(&v.store());
    assert!(!sound && told.contains("/large (inode") && told.contains("is missing"), "{told}");
    let output = support::run_daemon(&["check", "--json", v.store().to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["sound"], &told["findings"][0]["kind"]), (&false.into(), &"content".into()));
    v.remount();
    assert_eq!(fs::read(v.path("large")).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(fs::read(v.path("hard")).unwrap(), vec![7; 70_000]);
    assert!(v.terminate().success());
    fs::rename(v.store().join("away"), &object).unwrap();
    // What is damaged in the middle of the log is cut off and kept.
    let log = newest_log(&v.store());
    let mut bytes = fs::read(&log).unwrap();
    bytes[40] ^= 1;
    fs::write(&log, bytes).unwrap();
    let output = support::run_daemon(&["check", "--repair", v.store().to_str().unwrap()], &[]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && told.contains("mended: piece"), "{told}");
    assert!(
        fs::read_dir(v.store()).unwrap().any(|e| e
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .starts_with("lost-"))
    );
    v.remount();
    for bad in [&["check"][..], &["check", "/nowhere/at/all"], &["check", "/tmp"]] {
        let output = support::run_daemon(bad, &[]);
        assert!(output.status.code() == Some(2) && !output.stderr.is_empty(), "{bad:?}");
    }
}

/// The file that holds most space below a directory.
fn largest(root: &Path) -> std::path::PathBuf {
    let folders = fs::read_dir(root).unwrap();
    let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).max_by_key(|path| path.metadata().unwrap().blocks()).unwrap()
}

fn newest_log(store: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(store).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log-")).max().unwrap()
}

#[test]
fn a_snapshot_is_synced_with_all_its_content_when_asked() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("large"), vec![1; 3_000_000]).unwrap();
    let request = agentfs_proto::request::SyncedSnapshot { branch: vec![], name: Some("s".into()) };
    let agentfs_proto::Response::SyncedSnapshot(reply) = v.ask(request) else { panic!("no snapshot") };
    assert_eq!(reply.snapshot.name.as_deref(), Some(&b"s"[..]));
    assert_eq!(fs::read(v.snapshot("s").join("large")).unwrap(), vec![1; 3_000_000]);
}

/// A volume that is not mounted, whose store is the image of that name, and sound.
fn with_image(name: &str) -> Volume {
    let mut v = Volume::mount();
    assert!(v.terminate().success());
    fs::remove_dir_all(v.store()).unwrap();
    fs::create_dir(v.store()).unwrap();
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images").join(name);
    run(&v.store(), "tar", &["-xzf", image.to_str().unwrap()]);
    let (sound, told) = check_store(&v.store());
    assert!(sound, "{told}");
    v
}

/// A store that version 0.1 wrote, killed while a file was open: all later versions read it.
#[test]
fn a_store_of_format_1_is_read_as_it_is() {
    if !can_mount() || !support::is_root("reading an image whose files are root's") {
        return;
    }
    let mut v = with_image("format-1.tar.gz");
    assert_eq!(
        fs::read_to_string(v.store().join("format")).unwrap(),
        "agentfs-store 1\n",
        "a look changes nothing"
    );
    v.remount();
    expect_format_1(&v);
    fs::write(v.path("new"), "of the present format").unwrap();
    assert!(v.terminate().success());
    assert_eq!(fs::read_to_string(v.store().join("format")).unwrap(), "agentfs-store 6\n");
    v.remount();
    expect_format_1(&v);
    assert_eq!(fs::read_to_string(v.path("new")).unwrap(), "of the present format");
}

fn expect_format_1(v: &Volume) {
    assert_eq!(fs::read_to_string(v.path("d/small")).unwrap(), "small\nappended\n");
    assert_eq!(fs::read(v.path("d/e/large")).unwrap(), vec![b'x'; 70_000]);
    assert_eq!(fs::metadata(v.path("hard")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(fs::metadata(v.path("hard")).unwrap().ino(), fs::metadata(v.path("d/small")).unwrap().ino());
    assert_eq!(fs::read_link(v.path("link")).unwrap(), Path::new("/no/where"));
    assert_eq!(fs::read_to_string(v.branch("b").join("d/small")).unwrap(), "changed in b\n");
    assert!(!v.branch("b").join("link").exists() && v.branch("c").join("moved/e/large").exists());
    assert_eq!(fs::read_to_string(v.snapshot("s").join("d/small")).unwrap(), "small\n");
}

/// A store of the present format, closed, made by the version that this test came with: later versions read it.
#[test]
fn a_store_of_format_2_is_read_as_it_is() {
    if !can_mount() || !support::is_root("reading an image whose files are root's") {
        return;
    }
    let mut v = with_image("format-2.tar.gz");
    v.remount();
    expect_format_1(&v);
    assert_eq!(fs::read_to_string(v.path("new")).unwrap(), "of the present format\n");
    assert_eq!(fs::read_to_string(v.branch("b").join("packed")).unwrap(), "moved to another pack\n");
}

/// And one of format 3, whose branches know nothing of what they came from.
#[test]
fn a_store_of_format_3_is_read_as_it_is_and_new_branches_of_it_are_merged() {
    if !can_mount() || !support::is_root("reading an image whose files are root's") {
        return;
    }
    let mut v = with_image("format-3.tar.gz");
    v.remount();
    expect_format_1(&v);
    assert_eq!(fs::read_to_string(v.path("three")).unwrap(), "by format 3\n");
    assert_eq!(fs::read_to_string(v.branch("of-b").join("three-d/f")).unwrap(), "1\n");
    let cli = |line: &str| support::agents::told(support::agents::cli_of(&v).args(line.split(' ')));
    v.grow_branch("of-b", "new");
    fs::write(v.branch("new").join("three-d/f"), "2\n").unwrap();
    let (is_done, told) = cli("merge new");
    assert!(is_done, "{told}");
    assert_eq!(fs::read_to_string(v.branch("of-b").join("three-d/f")).unwrap(), "2\n");
    // Two that have something in common, of which nothing is known.
    let (is_done, told) = cli("merge of-b --into b");
    assert!(is_done || told.contains("in common"), "{told}");
}

/// And one of format 4, in which no file has its content in layers.
#[test]
fn a_store_of_format_4_is_read_as_it_is_and_large_files_of_it_are_written_in_layers() {
    if !can_mount() || !support::is_root("reading an image whose files are root's") {
        return;
    }
    let mut v = with_image("format-4.tar.gz");
    v.remount();
    expect_format_1(&v);
    let whole = |root: &Path| {
        let bytes = fs::read(root.join("whole4")).unwrap();
        (bytes.len(), bytes[100_000..100_007].to_vec(), bytes.iter().filter(|byte| **byte != b'L').count())
    };
    let expect = |v: &Volume| {
        assert_eq!(fs::read_to_string(v.path("four-d/f")).unwrap(), "by a child\n");
        assert_eq!(whole(&v.snapshot("four")), (300_000, b"LLLLLLL".to_vec(), 0));
        assert_eq!(whole(&v.branch("child4")), (300_000, b"changed".to_vec(), 7));
    };
    expect(&v);
    assert_eq!(whole(&v.path("")), (300_000, b"changed".to_vec(), 7));
    v.take_snapshot("main", "five");
    let file = fs::OpenOptions::new().write(true).open(v.path("whole4")).unwrap();
    file.write_all_at(b"again", 200_000).unwrap();
    drop(file);
    assert!(v.terminate().success());
    assert_eq!(fs::read_to_string(v.store().join("format")).unwrap(), "agentfs-store 6\n");
    v.remount();
    expect(&v);
    assert_eq!(whole(&v.path("")), (300_000, b"changed".to_vec(), 12));
    assert_eq!(whole(&v.snapshot("five")), (300_000, b"changed".to_vec(), 7));
}

/// And one of format 5, in which a file continues one other at most.
#[test]
fn a_store_of_format_5_is_read_as_it_is_and_its_branches_are_merged_on() {
    if !can_mount() || !support::is_root("reading an image whose files are root's") {
        return;
    }
    let mut v = with_image("format-5.tar.gz");
    v.remount();
    expect_format_1(&v);
    let layered = |root: &Path| {
        let bytes = fs::read(root.join("layered5")).unwrap();
        (bytes.len(), bytes[700_000..700_007].to_vec(), bytes.iter().filter(|byte| **byte != b'L').count())
    };
    let expect = |v: &Volume, text: &str| {
        assert_eq!(layered(&v.snapshot("five")), (1_500_000, b"LLLLLLL".to_vec(), 0));
        assert_eq!(layered(&v.root()), (1_500_000, b"changed".to_vec(), 7));
        assert_eq!(fs::read_to_string(v.path("five-f")).unwrap(), text);
    };
    expect(&v, "again\n");
    // Merged twice by format 5: it is the same file still.
    fs::rename(v.path("five-f"), v.path("five-g")).unwrap();
    fs::write(v.branch("taker").join("five-f"), "once more\n").unwrap();
    let (is_done, told) = support::agents::told(support::agents::cli_of(&v).args(["merge", "taker"]));
    assert!(is_done, "{told}");
    assert_eq!(fs::read_to_string(v.path("five-g")).unwrap(), "once more\n");
    fs::rename(v.path("five-g"), v.path("five-f")).unwrap();
    assert!(v.terminate().success());
    assert_eq!(fs::read_to_string(v.store().join("format")).unwrap(), "agentfs-store 6\n");
    v.remount();
    expect(&v, "once more\n");
    expect_format_1(&v);
}

#[test]
fn a_full_tmpfs_is_told_and_forgotten_when_there_is_room_again() {
    if !can_mount() || !support::is_root("mounting a small tmpfs for a store") {
        return;
    }
    on_a_small_disk(|dir, small| {
        run(dir, "mount", &["-t", "tmpfs", "-o", "size=8m,nr_inodes=2000", "tmpfs", small]);
    });
}

#[test]
fn a_full_ext4_is_told_and_forgotten_when_there_is_room_again() {
    if !can_mount() || !support::is_root("mounting a small ext4 for a store") {
        return;
    }
    let has = |program: &str| std::process::Command::new(program).arg("-V").output().is_ok();
    if !has("mkfs.ext4") || !Path::new("/dev/loop-control").exists() {
        println!("SKIPPED: a small ext4 needs mkfs.ext4 (package e2fsprogs) and loop devices");
        return;
    }
    on_a_small_disk(|dir, small| {
        run(dir, "truncate", &["-s", "16M", "disk"]);
        run(dir, "mkfs.ext4", &["-q", "-m", "0", "-O", "^has_journal", "disk"]);
        run(dir, "mount", &["-o", "loop", "disk", small]);
    });
}

/// Mounts a volume whose store lies on what `make` mounts at a directory, and fills it.
fn on_a_small_disk(make: impl FnOnce(&Path, &str)) {
    let dir = tempfile::tempdir().unwrap();
    let (small, mount) = (dir.path().join("small"), dir.path().join("mnt"));
    fs::create_dir(&small).unwrap();
    fs::create_dir(&mount).unwrap();
    make(dir.path(), small.to_str().unwrap());
    let store = small.join("store");
    let spawn = || {
        let mut command = std::process::Command::new(support::DAEMON);
        command.arg("--store").arg(&store).arg(&mount).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut daemon = spawn();
    let outcome =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fill_the_disk(&mount, &mut daemon, &spawn)));
    let _ = daemon.kill();
    let _ = daemon.wait();
    // One dead mount lies over another.
    while std::process::Command::new("umount").arg("-l").arg(&mount).output().unwrap().status.success() {}
    let (sound, told) = if outcome.is_ok() { check_store(&store) } else { (true, String::new()) };
    run(dir.path(), "umount", &["-l", small.to_str().unwrap()]);
    outcome.unwrap();
    assert!(sound, "{told}");
}

fn wait_for(mount: &Path) {
    let begun = std::time::Instant::now();
    while rustix::fs::statfs(mount.join(".agentfs/control")).is_err() {
        assert!(begun.elapsed().as_secs() < 20, "no mount");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Writes a file, and waits in the write-back mode until the daemon has it: only then it says that there is no room.
fn put(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    let is_late = std::env::var("AGENTFS_FUSE_DATA_PATH").is_ok_and(|path| path == "write-back");
    if is_late { file.sync_data() } else { Ok(()) }
}

fn fill_the_disk(mount: &Path, daemon: &mut std::process::Child, spawn: &dyn Fn() -> std::process::Child) {
    wait_for(mount);
    put(&mount.join("kept"), &[1; 100_000]).unwrap();
    // Once with large files, once with small ones, which lie in packs.
    for (count, len) in [(200, 200_000), (20_000, 2000)] {
        let file = |n: usize| mount.join(format!("of-{len}-{n}"));
        let full = (0..count).find_map(|n| put(&file(n), &vec![2; len]).err());
        assert_eq!(full.unwrap().raw_os_error(), Some(libc::ENOSPC), "{len}");
        assert_eq!(fs::read(mount.join("kept")).unwrap(), vec![1; 100_000]);
        for n in (0..count).take_while(|n| file(*n).exists()) {
            if n != 7 {
                fs::remove_file(file(n)).expect("a full disk lets files be deleted");
            }
        }
        // What was deleted gives its space back to the same mount.
        let again = mount.join(format!("again-{len}"));
        let begun = std::time::Instant::now();
        while let Err(error) = put(&again, &[3; 2_000_000]) {
            assert!(begun.elapsed().as_secs() < 30, "no room again after files of {len} bytes: {error}");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(fs::read(&again).unwrap(), vec![3; 2_000_000]);
        assert_eq!(fs::read(file(7)).unwrap(), vec![2; len]);
        fs::remove_file(&again).unwrap();
    }
    put(&mount.join("again"), &[3; 2_000_000]).unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    *daemon = spawn();
    wait_for(mount);
    let again = fs::read(mount.join("again")).unwrap();
    let wrong = again.iter().position(|byte| *byte != 3);
    assert_eq!((again.len(), wrong), (2_000_000, None));
    assert_eq!(fs::read(mount.join("kept")).unwrap(), vec![1; 100_000]);
}
