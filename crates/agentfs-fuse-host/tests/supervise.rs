//! A daemon that dies is started again, by `--supervise` or by a service manager; programs that open their files again go on in
//! their branch.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use agentfs_proto::{Request, Response};
use rustix::process::{Pid, Signal, kill_process};
use support::agents::{Agent, has_python};
use support::{Volume, can_mount, is_root, run_daemon};

const PATIENCE: Duration = Duration::from_secs(30);

fn supervised(words: &[&str]) -> Option<Volume> {
    (can_mount() && is_root("a supervised daemon") && has_python())
        .then(|| Volume::mount_with(&[&["--supervise"], words].concat(), &[]))
}

/// The daemon that serves now: the only child of the process that was started.
fn daemon(v: &Volume) -> Option<Pid> {
    let supervisor = v.pid().as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).ok()?;
    let pid: i32 = children.split(' ').next()?.parse().ok()?;
    Pid::from_raw(pid)
}

/// Kills the daemon and waits until another serves.
fn kill(v: &Volume) {
    let before = daemon(v).unwrap();
    kill_process(before, Signal::KILL).unwrap();
    let begun = Instant::now();
    while daemon(v).is_none_or(|now| now == before) || rustix::fs::statfs(v.path(".agentfs/control")).is_err()
    {
        assert!(begun.elapsed() < PATIENCE, "no daemon is started again:\n{}", v.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How many mounts there are at the mount point.
fn mounts(v: &Volume) -> usize {
    let all = fs::read_to_string("/proc/self/mounts").unwrap();
    all.lines().filter(|line| line.split(' ').nth(1) == v.root().to_str()).count()
}

/// Can the kernel mount beneath what is mounted (Linux 6.5)?
fn has_beneath() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let has = (numbers.next(), numbers.next()) >= (Some(6), Some(5));
    if !has {
        println!("SKIPPED: that dead mounts do not pile up: the kernel cannot mount beneath them");
    }
    has
}

fn status(v: &Volume) -> Vec<(String, String)> {
    let Response::Status(status) = v.ask(Request::Status) else { panic!("no status") };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    status.settings.iter().map(|setting| (text(&setting.key), text(&setting.value))).collect()
}

#[test]
fn programs_that_open_their_files_again_go_on_in_their_branch() {
    let Some(mut v) = supervised(&[]) else { return };
    fs::write(v.path("f"), "main").unwrap();
    v.grow_branch("main", "a");
    let mut bound = Agent::bound(&v, "a", &v.root());
    let mut inside = Agent::enter(&v, "a", &v.root());
    let read = format!("open({:?}).read()", v.path("f"));
    let write = |text: &str| format!("open({:?}, 'w').write({text:?})", v.path("f"));
    for round in 1..4 {
        let text = format!("round {round}");
        bound.value(&write(&text));
        kill(&v);
        assert_eq!(bound.text(&read), text);
        assert_eq!(fs::read_to_string(v.path("f")).unwrap(), "main");
        assert!(mounts(&v) <= if has_beneath() { 1 } else { 1 + round }, "dead mounts pile up");
        assert_eq!(fs::read_to_string(v.branch("a").join("f")).unwrap(), text);
        // Its mount went with the daemon that served it.
        assert_eq!(inside.errno(&read), i64::from(libc::ENOTCONN));
        let told = status(&v).into_iter().find(|(key, _)| key == "to_be_restarted").unwrap().1;
        assert!(told.contains(&inside.pid().to_string()) && told.contains("agent.py"), "{told}");
    }
    drop(inside);
    let mut again = Agent::enter(&v, "a", &v.root());
    assert_eq!(again.text(&read), "round 3");
    let begun = Instant::now();
    while status(&v).iter().any(|(key, _)| key == "to_be_restarted") {
        assert!(begun.elapsed() < PATIENCE, "who ended is still to be restarted");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop((bound, again));
    assert!(v.terminate().success(), "{}", v.log());
    assert!(!v.is_mounted(), "a dead mount is left");
}

#[test]
fn a_daemon_that_dies_again_and_again_is_given_up_and_what_lies_below_stays_covered() {
    let Some(mut v) = supervised(&[]) else { return };
    fs::write(v.path("f"), "x").unwrap();
    (0..4).for_each(|_| kill(&v));
    assert_eq!(fs::read_to_string(v.path("f")).unwrap(), "x");
    kill_process(daemon(&v).unwrap(), Signal::KILL).unwrap();
    assert_eq!(v.wait().code(), Some(1));
    let log = v.log();
    assert!(log.contains("it is given up") && log.contains("until it is mounted again"), "{log}");
    let below = fs::write(v.path("below"), "lost").unwrap_err();
    assert_eq!(below.raw_os_error(), Some(libc::ENOTCONN));
    // The next covers it.
    v.remount();
    assert_eq!(fs::read_to_string(v.path("f")).unwrap(), "x");
}

/// A volume over the directory that it is mounted on, whose daemon dies: that directory lies below the dead mount.
#[test]
fn a_volume_at_the_path_of_the_directory_that_it_lies_over_is_served_again() {
    if !(can_mount() && is_root("covering a dead mount")) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let project = dir.path().join("mnt");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("below"), "below").unwrap();
    let mut v = Volume::mount_over(dir, &["--supervise", "--lower", project.to_str().unwrap()]);
    fs::write(v.path("above"), "above").unwrap();
    for _ in 0..2 {
        kill(&v);
        assert_eq!(fs::read_to_string(v.path("below")).unwrap(), "below");
        assert_eq!(fs::read_to_string(v.path("above")).unwrap(), "above");
    }
    assert!(v.terminate().success(), "{}", v.log());
    assert_eq!(fs::read_dir(v.root()).unwrap().count(), 1, "it was written to");
}

#[test]
fn it_ends_with_the_volume_and_is_refused_where_it_could_not_help() {
    let Some(mut v) = supervised(&[]) else { return };
    let daemon = daemon(&v).unwrap();
    assert!(Command::new("umount").arg(v.root()).status().unwrap().success());
    assert!(v.wait().success(), "{}", v.log());
    assert!(!std::path::Path::new(&format!("/proc/{}", daemon.as_raw_nonzero())).exists());
    let config = v.store().with_file_name("memory.json");
    fs::write(&config, r#"{"backstore": "InMemory"}"#).unwrap();
    let words =
        ["--supervise", "--config", config.to_str().unwrap(), v.root().to_str().unwrap()].map(str::to_owned);
    let refused = run_daemon(&words.each_ref().map(String::as_str), &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("--supervise needs a store"), "{said}");
    // What keeps the first daemon from starting is said, once.
    fs::create_dir(v.store().with_file_name("other")).unwrap();
    fs::write(v.store().with_file_name("other").join("precious"), "data").unwrap();
    let other = v.store().with_file_name("other");
    let refused =
        run_daemon(&["--supervise", "--store", other.to_str().unwrap(), v.root().to_str().unwrap()], &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("not an AgentFS store"), "{said}");
}

#[test]
fn in_the_background_it_returns_when_the_mount_answers() {
    if !(can_mount() && is_root("a supervised daemon")) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("mnt");
    fs::create_dir(&mount).unwrap();
    let mut command = Command::new("timeout");
    command.args(["20", support::DAEMON, "--background", "--supervise", "--store", "store", "mnt"]);
    let started = command.current_dir(&dir).env("XDG_STATE_HOME", dir.path().join("state")).output().unwrap();
    let daemons = || {
        let all = Command::new("pgrep").args(["-f", mount.to_str().unwrap()]).output().unwrap();
        String::from_utf8(all.stdout).unwrap().lines().count()
    };
    let written = fs::write(mount.join("f"), "x");
    let serving = Command::new("pgrep")
        .args(["-f", &format!("report-start --store .*{}$", mount.display())])
        .output()
        .unwrap();
    let pid: i32 = String::from_utf8(serving.stdout).unwrap().lines().last().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let begun = Instant::now();
    let mut again = fs::read_to_string(mount.join("f"));
    while again.is_err() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
        again = fs::read_to_string(mount.join("f"));
    }
    while !Command::new("umount").arg(&mount).status().unwrap().success() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    written.unwrap();
    assert_eq!(again.unwrap(), "x");
    while daemons() > 0 {
        assert!(begun.elapsed() < PATIENCE, "the supervisor does not end with the volume");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a service manager hears: that the volume is served, that it is well, and that it ends.
#[test]
fn a_service_manager_is_told() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let env = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "400000")];
    let mut v = Volume::mount_with(&[], &env);
    let heard = || {
        let mut message = [0; 256];
        let len = socket.recv(&mut message).unwrap();
        String::from_utf8(message[..len].to_vec()).unwrap()
    };
    let told: Vec<String> = (0..6).map(|_| heard()).collect();
    assert!(told.iter().any(|told| told.contains("READY=1")), "{told:?}");
    assert!(told.iter().filter(|told| told.contains("WATCHDOG=1")).count() >= 4, "{told:?}");
    // One that stands still tells nothing.
    kill_process(v.pid(), Signal::STOP).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    let mut message = [0; 256];
    while socket
        .recv(&mut message)
        .is_ok_and(|_| socket.set_read_timeout(Some(Duration::from_secs(1))).is_ok())
    {}
    kill_process(v.pid(), Signal::CONT).unwrap();
    assert!(v.terminate().success(), "{}", v.log());
    let mut last = Vec::new();
    while let Ok(len) = socket.recv(&mut message) {
        last.push(String::from_utf8(message[..len].to_vec()).unwrap());
    }
    assert!(last.iter().any(|told| told.contains("STOPPING=1")), "{last:?}");
}
