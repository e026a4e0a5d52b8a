//! Who may do what: each cell of the table in SECURITY.md that is about users, on real mounts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use agentfs_proto::request::{
    ApplyGate, ApplyNote, ApplyStart, BranchBind, BranchCreate, BranchDelete, BranchDiscard, BranchEnter,
    BranchList, BranchRename, BranchSnapshot, BranchUnbind, BranchUsage, DiffStart, Events, FuzzySnapshot,
    ImportBegin, JobEnd, JobPoll, JobRead, KeepLower, MergeStart, ProcessList, RequestCounts, RestoreStart,
    SnapshotCreate, SnapshotDelete, SnapshotExport, SnapshotExportRelease, SnapshotPage, SnapshotRename,
    Stop, SyncedSnapshot, Whoami,
};
use agentfs_proto::{DecodeError, Request, Response};
use rustix::process::{Gid, Uid};
use support::agents::cli;
use support::{Volume, ask_at, ask_open, can_mount, code, is_root, run};

/// Somebody who is neither root nor who mounted the volume.
const OTHER: u32 = 4242;
/// Who mounted it, where that is not root: `nobody`, as `fusermount3` asks for a name.
const OWNER: u32 = 65_534;

fn is_possible() -> bool {
    can_mount() && is_root("acting as several users")
}

/// Can somebody mount who is not root?
fn others_can_mount() -> bool {
    let can = acting_as(OWNER, || File::options().read(true).write(true).open("/dev/fuse").is_ok());
    if !can {
        println!("SKIPPED in part: /dev/fuse is root's alone on this machine");
    }
    can
}

/// Does something as another user, in a thread of its own.
fn acting_as<T: Send>(uid: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            work()
        });
        acting.join().unwrap()
    })
}

/// A command as another user.
fn command_as(uid: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let (mut command, id) = (Command::new("setpriv"), uid.to_string());
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(program);
    command
}

/// A process that is another user's, until it is dropped.
struct Process(Child);

impl Process {
    fn of(uid: u32) -> Process {
        let process = Process(command_as(uid, "sleep").arg("1000").spawn().unwrap());
        // It is that user's when it has become the program.
        let name = format!("/proc/{}/comm", process.0.id());
        while fs::read_to_string(&name).unwrap() != "sleep\n" {
            std::thread::yield_now();
        }
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn errno<T: std::fmt::Debug>(done: std::io::Result<T>) -> Option<i32> {
    done.unwrap_err().raw_os_error()
}

/// One of each request there is.
fn each_request() -> Vec<Request> {
    let (b, s) = (|| b"b".to_vec(), || b"s".to_vec());
    let pid = Some(std::process::id());
    let merge = MergeStart {
        source: b(),
        into: None,
        conflicts: "refuse".into(),
        dry_run: false,
        with_git: false,
        all: false,
    };
    vec![
        SnapshotCreate { name: None }.into(),
        Request::SnapshotList,
        SnapshotExport { snapshot: s() }.into(),
        SnapshotExportRelease { cleanup_token: s() }.into(),
        BranchCreate { from: b(), name: None }.into(),
        BranchBind { branch: b(), pid }.into(),
        BranchUnbind { pid }.into(),
        BranchDelete { branch: b(), force: true }.into(),
        BranchList { after: None }.into(),
        SnapshotPage { after: None }.into(),
        SnapshotDelete { snapshot: s() }.into(),
        SnapshotRename { snapshot: s(), name: "x".into() }.into(),
        BranchRename { branch: b(), name: "x".into() }.into(),
        Request::Status,
        RequestCounts { after: None }.into(),
        BranchSnapshot { branch: b(), name: None }.into(),
        SyncedSnapshot { branch: b(), name: None }.into(),
        Whoami { pid }.into(),
        BranchEnter { branch: b() }.into(),
        ProcessList { after: None }.into(),
        BranchUsage { branch: b() }.into(),
        Stop { how: "force".into() }.into(),
        FuzzySnapshot { branch: b(), name: None }.into(),
        Request::Lower,
        KeepLower { paths: vec![], deep: true }.into(),
        DiffStart { a: b(), b: s(), with_git: true, all: true }.into(),
        merge.into(),
        RestoreStart { branch: b(), from: s(), paths: vec![], dry_run: false }.into(),
        Request::UndoStart,
        JobPoll { job: 1 }.into(),
        JobRead { job: 1, offset: 0 }.into(),
        JobEnd { job: 1 }.into(),
        Events { after: None }.into(),
        BranchDiscard { branch: b(), force: true }.into(),
        ApplyStart { of: b() }.into(),
        ApplyNote { branch: b(), written: vec![], tokens: vec![] }.into(),
        ImportBegin { branch: b() }.into(),
        ApplyGate { is_closed: true }.into(),
    ]
}

#[test]
fn each_request_is_asked_for_here() {
    let is_known =
        |selector: &u8| !matches!(Request::decode(&[*selector, b'1']), Err(DecodeError::UnknownSelector(_)));
    let known: BTreeSet<u8> = (0..=u8::MAX).filter(is_known).collect();
    let here: BTreeSet<u8> =
        each_request().iter().map(|request| *request.encode().first().unwrap()).collect();
    assert_eq!(here, known);
}

/// A volume of root's, open to others, with a branch, a snapshot, and files that are and are not for others.
fn open_volume() -> Volume {
    let v = Volume::mount_with(&["--allow-other"], &[]);
    for (name, mode) in [("public", 0o644), ("secret", 0o600)] {
        fs::write(v.path(name), name).unwrap();
        fs::set_permissions(v.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    v.take_snapshot("main", "s");
    v.grow_branch("s", "b");
    // Who may not pass the directory above does not come as far as the volume.
    fs::set_permissions(v.root().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    v
}

fn is_refused_as_a_stranger(answer: &Response) -> bool {
    let Response::Error(error) = answer else { return false };
    code(answer) == libc::EPERM && String::from_utf8_lossy(&error.error).contains("may control it")
}

#[test]
fn another_user_is_refused_each_operation_and_root_none() {
    if !is_possible() {
        return;
    }
    let v = open_volume();
    // The file is not even opened by others; who was handed it, or opened it before, counts as who uses it.
    let control = File::open(v.path(".agentfs/control")).unwrap();
    acting_as(OTHER, || {
        assert_eq!(errno(File::open(v.path(".agentfs/control"))), Some(libc::EACCES));
        for request in each_request() {
            let shown = format!("{request:?}");
            assert!(is_refused_as_a_stranger(&ask_open(&control, request)), "{shown}");
        }
    });
    let names = |view: &str| fs::read_dir(v.path(view)).unwrap().count();
    assert_eq!((names(".agentfs/branches"), names(".agentfs/snapshots")), (2, 1), "nothing was done");
    for request in each_request().into_iter().filter(|request| !matches!(request, Request::Stop(_))) {
        let shown = format!("{request:?}");
        assert!(!is_refused_as_a_stranger(&v.ask(request)), "{shown}");
    }
}

#[test]
fn who_mounted_a_volume_is_refused_no_operation_and_binds_no_process_of_others() {
    if !is_possible() {
        return;
    }
    if !others_can_mount() {
        return;
    }
    let v = Volume::mount_as(OWNER, &[]);
    let control = v.path(".agentfs/control");
    let (own, foreign) = (Process::of(OWNER), Process::of(OTHER));
    let bind = |pid| ask_at(&control, BranchBind { branch: "b".into(), pid: Some(pid) }.into());
    acting_as(OWNER, || {
        let grown = ask_at(&control, BranchCreate { from: "main".into(), name: Some("b".into()) }.into());
        assert!(matches!(grown, Response::BranchCreate(_)), "{grown:?}");
        assert!(matches!(bind(own.0.id()), Response::BranchBind(_)));
        for pid in [foreign.0.id(), std::process::id(), 1] {
            let answer = bind(pid);
            assert_eq!(code(&answer), libc::EPERM, "{answer:?}");
        }
        let unbound = ask_at(&control, BranchUnbind { pid: Some(foreign.0.id()) }.into());
        assert!([libc::EPERM, libc::EINVAL].contains(&code(&unbound)), "{unbound:?}");
        for request in each_request().into_iter().filter(|request| !matches!(request, Request::Stop(_))) {
            let shown = format!("{request:?}");
            assert!(!is_refused_as_a_stranger(&ask_at(&control, request)), "{shown}");
        }
    });
}

#[test]
fn root_binds_the_processes_of_all() {
    if !is_possible() {
        return;
    }
    let v = open_volume();
    for process in [Process::of(OTHER), Process::of(0)] {
        let answer = v.ask(BranchBind { branch: "b".into(), pid: Some(process.0.id()) });
        assert!(matches!(answer, Response::BranchBind(_)), "{answer:?}");
    }
}

#[test]
fn a_volume_that_is_not_open_to_others_shows_them_nothing() {
    if !is_possible() {
        return;
    }
    let v = Volume::mount();
    fs::set_permissions(v.root().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    acting_as(OTHER, || {
        for path in ["", ".agentfs", ".agentfs/control", ".agentfs/branches/main"] {
            assert_eq!(errno(fs::metadata(v.path(path))), Some(libc::EACCES), "{path}");
        }
    });
}

#[test]
fn others_see_what_is_for_them_and_no_other_branch_and_nobody_changes_what_lists_them() {
    if !is_possible() {
        return;
    }
    let v = open_volume();
    let look = || {
        assert_eq!(fs::read_to_string(v.path("public")).unwrap(), "public");
        assert_eq!(errno(fs::read(v.path("secret"))), Some(libc::EACCES));
        assert_eq!(errno(File::options().write(true).open(v.path("public"))), Some(libc::EACCES));
        assert_eq!(errno(File::create_new(v.path("new"))), Some(libc::EACCES));
        // An old mode in a snapshot is not to show what was closed later.
        for view in [v.branch("b"), v.snapshot("s"), v.path(".agentfs/by-id")] {
            assert_eq!(errno(fs::metadata(view.join("public"))), Some(libc::EACCES), "{}", view.display());
        }
    };
    acting_as(OTHER, look);
    assert_eq!(fs::read_to_string(v.snapshot("s").join("secret")).unwrap(), "secret");
    let changes = || {
        for path in [".agentfs/branches/new", ".agentfs/snapshots/new", ".agentfs/new", ".agentfs/by-id/new"]
        {
            let refused = errno(fs::create_dir(v.path(path))).unwrap();
            assert!([libc::EPERM, libc::EACCES, libc::EROFS].contains(&refused), "{path}: {refused}");
        }
        for path in [".agentfs/branches/b", ".agentfs/snapshots/s", ".agentfs/branches"] {
            assert!(fs::remove_dir(v.path(path)).is_err(), "{path}");
        }
        assert!(fs::remove_file(v.path(".agentfs/control")).is_err());
    };
    acting_as(OTHER, changes);
    changes();
}

/// All files below a directory, and it itself.
fn all_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(all_below(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn the_store_is_its_owners_alone_whatever_the_files_in_it_are() {
    if !is_possible() {
        return;
    }
    let v = open_volume();
    fs::write(v.path("large"), vec![1; 3 << 20]).unwrap();
    fs::set_permissions(v.path("large"), fs::Permissions::from_mode(0o777)).unwrap();
    v.take_snapshot("main", "t");
    File::options().write(true).open(v.path("large")).unwrap().set_len(5).unwrap();
    let store = v.store();
    let files = all_below(&store);
    assert!(files.len() > 5);
    for path in &files {
        let stat = fs::symlink_metadata(path).unwrap();
        assert_eq!((stat.mode() & 0o077, stat.uid()), (0, 0), "{}", path.display());
    }
    acting_as(OTHER, || {
        assert_eq!(errno(fs::read_dir(&store)), Some(libc::EACCES));
    });
}

/// The options of a mount, as the kernel tells them.
fn options(v: &Volume) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = v.root().display().to_string();
    let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(&place)).unwrap();
    line.split(' ').nth(5).unwrap().to_owned()
}

#[test]
fn privileged_programs_and_devices_do_as_the_mounts_options_say() {
    if !is_possible() {
        return;
    }
    let v = open_volume();
    fs::copy("/usr/bin/id", v.path("id")).unwrap();
    fs::set_permissions(v.path("id"), fs::Permissions::from_mode(0o4755)).unwrap();
    run(&v.root(), "mknod", &["-m", "666", "null", "c", "1", "3"]);
    let who =
        || String::from_utf8(command_as(OTHER, v.path("id")).arg("-u").output().unwrap().stdout).unwrap();
    let opened = || acting_as(OTHER, || File::open(v.path("null")).map(drop).map_err(|e| e.raw_os_error()));
    assert_eq!((who().trim(), opened()), ("0", Ok(())), "{}", options(&v));
    let root = v.root();
    run(Path::new("/"), "mount", &["-i", "-o", "remount,nosuid,nodev", root.to_str().unwrap()]);
    assert_eq!((who().trim(), opened()), ("4242", Err(Some(libc::EACCES))), "{}", options(&v));
    // Who is not root mounts no others.
    if !others_can_mount() {
        return;
    }
    let theirs = Volume::mount_as(OWNER, &[]);
    let options = options(&theirs);
    assert!(options.contains("nosuid") && options.contains("nodev"), "{options}");
}

#[test]
fn root_of_a_user_namespace_is_who_he_is_outside() {
    if !is_possible() {
        return;
    }
    if !command_as(OTHER, "unshare").args(["-Ur", "true"]).status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: this machine lets nobody make a user namespace");
        return;
    }
    let v = open_volume();
    let within = |script: &str| {
        let root = v.root();
        let done = command_as(OTHER, "unshare")
            .args(["-Ur", "sh", "-c", script, "sh", root.to_str().unwrap()])
            .arg(cli())
            .output()
            .unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    assert!(within("test $(id -u) = 0 && cat $1/public").0);
    assert!(!within("cat $1/secret").0);
    assert!(!within("chown 0 $1/public || echo x >$1/public").0);
    let (done, words) = within("$2 --mount $1 snapshot-create");
    assert!(!done && words.contains("only its owner and root may control"), "{words}");
    let own = Process::of(0);
    let (done, words) = within(&format!("$2 --mount $1 branch-bind --branch b --pid {}", own.0.id()));
    assert!(!done && words.contains("only its owner and root may control"), "{words}");
}
