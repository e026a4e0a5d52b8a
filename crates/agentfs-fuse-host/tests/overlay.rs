//! A volume over a project that exists: programs work in it as in a copy, and the project stays as it is, whoever tries to
//! get at it and at what lies around it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentfs_proto::Request;
use agentfs_proto::Response;
use rustix::process::{Pid, Signal};
use support::{Volume, can_mount, is_root, is_write_back, run, run_daemon};

/// A directory to lie over, which is to stay as it is.
struct Project {
    dir: tempfile::TempDir,
    before: BTreeMap<PathBuf, Vec<u8>>,
}

fn tree(at: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![at.to_owned()]);
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut seen = format!(
            "{} {:o} {}.{} {}.{} {} ",
            meta.ino(),
            meta.mode(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
            meta.nlink()
        )
        .into_bytes();
        if meta.is_file() {
            seen.extend(fs::read(&path).unwrap());
        } else if meta.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path, seen);
    }
    found
}

impl Project {
    fn new(fill: impl FnOnce(&Path)) -> Project {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("project")).unwrap();
        fill(&dir.path().join("project"));
        let before = tree(&dir.path().join("project"));
        Project { dir, before }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("project").join(name)
    }

    fn over(&self, env: &[(&str, &str)]) -> Volume {
        Volume::mount_with(&["--lower", self.path("").to_str().unwrap()], env)
    }

    fn check(&self) {
        let after = tree(&self.path(""));
        let differs = |path: &&PathBuf| self.before.get(*path) != after.get(*path);
        let differing: Vec<_> = self.before.keys().chain(after.keys()).filter(differs).collect();
        assert!(differing.is_empty(), "changed: {differing:?}");
    }
}

fn objects(v: &Volume) -> usize {
    let folders = fs::read_dir(v.store().join("objects")).unwrap();
    let has = |folder: fs::DirEntry| {
        let files = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap());
        files.filter(|meta| meta.len() > 0).count()
    };
    folders.map(|folder| has(folder.unwrap())).sum()
}

/// Does `work` while a daemon with these words serves a volume at `place`, and takes both away.
fn serving(words: &[&Path], place: &Path, work: impl FnOnce()) {
    let mut daemon = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", support::DAEMON])
        .args(words)
        .arg(place)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while rustix::fs::statfs(place.join(".agentfs/control")).is_err() {
        assert!(begun.elapsed().as_secs() < 20, "no mount");
        std::thread::sleep(Duration::from_millis(5));
    }
    let worked = catch_unwind(AssertUnwindSafe(work));
    let _ = rustix::process::kill_process(Pid::from_child(&daemon), Signal::TERM);
    let ended = support::wait(&mut daemon, Duration::from_secs(10));
    let _ = daemon.kill();
    let _ = Command::new("umount").args(["-l"]).arg(place).stderr(Stdio::null()).status();
    if let Err(panic) = worked {
        resume_unwind(panic);
    }
    assert!(ended.is_some());
}

const LARGE: usize = 300_000;

fn sample(at: &Path) {
    fs::write(at.join("a"), "a\n").unwrap();
    fs::write(at.join("large"), vec![b'l'; LARGE]).unwrap();
    fs::create_dir_all(at.join("d/e")).unwrap();
    fs::write(at.join("d/e/f"), "f\n").unwrap();
    fs::hard_link(at.join("a"), at.join("d/hard")).unwrap();
    symlink("d/e/f", at.join("link")).unwrap();
    symlink("/etc/hostname", at.join("out")).unwrap();
    let sparse = File::create(at.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 5_000_000).unwrap();
    for n in 0..300 {
        fs::write(at.join(format!("d/e/{n}")), format!("{n}")).unwrap();
    }
}

#[test]
fn reading_copies_nothing_and_writing_what_it_must() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new(sample);
    let mut v = project.over(&[]);
    run(
        &v.root(),
        "diff",
        &["-r", "--no-dereference", ".", project.path("").to_str().unwrap(), "-x", ".agentfs"],
    );
    assert_eq!(
        fs::metadata(v.path("sparse")).unwrap().blocks(),
        fs::metadata(project.path("sparse")).unwrap().blocks()
    );
    run(&v.root(), "chmod", &["600", "large"]);
    assert_eq!(objects(&v), 0, "nothing was written");
    let log = |v: &Volume| {
        fs::read_dir(v.store().join("log"))
            .map_or(0, |files| files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>())
    };
    let before = log(&v);
    run(&v.root(), "find", &[".", "-type", "f", "-size", "+1k"]);
    assert_eq!(log(&v), before, "a look was recorded");
    let large = File::options().read(true).write(true).open(v.path("large")).unwrap();
    large.write_all_at(b"X", 7).unwrap();
    assert_eq!(objects(&v), 1);
    drop(large);
    fs::write(v.path("d/e/7"), "seven").unwrap();
    fs::remove_file(v.path("d/e/8")).unwrap();
    fs::rename(v.path("d"), v.path("moved")).unwrap();
    fs::write(v.path("a"), "changed\n").unwrap();
    let branch = v.grow_branch("main", "b");
    fs::remove_dir_all(v.branch("b").join("moved")).unwrap();
    fs::create_dir(v.branch("b").join("moved")).unwrap();
    for round in 0..2 {
        let (root, b) = (v.root(), v.branch("b"));
        let large = fs::read(root.join("large")).unwrap();
        assert_eq!((&large[..9], large.len()), (&b"lllllllXl"[..], LARGE));
        assert_eq!(fs::read_to_string(root.join("moved/hard")).unwrap(), "changed\n", "{branch} {round}");
        assert_eq!(
            fs::metadata(root.join("moved/hard")).unwrap().ino(),
            fs::metadata(root.join("a")).unwrap().ino()
        );
        assert_eq!(fs::read_to_string(root.join("moved/e/7")).unwrap(), "seven");
        assert_eq!(fs::read_dir(root.join("moved/e")).unwrap().count(), 300);
        assert!(
            !root.join("d").exists() && !root.join("moved/e/8").exists() && root.join("moved/e/f").exists()
        );
        assert_eq!(fs::read_dir(b.join("moved")).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(b.join("a")).unwrap(), "changed\n");
        assert!(v.terminate().success());
        v.remount();
    }
    drop(v);
    project.check();
}

#[test]
fn main_shows_changes_below_at_once() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new(sample);
    let v = project.over(&[]);
    let path = v.path("d/e/f");
    for n in 0..50 {
        let text = format!("{n} and more\n");
        if n % 2 == 0 {
            fs::write(project.path("d/e/f"), &text).unwrap();
        } else {
            fs::write(project.path("draft"), &text).unwrap();
            fs::rename(project.path("draft"), project.path("d/e/f")).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        let new = format!("new-{n}");
        assert!(!v.path(&new).exists());
        fs::write(project.path(&new), "").unwrap();
        assert!(v.path(&new).exists());
        assert!(fs::read_dir(v.root()).unwrap().any(|entry| entry.unwrap().file_name() == *new));
        fs::remove_file(project.path(&new)).unwrap();
        assert!(!v.path(&new).exists());
    }
    v.grow_branch("main", "b");
    fs::write(project.path("a"), "changed below\n").unwrap();
    let refused = fs::read_to_string(v.branch("b").join("a")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ESTALE));
    assert!(v.log().contains("changed since") && v.log().contains("path=\"a\""), "{}", v.log());
    assert_eq!(fs::read_to_string(v.path("a")).unwrap(), "changed below\n");
}

#[test]
fn a_volume_lies_over_the_directory_that_it_is_mounted_on() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new(|at| {
        sample(at);
        run(at, "git", &["init", "-q", "."]);
        run(
            at,
            "git",
            &["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "--allow-empty", "-m", "begun"],
        );
    });
    let store = project.dir.path().join("store");
    let (place, store) = (project.path(""), store.to_str().unwrap().to_owned());
    let place = place.canonicalize().unwrap();
    serving(&["--store".as_ref(), store.as_ref(), "--lower".as_ref(), &place], &place, || {
        run(&place, "git", &["add", "-A"]);
        run(
            &place,
            "git",
            &["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "in the volume"],
        );
        assert_eq!(run(&place, "git", &["status", "--porcelain"]), "");
        assert_eq!(run(&place, "git", &["log", "--oneline"]).lines().count(), 2);
        let grown = support::ask_at(
            &place.join(".agentfs/control"),
            agentfs_proto::request::BranchCreate { from: "main".into(), name: Some("b".into()) }.into(),
        );
        assert!(matches!(grown, Response::BranchCreate(_)), "{grown:?}");
        fs::write(place.join(".agentfs/branches/b/a"), "in b\n").unwrap();
        assert_eq!(fs::read_to_string(place.join("a")).unwrap(), "a\n");
        let status = support::ask_at(&place.join(".agentfs/control"), Request::Status);
        assert!(matches!(status, Response::Status(_)));
    });
    assert_eq!(run(&place, "git", &["log", "--oneline"]).lines().count(), 1);
    project.check();
}

#[test]
fn a_volume_and_its_lower_directory_belong_together() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new(sample);
    let mut v = project.over(&[]);
    fs::write(v.path("new"), "new").unwrap();
    assert!(v.terminate().success());
    let (store, mount) = (v.store(), v.root());
    let (store, mount) = (store.to_str().unwrap(), mount.to_str().unwrap());
    let other = tempfile::tempdir().unwrap();
    let fails = |args: &[&str], words: &str| {
        let ended = run_daemon(args, &[]);
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && told.contains(words), "{args:?}: {told}");
    };
    fails(&["--store", store, "--lower", other.path().to_str().unwrap(), mount], "another directory");
    fails(&["--store", store, "--lower", "/no/where", mount], "/no/where");
    fails(&["--store", store, "--lower", project.path("a").to_str().unwrap(), mount], "must be a directory");
    fails(&["--store", store, "--lower", store, mount], "lies inside the store");
    v.remount();
    assert_eq!(fs::read_to_string(v.path("new")).unwrap(), "new");
    let mut plain = Volume::mount();
    fs::write(plain.path("own"), "").unwrap();
    assert!(plain.terminate().success());
    let (store, mount) = (plain.store(), plain.root());
    let lower = project.path("");
    fails(
        &["--store", store.to_str().unwrap(), "--lower", lower.to_str().unwrap(), mount.to_str().unwrap()],
        "lies over no directory",
    );
    drop(v);
    project.check();
}

/// A store and a mount point inside the directory are not shown.
#[test]
fn a_store_and_a_mount_point_in_the_directory_are_out_of_sight() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = tempfile::tempdir().unwrap();
    sample(project.path());
    let at = |name: &str| project.path().join(name);
    fs::create_dir_all(at("mnt")).unwrap();
    let (store, mount) = (at("d/store"), at("mnt").canonicalize().unwrap());
    serving(&["--lower".as_ref(), project.path(), "--store".as_ref(), &store], &mount, || {
        let names = |dir: &str| -> Vec<_> {
            let names = fs::read_dir(mount.join(dir)).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name == "mnt" || name == "store").collect()
        };
        assert_eq!((names(""), names("d")), (vec![], vec![]));
        assert!(!mount.join("mnt").exists() && !mount.join("d/store").exists());
        assert_eq!(fs::read_to_string(mount.join("d/e/f")).unwrap(), "f\n");
    });
}

/// What is mounted in the directory, what links lead to and what is exchanged while it is looked at is never reached.
#[test]
fn nothing_leads_out_of_the_directory() {
    if !can_mount()
        || !is_root("mounting something inside a lower directory")
        || is_write_back("it is refused over another directory")
    {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    fs::create_dir(outside.path().join("inner")).unwrap();
    fs::write(outside.path().join("inner/secret"), "secret").unwrap();
    let project = Project::new(|at| {
        sample(at);
        fs::create_dir(at.join("bound")).unwrap();
        fs::create_dir(at.join("swapped")).unwrap();
        fs::write(at.join("swapped/secret"), "mine").unwrap();
    });
    let bind = || {
        run(
            Path::new("/"),
            "mount",
            &["--bind", outside.path().to_str().unwrap(), project.path("bound").to_str().unwrap()],
        )
    };
    let unbind = || run(Path::new("/"), "umount", &["-l", project.path("bound").to_str().unwrap()]);
    bind();
    let v = project.over(&[]);
    let seen = std::panic::catch_unwind(|| fs::read_dir(v.path("bound")).unwrap().count());
    unbind();
    assert_eq!(seen.unwrap(), 0, "what was mounted there before shows");
    bind();
    let seen = std::panic::catch_unwind(|| fs::read_dir(v.path("bound")).map_or(0, Iterator::count));
    unbind();
    assert_eq!(seen.unwrap(), 0, "what is mounted there later shows");
    // A directory becomes a link outside again and again, while it is looked at.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (link, spare) = (project.path("link-out"), project.path("spare"));
            symlink(outside.path(), &link).unwrap();
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                fs::rename(project.path("swapped"), &spare).unwrap();
                fs::rename(&link, project.path("swapped")).unwrap();
                fs::rename(project.path("swapped"), &link).unwrap();
                fs::rename(&spare, project.path("swapped")).unwrap();
            }
            fs::remove_file(&link).unwrap();
        });
        let _stop = agentfs_core::testing::Stop(&stop);
        let begun = std::time::Instant::now();
        while begun.elapsed().as_secs() < 2 {
            // The kernel of whoever asks follows links by itself: only what the volume says is looked at.
            if let Ok(file) = rustix::fs::openat2(
                rustix::fs::open(v.root(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap(),
                "swapped/secret",
                rustix::fs::OFlags::RDONLY,
                rustix::fs::Mode::empty(),
                rustix::fs::ResolveFlags::BENEATH,
            ) {
                let text = std::io::read_to_string(File::from(file));
                assert!(text.as_deref().unwrap_or("mine") == "mine", "{text:?}");
            }
        }
    });
    drop(v);
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "secret");
    assert_eq!(fs::read_to_string(project.path("swapped/secret")).unwrap(), "mine");
}

/// The store may lie on another filesystem: the kernel does not copy between two by itself.
#[test]
fn what_is_below_is_copied_to_another_filesystem() {
    if !can_mount()
        || !is_root("mounting a tmpfs for a store")
        || is_write_back("it is refused over another directory")
    {
        return;
    }
    let project = Project::new(sample);
    let other = tempfile::tempdir().unwrap();
    let place = other.path().to_str().unwrap();
    run(Path::new("/"), "mount", &["-t", "tmpfs", "-o", "size=64m", "tmpfs", place]);
    let worked = std::panic::catch_unwind(|| {
        let store = other.path().join("store");
        let lower = project.path("");
        let v = Volume::mount_storeless(&[
            "--store",
            store.to_str().unwrap(),
            "--lower",
            lower.to_str().unwrap(),
        ]);
        for name in ["large", "sparse"] {
            let before = fs::read(project.path(name)).unwrap();
            let file = File::options().read(true).write(true).open(v.path(name)).unwrap();
            file.write_all_at(b"X", 7).unwrap();
            let now = fs::read(v.path(name)).unwrap();
            assert_eq!(
                (now.len(), &now[..7], now[7], &now[8..]),
                (before.len(), &before[..7], b'X', &before[8..])
            );
        }
        run(&v.root(), "cp", &["--reflink=never", "large", "copied"]);
        run(&v.root(), "cmp", &["large", "copied"]);
        assert!(fs::metadata(v.path("sparse")).unwrap().blocks() < 200);
    });
    run(Path::new("/"), "umount", &["-l", place]);
    worked.unwrap();
    project.check();
}

/// A program that has a file open sees what others append to it, and what they write in place.
#[test]
fn who_has_a_file_open_in_main_sees_what_others_write() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let project = Project::new(sample);
    let v = project.over(&[]);
    let file = File::open(v.path("a")).unwrap();
    let read = || {
        let mut bytes = vec![0; 100];
        let read = file.read_at(&mut bytes, 0).unwrap();
        String::from_utf8(bytes[..read].to_vec()).unwrap()
    };
    assert_eq!(read(), "a\n");
    let below = File::options().write(true).open(project.path("a")).unwrap();
    below.write_all_at(b"appended\n", 2).unwrap();
    assert_eq!(read(), "a\nappended\n");
    below.write_all_at(b"b", 0).unwrap();
    assert_eq!(read(), "b\nappended\n");
    // What main itself writes then goes on from there, and stays.
    let own = File::options().read(true).write(true).open(v.path("a")).unwrap();
    own.write_all_at(b"own", 11).unwrap();
    below.write_all_at(b"c", 0).unwrap();
    assert_eq!(read(), "b\nappended\nown");
    assert_eq!(fs::read_to_string(v.path("a")).unwrap(), "b\nappended\nown");
}

/// What is there becomes a link.
fn swap(path: &Path, to: &Path) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap()
    } else {
        fs::remove_file(path).unwrap()
    }
    symlink(to, path).unwrap();
}

/// Paths may be longer than what can be named at once.
#[test]
fn what_lies_deep_is_reached() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let deep = tempfile::tempdir().unwrap();
    let name = "x".repeat(200);
    let down = format!("cd {name} && ").repeat(25);
    let make = format!("mkdir {name} && cd {name} && ").repeat(25);
    run(deep.path(), "bash", &["-c", &format!("{make} echo deep > deep")]);
    let mut v = Volume::mount_with(&["--lower", deep.path().to_str().unwrap()], &[]);
    let write = format!("{down} cat deep && echo deeper > deep && cat deep && ls");
    assert_eq!(run(&v.root(), "bash", &["-c", &write]), "deep\ndeeper\ndeep\n");
    assert!(v.terminate().success());
    v.remount();
    assert_eq!(run(&v.root(), "bash", &["-c", &format!("{down} cat deep")]), "deeper\n");
    assert_eq!(run(deep.path(), "bash", &["-c", &format!("{down} cat deep")]), "deep\n");
    drop(v);
    run(deep.path(), "rm", &["-rf", &name]);
}

/// What others put in the way of the daemon and of `apply` leads neither to what is outside nor to a standstill.
#[test]
fn traps_in_the_directory_catch_nobody() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let project = Project::new(|at| {
        for dir in ["d", "held", "applied", ".agentfs"] {
            fs::create_dir(at.join(dir)).unwrap();
            fs::write(at.join(dir).join("f"), "mine").unwrap();
        }
        for name in ["file", "fifo", "put", ".agentfs/control"] {
            fs::write(at.join(name), "mine").unwrap();
        }
        fs::write(at.join(std::ffi::OsStr::from_bytes(b"\xff\\ \n")), "odd").unwrap();
    });
    let v = project.over(&[]);
    // A directory of the project's own that is called as ours is: ours is found.
    assert!(matches!(support::ask_at(&v.path(".agentfs/control"), Request::Status), Response::Status(_)));
    assert!(!v.path(".agentfs/f").exists());
    let odd = v.root().join(std::ffi::OsStr::from_bytes(b"\xff\\ \n"));
    assert_eq!(fs::read_to_string(&odd).unwrap(), "odd");
    fs::write(&odd, "odder").unwrap();
    v.grow_branch("main", "b");
    let b = v.branch("b");
    fs::write(b.join("held/g"), "mine").unwrap();
    for path in ["d/f", "file", "fifo", "held/f"] {
        assert_eq!(fs::read_to_string(b.join(path)).unwrap(), "mine");
    }
    let (open_file, open_dir) = (File::open(v.path("file")).unwrap(), File::open(v.path("d")).unwrap());
    // What was looked at becomes a link to the outside, a pipe that nobody writes to, a link in the way.
    swap(&project.path("file"), &outside.path().join("secret"));
    swap(&project.path("d"), outside.path());
    swap(&project.path("held"), outside.path());
    fs::remove_file(project.path("fifo")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        project.path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let text = |file: &File| {
        let mut bytes = [0; 20];
        file.read_at(&mut bytes, 0).map(|read| String::from_utf8_lossy(&bytes[..read]).into_owned())
    };
    assert!(text(&open_file).is_ok_and(|text| text == "mine"), "who has it open reads what it was");
    let inner =
        rustix::fs::openat(&open_dir, "secret", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    assert!(inner.is_err(), "a directory that became a link leads outside");
    for path in ["d/secret", "held/secret", "file", "fifo", "d/f"] {
        let beneath = rustix::fs::openat2(
            File::open(b.canonicalize().unwrap()).unwrap(),
            path,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK,
            rustix::fs::Mode::empty(),
            rustix::fs::ResolveFlags::BENEATH,
        );
        let told = beneath.map_err(std::io::Error::from).and_then(|file| text(&File::from(file)));
        assert!(!told.is_ok_and(|text| text == "secret"), "{path}");
    }
    // The directory is moved away, and another takes its place: the volume goes by what it was given.
    fs::rename(project.path(""), project.dir.path().join("moved")).unwrap();
    fs::create_dir(project.dir.path().join("project")).unwrap();
    fs::write(project.path("another"), "").unwrap();
    assert!(!v.path("another").exists() && fs::read_to_string(&odd).unwrap() == "odder");
}

#[test]
fn what_is_written_out_goes_nowhere_else() {
    if !can_mount() || is_write_back("it is refused over another directory") {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let project = Project::new(|at| {
        for dir in ["held", "applied"] {
            fs::create_dir(at.join(dir)).unwrap();
            fs::write(at.join(dir).join("f"), "mine").unwrap();
        }
        fs::write(at.join("put"), "mine").unwrap();
    });
    let v = project.over(&[]);
    v.grow_branch("main", "b");
    let b = v.branch("b");
    fs::write(b.join("held/g"), "mine").unwrap();
    swap(&project.path("held"), outside.path());
    // What the branch has itself stays, and goes nowhere.
    assert_eq!(fs::read_to_string(b.join("held/g")).unwrap(), "mine");
    fs::write(b.join("held/new"), "mine").unwrap();
    fs::write(b.join("put"), "of b").unwrap();
    fs::write(b.join("applied/new"), "of b").unwrap();
    swap(&project.path("applied"), outside.path());
    swap(&project.path("put"), &outside.path().join("secret"));
    let applied = support::agents::told(support::agents::cli_of(&v).args(["apply", "b"]));
    assert!(!applied.0, "{}", applied.1);
    let seen: Vec<_> =
        fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(seen, ["secret"]);
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "secret");
}
