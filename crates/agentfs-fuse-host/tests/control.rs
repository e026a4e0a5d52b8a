//! The control file on a real mount: the protocol, who may use it, and what hostile frames do (nothing).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use agentfs_proto::request::{
    BranchBind, BranchCreate, BranchDelete, BranchList, BranchRename, BranchSnapshot, BranchUnbind,
    DiffStart, SnapshotCreate, SnapshotDelete, SnapshotPage, Stop,
};
use agentfs_proto::{Request, Response, frame, ioctl};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use support::agents::{cli_of, told};
use support::{Volume, ask_at, can_mount, code, is_root, raw_ioctl};

#[test]
fn wrong_names_and_ids_are_named_in_the_answer() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    v.take_snapshot("main", "s");
    v.grow_branch("s", "b");
    let create = |name: &str| SnapshotCreate { name: Some(name.into()) };
    let cases: [(Request, i32); 18] = [
        (create("s").into(), libc::EEXIST),
        (create("").into(), libc::EINVAL),
        (create("a/b").into(), libc::EINVAL),
        (create("a\nb").into(), libc::EINVAL),
        (create("..").into(), libc::EINVAL),
        (create("0123456789abcdef0123456789abcdef").into(), libc::EINVAL),
        (create(&"x".repeat(256)).into(), libc::EINVAL),
        (SnapshotCreate { name: Some(vec![0xff]) }.into(), libc::EINVAL),
        (BranchCreate { from: "nobody".into(), name: None }.into(), libc::ENOENT),
        (BranchCreate { from: "s".into(), name: Some("b".into()) }.into(), libc::EEXIST),
        (BranchDelete { branch: "main".into(), force: true }.into(), libc::EPERM),
        (BranchRename { branch: "main".into(), name: "x".into() }.into(), libc::EPERM),
        (SnapshotDelete { snapshot: "s".into() }.into(), libc::EBUSY),
        (BranchBind { branch: "nobody".into(), pid: Some(std::process::id()) }.into(), libc::ENOENT),
        (BranchBind { branch: "b".into(), pid: Some(u32::MAX) }.into(), libc::ENOENT),
        (BranchUnbind { pid: Some(std::process::id()) }.into(), libc::EINVAL),
        (BranchUnbind { pid: Some(0) }.into(), libc::ENOENT),
        (Stop { how: "now".into() }.into(), libc::EINVAL),
    ];
    for (request, errno) in cases {
        let shown = format!("{request:?}");
        assert_eq!(code(&v.ask(request)), errno, "{shown}");
    }
    match v.ask(BranchCreate { from: "nobody".into(), name: None }) {
        Response::Error(error) => assert!(String::from_utf8(error.error).unwrap().contains("nobody")),
        other => panic!("{other:?}"),
    }
    assert!(matches!(v.ask(create(&"x".repeat(255))), Response::SnapshotCreate(_)));
}

#[test]
fn a_name_of_both_a_snapshot_and_a_branch_asks_for_the_id() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    let id = v.take_snapshot("main", "twin");
    v.grow_branch(&id, "twin");
    assert_eq!(code(&v.ask(BranchCreate { from: "twin".into(), name: None })), libc::EINVAL);
    v.grow_branch(&id, "third");
}

#[test]
fn a_views_own_control_file_means_its_branch() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    std::fs::write(v.path("f"), "main").unwrap();
    let branch = v.grow_branch("main", "b");
    std::fs::write(v.branch("b").join("f"), "b").unwrap();
    let control = v.branch("b").join(".agentfs/control");
    let taken = ask_at(&control, SnapshotCreate { name: Some("of-b".into()) }.into());
    assert!(matches!(taken, Response::SnapshotCreate(_)));
    assert_eq!(std::fs::read_to_string(v.snapshot("of-b").join("f")).unwrap(), "b");
    match v.ask(SnapshotPage { after: None }) {
        Response::SnapshotPage(page) => assert_eq!(page.entries[0].branch, branch.as_bytes()),
        other => panic!("{other:?}"),
    }
    let inside = v.snapshot("of-b").join(".agentfs/control");
    assert_eq!(code(&ask_at(&inside, SnapshotCreate { name: None }.into())), libc::EROFS);
}

#[test]
fn lists_are_paged_and_the_old_list_says_when_it_does_not_fit() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    for _ in 0..300 {
        assert!(matches!(v.ask(BranchSnapshot { branch: vec![], name: None }), Response::BranchSnapshot(_)));
        assert!(matches!(v.ask(BranchCreate { from: "main".into(), name: None }), Response::BranchCreate(_)));
    }
    let (mut after, mut ids) = (None, Vec::new());
    loop {
        let Response::SnapshotPage(page) = v.ask(SnapshotPage { after }) else { panic!("no page") };
        ids.extend(page.entries.into_iter().map(|entry| entry.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(ids.len(), 300);
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(code(&v.ask(Request::SnapshotList)), libc::EOVERFLOW);
    let (mut after, mut count) = (None, 0);
    loop {
        let Response::BranchList(page) = v.ask(BranchList { after }) else { panic!("no page") };
        count += page.entries.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(count, 301);
    assert_eq!(code(&v.ask(BranchList { after: Some("zzz".into()) })), libc::EINVAL);
}

/// A hundred threads that do nothing but ask, for what is slow, and never come for what it found.
#[test]
fn who_floods_the_control_file_starves_nobody_and_costs_no_more_memory() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    for n in 0..500 {
        std::fs::write(v.path(&format!("f{n}")), vec![1; 3000]).unwrap();
    }
    v.take_snapshot("main", "s");
    (0..500).for_each(|n| std::fs::write(v.path(&format!("f{n}")), vec![2; 3000]).unwrap());
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", v.pid().as_raw_nonzero())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    };
    let (before, end) = (memory(), std::sync::atomic::AtomicBool::new(false));
    let (control, is_over) = (v.path(".agentfs/control"), || end.load(std::sync::atomic::Ordering::Relaxed));
    std::thread::scope(|scope| {
        for n in 0..100 {
            let (control, is_over) = (&control, &is_over);
            scope.spawn(move || {
                let diff = DiffStart { a: b"s".to_vec(), b: b"main".to_vec(), with_git: true, all: true };
                let requests = [diff.into(), Request::SnapshotList, BranchList { after: None }.into()];
                while !is_over() {
                    let mut frame = frame::encode(&requests[n % 3].encode()).unwrap();
                    let _ = raw_ioctl(control, ioctl::CONTROL_IOCTL, &mut frame);
                }
            });
        }
        // However that ends, the others are to end.
        let honest = std::panic::catch_unwind(|| {
            for n in 0..30 {
                let mut ask = cli_of(&v);
                let (done, words) = told(ask.args(["snapshot-create", "--name", &format!("honest{n}")]));
                assert!(done, "{words}");
                assert_eq!(std::fs::read(v.path("f7")).unwrap(), [2; 3000]);
            }
        });
        end.store(true, std::sync::atomic::Ordering::Relaxed);
        honest.unwrap();
    });
    assert!(memory() < before + 200, "{} MiB, and {before} before", memory());
}

#[test]
fn other_ioctls_and_other_files_know_nothing() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    std::fs::write(v.path("f"), "x").unwrap();
    let control = v.path(".agentfs/control");
    let notty = Err(rustix::io::Errno::NOTTY);
    assert_eq!(raw_ioctl(&control, ioctl::CONTROL_IOCTL + 1, &mut [0; 4096]), notty);
    assert_eq!(raw_ioctl(&v.path("f"), ioctl::CONTROL_IOCTL, &mut [0; 4096]), notty);
    assert_eq!(std::fs::read(&control).unwrap(), b"");
}

#[test]
fn a_foreign_uid_is_refused_even_with_an_open_descriptor() {
    if !can_mount() || !is_root("acting as another user") {
        return;
    }
    let v = Volume::mount_with(&["--allow-other"], &[]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // A descriptor that root opened is handed to a process of another user.
    let script = "import fcntl, sys\nbuf = bytearray(4096)\nbuf[0:4] = (2).to_bytes(4, 'little')\nbuf[4:6] = b'\\x011'\n\
        fcntl.ioctl(0, 0xD0004146, buf)\nn = int.from_bytes(buf[0:4], 'little')\nprint(buf[4], bytes(buf[4:4+n]).count(b'uid 0'))\n";
    let control = std::fs::File::open(v.path(".agentfs/control")).unwrap();
    let output = std::process::Command::new("python3")
        .args(["-c", script])
        .uid(65534)
        .gid(65534)
        .stdin(control)
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "92 1\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What random and mutated frames must not change: files, branches, snapshots.
fn state(v: &Volume) -> (Vec<u8>, u32, u32) {
    match v.ask(Request::Status) {
        Response::Status(status) => (std::fs::read(v.path("f")).unwrap(), status.branches, status.snapshots),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_thousand_hostile_frames_change_nothing_kill_nothing_and_stall_nobody() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    std::fs::write(v.path("f"), "content").unwrap();
    v.take_snapshot("main", "s");
    v.grow_branch("s", "b");
    let before = state(&v);
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let control = v.path(".agentfs/control");
    // Requests that are refused as they are, so that no lucky mutation is a valid change.
    let seeds: [Vec<u8>; 3] = [
        Request::from(BranchCreate { from: "missing-origin".into(), name: Some("name".into()) }).encode(),
        Request::from(BranchDelete { branch: "main".into(), force: true }).encode(),
        Request::from(BranchBind { branch: "missing-branch".into(), pid: Some(1) }).encode(),
    ];
    let mut slowest = Duration::ZERO;
    for round in 0..1000_usize {
        let mut buffer = [0; 4096];
        if round % 2 == 0 {
            rng.fill_bytes(&mut buffer);
            // Half of them with a length that fits, so that the body is looked at.
            if round % 4 == 0 {
                buffer[..4].copy_from_slice(&(rng.next_u32() % 4092).to_le_bytes());
                // Selectors that create on an empty payload are left to the mutated ones.
                buffer[4] = [2, 3, 4, 5, 6, 7, 8, 97, 98, 99, 120][rng.next_u32() as usize % 11];
            }
        } else {
            let seed = &seeds[round % 3];
            buffer = frame::encode(seed).unwrap();
            for _ in 0..1 + rng.next_u32() % 4 {
                let at = 4 + 1 + rng.next_u32() as usize % (seed.len() - 1);
                buffer[at] = rng.next_u32() as u8;
            }
            if round % 5 == 0 {
                buffer[..4].copy_from_slice(&rng.next_u32().to_le_bytes());
            }
        }
        let begun = Instant::now();
        match raw_ioctl(&control, ioctl::CONTROL_IOCTL, &mut buffer) {
            Ok(()) => {
                let response = Response::decode(frame::decode(&buffer).unwrap()).unwrap();
                assert!(matches!(response, Response::Error(_)), "round {round}: {response:?}");
            }
            Err(e) => assert_eq!(e, rustix::io::Errno::INVAL, "round {round}"),
        }
        slowest = slowest.max(begun.elapsed());
    }
    println!("slowest answer of 1,000: {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "a frame stalled the control file for {slowest:?}");
    assert_eq!(state(&v), before);
}
