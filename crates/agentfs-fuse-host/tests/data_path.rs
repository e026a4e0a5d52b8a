//! The ways that bytes take: past the daemon (root's volumes on a host directory, by themselves), through it, and from the
//! kernel's cache later.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use agentfs_proto::Response;
use agentfs_proto::request::BranchSnapshot;
use support::{Volume, can_mount, is_root};

const SIZE: usize = 4 << 20;

/// A volume of root's with a file that has become an object; says why not.
fn volume() -> Option<(Volume, PathBuf)> {
    if !can_mount() || !is_root("giving the kernel files of the store") {
        return None;
    }
    let v = Volume::mount();
    if !v.log().contains("name=\"passthrough\" value=\"true\"") {
        println!("SKIPPED: this kernel reads and writes no files past the daemon (it does since Linux 6.9)");
        return None;
    }
    let path = v.path("big");
    fs::write(&path, vec![b'a'; SIZE]).unwrap();
    fs::write(v.path("small"), "small").unwrap();
    settled(&v);
    Some((v, path))
}

/// Closing is told to the daemon a little later.
fn settled(v: &Volume) {
    let _ = v.requests("lookup");
    std::thread::sleep(std::time::Duration::from_millis(50));
}

fn writable(path: &PathBuf) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn at(file: &File, offset: u64, len: usize) -> String {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_daemon_sees_no_reads_and_writes_and_knows_size_and_times() {
    let Some((v, path)) = volume() else { return };
    let before = (v.requests("read"), v.requests("write"));
    let file = writable(&path);
    for n in 0..100 {
        file.write_all_at(b"direct", n * 30_000).unwrap();
        assert_eq!(at(&file, n * 30_000, 8), "directaa");
    }
    file.write_all_at(b"end", SIZE as u64 + 10).unwrap();
    assert_eq!((v.requests("read"), v.requests("write")), before, "they came through the daemon");
    let (size, by_name) = (file.metadata().unwrap().len(), fs::metadata(&path).unwrap());
    assert_eq!((size, by_name.len()), (SIZE as u64 + 13, SIZE as u64 + 13));
    assert!(by_name.modified().unwrap().elapsed().unwrap().as_secs() < 60);
    let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    file.set_modified(then).unwrap();
    file.set_len(1000).unwrap();
    file.set_modified(then).unwrap();
    drop(file);
    settled(&v);
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.len(), meta.modified().unwrap()), (1000, then));
    // What was in the kernel's cache before is not what is read afterwards.
    let set_id = fs::Permissions::from_mode(0o4755);
    fs::set_permissions(&path, set_id).unwrap();
    assert_eq!(fs::read(&path).unwrap().len(), 1000);
    assert!(v.requests("read") > before.0, "a set-user-id file is read through the daemon");
}

/// The host's clock does not tell when such a write ends: a copy of some blocks of it would go unseen.
#[test]
fn what_bypasses_the_cache_goes_past_the_daemon_where_the_host_copies_all_at_once() {
    let Some((v, path)) = volume() else { return };
    let Response::Status(status) = v.ask(agentfs_proto::Request::Status) else { panic!("no status") };
    let before = v.requests("write");
    let direct = File::options().write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let block = vec![b'b'; 3 * 4096];
    let aligned = block.as_ptr().align_offset(4096);
    direct.write_all_at(&block[aligned..][..4096], 8192).unwrap();
    settled(&v);
    assert_eq!(v.requests("write") > before, !status.reflink);
    v.take_snapshot("main", "s");
    direct.write_all_at(&block[aligned..][..4096], 0).unwrap();
    let frozen = File::open(v.snapshot("s").join("big")).unwrap();
    assert_eq!((at(&frozen, 8190, 4), at(&frozen, 0, 4)), ("aabb".into(), "aaaa".into()));
}

#[test]
fn what_is_open_before_goes_on_to_see_what_others_write_and_snapshots_do_not() {
    let Some((v, path)) = volume() else { return };
    let reader = File::open(&path).unwrap();
    assert_eq!(at(&reader, 0, 4), "aaaa");
    v.take_snapshot("main", "s1");
    let frozen = File::open(v.snapshot("s1").join("big")).unwrap();
    assert_eq!(at(&frozen, 0, 4), "aaaa");
    // The branch's file is to be written while it is read past the daemon: the snapshot gets the copy.
    let writer = writable(&path);
    writer.write_all_at(b"bbbb", 0).unwrap();
    assert_eq!(at(&reader, 0, 4), "bbbb");
    assert_eq!(at(&frozen, 0, 4), "aaaa");
    // It is being written: the snapshot gets a copy at once.
    v.take_snapshot("main", "s2");
    writer.write_all_at(b"cccc", 0).unwrap();
    assert_eq!(at(&reader, 0, 4), "cccc");
    assert_eq!(&fs::read(v.snapshot("s2").join("big")).unwrap()[..4], b"bbbb");
    v.grow_branch("main", "other");
    let other = v.branch("other").join("big");
    fs::OpenOptions::new().write(true).open(&other).unwrap().write_all_at(b"oooo", 0).unwrap();
    assert_eq!(at(&writer, 0, 4), "cccc");
    writer.set_len(8).unwrap();
    writer.write_all_at(b"dddd", 4).unwrap();
    drop((writer, reader, frozen));
    let seen = [v.snapshot("s1").join("big"), v.snapshot("s2").join("big"), other, path.clone()]
        .map(|path| (fs::read(&path).unwrap()[..4].to_vec(), fs::metadata(&path).unwrap().len()));
    let expected = [(b"aaaa", SIZE), (b"bbbb", SIZE), (b"oooo", SIZE), (b"cccc", 8)];
    assert_eq!(seen, expected.map(|(bytes, len)| (bytes.to_vec(), len as u64)));
}

#[test]
fn a_killed_daemon_loses_nothing_that_was_written_past_it() {
    let Some((mut v, path)) = volume() else { return };
    let file = writable(&path);
    file.write_all_at(b"before", 100).unwrap();
    v.take_snapshot("main", "s");
    file.write_all_at(b"after!", 100).unwrap();
    file.write_all_at(b"longer", SIZE as u64).unwrap();
    v.kill();
    drop(file);
    v.remount();
    let now = File::open(&path).unwrap();
    assert_eq!((at(&now, 100, 6), at(&now, SIZE as u64, 6)), ("after!".into(), "longer".into()));
    assert_eq!(now.metadata().unwrap().len(), SIZE as u64 + 6);
    let then = File::open(v.snapshot("s").join("big")).unwrap();
    assert_eq!((at(&then, 100, 6), then.metadata().unwrap().len()), ("before".into(), SIZE as u64));
}

/// A program that stores through mmap and writes, all the while: a snapshot is of one moment, or refused by name.
#[test]
fn a_snapshot_of_what_is_written_all_the_while_is_of_one_moment_or_refused_by_name() {
    let Some((v, path)) = volume() else { return };
    let script = "
import mmap, sys, time
with open(sys.argv[1], 'r+b') as file, mmap.mmap(file.fileno(), 0) as mapped:
    print('ready', flush=True)
    n = 0
    while True:
        n += 1
        mapped[0:8] = mapped[2000000:2000008] = n.to_bytes(8, 'little')
        if n % 20000 == 0:
            time.sleep(0.1)
";
    let mut busy = Command::new("python3");
    busy.args(["-c", script]).arg(&path).stdout(std::process::Stdio::piped());
    let Ok(mut busy) = busy.spawn() else {
        println!("SKIPPED: python3 is not installed");
        return;
    };
    std::io::Read::read_exact(busy.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    let (mut taken, mut refused) = (0, 0);
    for n in 0..15 {
        let name = format!("s{n}");
        match v.ask(BranchSnapshot { branch: "main".into(), name: Some(name.into()) }) {
            Response::BranchSnapshot(_) => {
                taken += 1;
                let bytes = fs::read(v.snapshot(&format!("s{n}")).join("big")).unwrap();
                let cell = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
                let (first, second) = (cell(0), cell(2_000_000));
                // Python stores the first before the second.
                assert!(
                    first == second || first == second + 1 || second == first + 1,
                    "{first} and {second}"
                );
            }
            Response::Error(refusal) => {
                refused += 1;
                let words = String::from_utf8(refusal.error).unwrap();
                assert_eq!(refusal.code, Some(libc::EBUSY as u32), "{words}");
                assert!(words.contains("daemon: big;"), "{words}");
            }
            other => panic!("{other:?}"),
        }
    }
    println!("{taken} taken, {refused} refused");
    busy.kill().unwrap();
    busy.wait().unwrap();
    settled(&v);
    v.take_snapshot("main", "rest");
}

/// What `status` says of a setting.
fn setting(v: &Volume, name: &str) -> Option<String> {
    let Response::Status(status) = v.ask(agentfs_proto::Request::Status) else { panic!("no status") };
    let found = status.settings.iter().find(|setting| setting.key == name.as_bytes())?;
    Some(String::from_utf8(found.value.clone()).unwrap())
}

#[test]
fn status_tells_the_data_path_and_whether_processors_are_kept_awake() {
    if !can_mount() {
        return;
    }
    let asked = std::env::var("AGENTFS_FUSE_DATA_PATH").unwrap_or("hybrid".into());
    assert_eq!(setting(&Volume::mount(), "data_path").unwrap(), asked);
    let v = Volume::mount_with(&[], &[("AGENTFS_FUSE_DATA_PATH", "exact"), ("AGENTFS_FUSE_KEEP_AWAKE", "0")]);
    assert_eq!(setting(&v, "data_path").unwrap(), "exact");
    assert_eq!(setting(&v, "kept_awake").unwrap(), "never");
    assert_eq!(setting(&v, "passthrough"), None);
}

#[test]
fn in_the_exact_mode_all_data_comes_through_the_daemon() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount_with(&[], &[("AGENTFS_FUSE_DATA_PATH", "exact")]);
    fs::write(v.path("big"), vec![b'a'; SIZE]).unwrap();
    settled(&v);
    let before = v.requests("write");
    writable(&v.path("big")).write_all_at(b"x", 0).unwrap();
    // It is counted when it has been answered.
    settled(&v);
    assert!(v.requests("write") > before);
}

fn write_back() -> Option<Volume> {
    if !can_mount() {
        return None;
    }
    let v = Volume::mount_with(&[], &[("AGENTFS_FUSE_DATA_PATH", "write-back")]);
    assert_eq!(setting(&v, "data_path").unwrap(), "write-back");
    assert_eq!(setting(&v, "writeback_cache").unwrap(), "true");
    Some(v)
}

#[test]
fn what_the_kernel_keeps_is_in_a_snapshot_that_was_asked_for_after_the_write() {
    let Some(v) = write_back() else { return };
    let mut open = Vec::new();
    for n in 0..50 {
        let mut file = File::create_new(v.path(&format!("f{n}"))).unwrap();
        for _ in 0..100 {
            std::io::Write::write_all(&mut file, format!("{n:8}").repeat(10).as_bytes()).unwrap();
        }
        open.push(file);
    }
    assert!(v.requests("write") < 500, "{} writes for 5,000", v.requests("write"));
    v.take_snapshot("main", "s");
    v.grow_branch("main", "b");
    for (n, file) in open.iter().enumerate() {
        file.write_all_at(b"later", 0).unwrap();
        for root in [v.snapshot("s"), v.branch("b")] {
            let path = root.join(format!("f{n}"));
            let frozen = fs::read_to_string(&path).unwrap();
            assert!(frozen == format!("{n:8}").repeat(1000), "{}", path.display());
        }
    }
}

#[test]
fn what_was_synced_lives_through_a_kill_of_the_daemon_with_the_kernels_cache() {
    let Some(mut v) = write_back() else { return };
    let file = File::create_new(v.path("f")).unwrap();
    file.write_all_at(&[b'a'; 100_000], 0).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(b"perhaps", 0).unwrap();
    v.kill();
    drop(file);
    v.remount();
    let now = fs::read(v.path("f")).unwrap();
    assert_eq!(now.len(), 100_000);
    assert!(now[7..].iter().all(|byte| *byte == b'a'));
}

#[test]
fn with_the_kernels_cache_sizes_and_times_are_what_programs_set() {
    let Some(v) = write_back() else { return };
    let path = v.path("f");
    let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let file = File::create_new(&path).unwrap();
    file.write_all_at(&[b'a'; 10_000], 0).unwrap();
    file.set_len(5_000).unwrap();
    file.write_all_at(b"end", 20_000).unwrap();
    file.set_modified(then).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 20_003);
    drop(file);
    let mut v = v;
    v.terminate();
    v.remount();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.len(), meta.modified().unwrap()), (20_003, then));
    let bytes = fs::read(&path).unwrap();
    assert!(
        bytes[..5_000].iter().all(|byte| *byte == b'a') && bytes[5_000..20_000].iter().all(|byte| *byte == 0)
    );
}
