//! Real programs on a real mount.
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
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use support::{Volume, can_mount, is_root, run};

/// A git repository of `files` files in `dir`.
fn repository(dir: &Path, files: usize) {
    fs::create_dir(dir).unwrap();
    run(dir, "git", &["init", "-q", "."]);
    for (key, value) in
        [("user.name", "a"), ("user.email", "a@b"), ("gc.auto", "0"), ("core.untrackedCache", "false")]
    {
        run(dir, "git", &["config", key, value]);
    }
    for n in 0..files {
        let folder = dir.join(format!("d{}", n % 100));
        if n < 100 {
            fs::create_dir(&folder).unwrap();
        }
        fs::write(folder.join(format!("f{n}")), format!("file {n}\n")).unwrap();
    }
    run(dir, "git", &["add", "-A"]);
    run(dir, "git", &["commit", "-qm", "all"]);
}

#[test]
fn git_status_in_a_new_branch_of_5000_files_reads_no_content_again() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    repository(&v.path("r"), 5000);
    // Git mistrusts what changed in the second of its index.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    run(&v.path("r"), "git", &["status", "--porcelain"]);
    v.grow_branch("main", "b");
    let before = v.requests("read");
    let status = run(&v.branch("b").join("r"), "git", &["-c", "index.threads=1", "status", "--porcelain"]);
    let reads = v.requests("read") - before;
    println!("READ requests of git status in a new branch of 5,000 files: {reads}");
    assert_eq!(status, "");
    // Its index, HEAD, config and the like; no file of the work tree.
    assert!(reads < 60, "{reads} reads: the work tree was read again");
    // The test sees it when git does read them: with other inode numbers it must.
    run(&v.path("."), "cp", &["-a", "r", "copy"]);
    let before = v.requests("open");
    run(&v.path("copy"), "git", &["status", "--porcelain"]);
    assert!(v.requests("open") - before > 5000);
}

#[test]
fn git_works_in_branches_side_by_side() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    repository(&v.path("r"), 300);
    v.take_snapshot("main", "s");
    let heads: Vec<String> = ["a", "b"]
        .map(|name| {
            v.grow_branch("s", name);
            let r = v.branch(name).join("r");
            fs::write(r.join("d1/f1"), format!("changed in {name}\n")).unwrap();
            fs::write(r.join(name), name).unwrap();
            run(&r, "git", &["add", "-A"]);
            run(&r, "git", &["commit", "-qm", name]);
            run(&r, "git", &["gc", "-q"]);
            run(&r, "git", &["fsck", "--strict"]);
            run(&r, "git", &["rev-parse", "HEAD"])
        })
        .to_vec();
    assert_ne!(heads[0], heads[1]);
    assert_eq!(run(&v.path("r"), "git", &["status", "--porcelain"]), "");
    assert_eq!(run(&v.path("r"), "git", &["rev-list", "--count", "HEAD"]).trim(), "1");
    // What a branch made is fetched from it by its path.
    let path = v.branch("b").join("r");
    run(&v.path("r"), "git", &["fetch", "-q", path.to_str().unwrap(), "HEAD"]);
    assert_eq!(run(&v.path("r"), "git", &["rev-parse", "FETCH_HEAD"]), heads[1]);
    assert_eq!(fs::read_to_string(v.snapshot("s").join("r/d1/f1")).unwrap(), "file 1\n");
}

#[test]
fn sqlite_keeps_its_word_in_three_branches() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    let script = |n: usize| {
        format!(
            "import sqlite3\nc = sqlite3.connect('db', isolation_level=None)\nc.execute('pragma journal_mode=wal')\n\
             c.execute('create table if not exists t (who, n)')\n\
             for i in range(300): c.execute('insert into t values (?, ?)', ({n}, i))\n\
             assert c.execute('pragma integrity_check').fetchone() == ('ok',)\n\
             print(c.execute('select count(*), count(distinct who) from t').fetchone())\n"
        )
    };
    let python = |dir: &Path, n| run(dir, "python3", &["-c", &script(n)]);
    assert_eq!(python(&v.root(), 0).trim(), "(300, 1)");
    v.grow_branch("main", "a");
    v.grow_branch("main", "b");
    assert_eq!(python(&v.branch("a"), 1).trim(), "(600, 2)");
    assert_eq!(python(&v.branch("b"), 2).trim(), "(600, 2)");
    assert_eq!(python(&v.branch("a"), 3).trim(), "(900, 3)");
    assert_eq!(python(&v.root(), 4).trim(), "(600, 2)");
}

#[test]
fn holes_stay_holes_and_large_offsets_work() {
    if !can_mount() || support::is_write_back("what the kernel keeps has no holes yet that it knows of") {
        return;
    }
    let v = Volume::mount();
    let file =
        fs::File::options().create(true).read(true).write(true).truncate(true).open(v.path("f")).unwrap();
    let far = 5 << 30;
    file.write_all_at(b"far", far).unwrap();
    assert_eq!(file.metadata().unwrap().len(), far + 3);
    assert!(file.metadata().unwrap().blocks() < 64);
    let seek = |file: &fs::File, to| rustix::fs::seek(file, to).unwrap();
    // Whoever may map the file may have written what only the kernel knows of: all of it is data until it is closed.
    assert_eq!(seek(&file, rustix::fs::SeekFrom::Data(0)), 0);
    assert_eq!(seek(&file, rustix::fs::SeekFrom::Hole(0)), far + 3);
    drop(file);
    let file = fs::File::open(v.path("f")).unwrap();
    // The daemon hears of the close a little after close() has returned.
    let begun = std::time::Instant::now();
    while seek(&file, rustix::fs::SeekFrom::Data(0)) != far {
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "its holes are never told");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(seek(&file, rustix::fs::SeekFrom::Hole(0)), 0);
    drop(file);
    let file = fs::File::options().read(true).write(true).open(v.path("f")).unwrap();
    v.take_snapshot("main", "s");
    file.write_all_at(b"near", 0).unwrap();
    assert!(file.metadata().unwrap().blocks() < 128, "the copy kept the hole");
    let mut bytes = [1; 7];
    file.read_exact_at(&mut bytes, far - 4).unwrap();
    assert_eq!(&bytes, b"\0\0\0\0far");
    let frozen = fs::File::open(v.snapshot("s").join("f")).unwrap();
    frozen.read_exact_at(&mut bytes[..4], 0).unwrap();
    assert_eq!(&bytes[..4], [0; 4]);
    // A file that was only extended has no bytes of its own at all.
    fs::File::create(v.path("empty")).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(fs::metadata(v.path("empty")).unwrap().blocks(), 0);
    let mut tail = Vec::new();
    let mut empty = fs::File::open(v.path("empty")).unwrap();
    empty.seek(SeekFrom::End(-10)).unwrap();
    empty.read_to_end(&mut tail).unwrap();
    assert_eq!(tail, [0; 10]);
}

#[test]
fn a_directory_of_100000_names_is_listed_whole_while_it_changes() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    let dir = v.path("d");
    fs::create_dir(&dir).unwrap();
    for n in 0..100_000 {
        fs::File::create(dir.join(n.to_string())).unwrap();
    }
    let mut seen = std::collections::HashMap::<String, u32>::new();
    for (round, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        *seen.entry(entry.unwrap().file_name().into_string().unwrap()).or_default() += 1;
        if round % 1000 == 0 {
            fs::File::create(dir.join(format!("new-{round}"))).unwrap();
            fs::remove_file(dir.join((99_999 - round / 1000).to_string())).unwrap();
        }
    }
    for n in 0..99_000 {
        assert_eq!(seen.get(&n.to_string()), Some(&1), "{n}");
    }
    assert!(seen.values().all(|count| *count == 1));
}

#[test]
fn suid_and_sgid_go_as_on_any_linux_filesystem() {
    if !can_mount() || !is_root("acting as another user") {
        return;
    }
    let v = Volume::mount_with(&["--allow-other"], &[]);
    let file = v.path("f");
    let set = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    let mode = || fs::metadata(&file).unwrap().mode() & 0o7777;
    fs::write(&file, "x").unwrap();
    std::os::unix::fs::chown(&file, Some(65534), Some(65534)).unwrap();
    let as_nobody = |script: &str| {
        let args = ["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script];
        run(&v.root(), "setpriv", &args);
    };
    set(0o6777);
    fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"root keeps").unwrap();
    assert_eq!(mode(), 0o6777);
    as_nobody("echo y >> f");
    assert_eq!(mode(), 0o777);
    set(0o6777);
    as_nobody(": > f");
    assert_eq!(mode(), 0o777);
    set(0o6777);
    std::os::unix::fs::chown(&file, Some(0), Some(0)).unwrap();
    assert_eq!(mode(), 0o777);
}

#[test]
fn files_without_a_name_live_until_they_are_closed_and_then_give_their_space_back() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    let objects = || {
        let folders = fs::read_dir(v.store().join("objects")).unwrap();
        let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
        // Objects made ahead are empty.
        files.filter(|file| file.as_ref().unwrap().metadata().is_ok_and(|meta| meta.len() > 0)).count()
    };
    let mut file =
        fs::File::options().create(true).read(true).write(true).truncate(true).open(v.path("f")).unwrap();
    file.write_all(b"content").unwrap();
    fs::remove_file(v.path("f")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.write_all(b" and more").unwrap();
    // Past what goes to packs.
    file.set_len(1 << 20).unwrap();
    file.set_len(16).unwrap();
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "content and more");
    assert_eq!(objects(), 1);
    drop(file);
    let begun = std::time::Instant::now();
    while objects() > 0 {
        // Not before the log that says so is durable, which takes up to five seconds.
        assert!(begun.elapsed().as_secs() < 30, "the object stays");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn writes_are_traced_when_asked() {
    if !can_mount() {
        return;
    }
    let env = [
        ("AGENTFS_FUSE_TRACE_WRITES", "1"),
        ("RUST_LOG", "agentfs::write=debug"),
        ("AGENTFS_FUSE_WRITE_THREADS", "3"),
        ("AGENTFS_FUSE_LAYERED_FROM", "1000000"),
    ];
    let v = Volume::mount_with(&[], &env);
    // Larger ones would not be copied.
    fs::write(v.path("f"), vec![0; 900_000]).unwrap();
    v.take_snapshot("main", "s");
    fs::OpenOptions::new().append(true).open(v.path("f")).unwrap().write_all(b"copied first").unwrap();
    let begun = std::time::Instant::now();
    let traced = |log: &str| ["latency_us", "depth", "place=\"pool\""].iter().all(|word| log.contains(word));
    // A write is logged after it is answered.
    while !traced(&v.log()) {
        assert!(begun.elapsed().as_secs() < 10, "{}", v.log());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn what_was_mapped_and_written_is_read_by_others() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    fs::write(v.path("f"), vec![b'a'; 20_000]).unwrap();
    let script = "import mmap\nf = open('f', 'r+b')\nm = mmap.mmap(f.fileno(), 0)\nm[5000:5005] = b'hello'\n\
        assert open('f', 'rb').read()[5000:5005] == b'hello'\nf.seek(9000); f.write(b'world'); f.flush()\n\
        assert m[9000:9005] == b'world'\nm.flush(); m.close()\n";
    run(&v.root(), "python3", &["-c", script]);
    v.take_snapshot("main", "s");
    run(&v.root(), "python3", &["-c", &script.replace("hello", "HELLO").replace("world", "WORLD")]);
    let (now, then) = (fs::read(v.path("f")).unwrap(), fs::read(v.snapshot("s").join("f")).unwrap());
    assert_eq!((&now[5000..5005], &now[9000..9005]), (&b"HELLO"[..], &b"WORLD"[..]));
    assert_eq!((&then[5000..5005], &then[9000..9005]), (&b"hello"[..], &b"world"[..]));
}
