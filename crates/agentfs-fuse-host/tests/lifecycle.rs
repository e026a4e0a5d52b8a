//! Starting and stopping: clear refusals, clean unmounts, nothing left behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::fs;
use std::process::Command;

use support::{DAEMON, Volume, can_mount, run_daemon};

fn refused(args: &[&str], env: &[(&str, &str)], sentence: &str) {
    let output = run_daemon(args, env);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(sentence), "{said:?} does not say {sentence:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn what_cannot_be_mounted_is_refused_in_one_sentence_and_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (mount, store) = (at("mnt"), at("store"));
    fs::create_dir(&mount).unwrap();
    fs::write(at("file"), "").unwrap();
    fs::create_dir(at("other")).unwrap();
    fs::write(at("other/precious"), "data").unwrap();
    fs::write(at("broken.json"), "{\"cache\": ").unwrap();
    fs::write(at("unknown.json"), "{\"cache\": {\"size\": 3}}").unwrap();
    fs::create_dir(at("future")).unwrap();
    fs::write(at("future/format"), "agentfs-store 999\n").unwrap();
    refused(&["--store", &store, &at("missing")], &[], "missing");
    refused(&["--store", &store, &at("file")], &[], "not a directory");
    refused(&["--store", &at("other"), &mount], &[], "not empty and is not an AgentFS store");
    refused(&["--store", &at("mnt/store"), &mount], &[], "inside the mount point");
    refused(&["--store", &at("future"), &mount], &[], "agentfs-store 999");
    refused(&["--config", &at("absent.json"), &mount], &[], "absent.json");
    refused(&["--config", &at("broken.json"), &mount], &[], "broken.json");
    refused(&["--config", &at("unknown.json"), &mount], &[], "size");
    refused(
        &["--store", &store, &mount],
        &[("AGENTFS_FUSE_WRITE_THREADS", "none")],
        "AGENTFS_FUSE_WRITE_THREADS",
    );
    refused(&["--store", &store, &mount], &[("AGENTFS_FUSE_DATA_PATH", "2")], "AGENTFS_FUSE_DATA_PATH");
    refused(
        &["--background", "--store", &at("other"), &mount],
        &[("XDG_STATE_HOME", &at("state"))],
        "not empty",
    );
    assert_eq!(fs::read_to_string(at("other/precious")).unwrap(), "data");
    assert_eq!(fs::read_dir(at("other")).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(at("future/format")).unwrap(), "agentfs-store 999\n");
    assert_eq!(fs::read_dir(at("future")).unwrap().count(), 1, "not even a lock");
    assert_eq!(fs::read_dir(&mount).unwrap().count(), 0);
}

#[test]
fn a_store_has_one_daemon_and_a_mount_point_one_volume() {
    if !can_mount() {
        return;
    }
    let v = Volume::mount();
    let other = tempfile::tempdir().unwrap();
    refused(
        &["--store", v.store().to_str().unwrap(), other.path().to_str().unwrap()],
        &[],
        "in use by another daemon",
    );
    let store = other.path().join("store");
    refused(&["--store", store.to_str().unwrap(), v.root().to_str().unwrap()], &[], "mounted at");
    fs::write(v.path("still"), "here").unwrap();
}

#[test]
fn a_signal_unmounts_cleanly() {
    if !can_mount() {
        return;
    }
    let mut v = Volume::mount();
    fs::write(v.path("f"), "x").unwrap();
    assert!(v.terminate().success(), "{}", v.log());
    assert!(!v.is_mounted());
}

#[test]
fn unmounting_from_outside_ends_the_daemon_too() {
    if !can_mount() {
        return;
    }
    let mut v = Volume::mount();
    let root = v.root();
    let by_root = rustix::process::geteuid().is_root();
    let mut command = if by_root { Command::new("umount") } else { Command::new("fusermount3") };
    command.args((!by_root).then_some("-u")).arg(&root);
    // Whoever looks at all mounts makes this one busy for a moment.
    let begun = std::time::Instant::now();
    while !command.status().unwrap().success() {
        assert!(begun.elapsed().as_secs() < 10);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(v.wait().success(), "{}", v.log());
}

#[test]
fn a_volume_in_use_is_served_until_its_last_user_leaves() {
    if !can_mount() {
        return;
    }
    let mut v = Volume::mount();
    let mut file = fs::File::create(v.path("f")).unwrap();
    rustix::process::kill_process(v.pid(), rustix::process::Signal::TERM).unwrap();
    let begun = std::time::Instant::now();
    while v.is_mounted() && begun.elapsed().as_secs() < 10 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(!v.is_mounted());
    std::io::Write::write_all(&mut file, b"still served").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 12);
    drop(file);
    assert!(v.wait().success(), "{}", v.log());
}

#[test]
fn in_the_background_it_returns_when_the_mount_answers() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("mnt");
    fs::create_dir(&mount).unwrap();
    let daemon = || {
        let mut command = Command::new(DAEMON);
        command.arg("--background").arg(&mount).env("XDG_STATE_HOME", dir.path().join("state"));
        command.output().unwrap()
    };
    let started = daemon();
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let answers = mount.join(".agentfs/control").exists();
    fs::write(mount.join("f"), "x").unwrap();
    let again = daemon();
    let by_root = rustix::process::geteuid().is_root();
    let mut command = if by_root { Command::new("umount") } else { Command::new("fusermount3") };
    assert!(command.args((!by_root).then_some("-u")).arg(&mount).status().unwrap().success());
    assert!(answers);
    assert_eq!(again.status.code(), Some(1));
    // The default store is named after the mount point.
    let stores: Vec<_> =
        fs::read_dir(dir.path().join("state/agentfs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(stores.iter().any(|name| name.to_str().unwrap().ends_with("mnt")), "{stores:?}");
}

#[test]
fn a_volume_in_memory_works_without_a_store() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.json");
    fs::write(&config, r#"{"backstore": "InMemory", "limits": {"max_branches": 2}}"#).unwrap();
    let mount = dir.path().join("mnt");
    fs::create_dir(&mount).unwrap();
    let mut daemon = Command::new(DAEMON).arg("--config").arg(&config).arg(&mount).spawn().unwrap();
    let begun = std::time::Instant::now();
    while !mount.join(".agentfs/control").exists() && begun.elapsed().as_secs() < 10 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let written = fs::write(mount.join("f"), vec![7; 100_000]);
    let read = fs::read(mount.join("f"));
    let create = |name: &str| {
        let request = agentfs_proto::request::BranchCreate { from: "main".into(), name: Some(name.into()) };
        support::ask_at(&mount.join(".agentfs/control"), request.into())
    };
    let (first, second) = (create("a"), create("b"));
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), rustix::process::Signal::TERM)
        .unwrap();
    let status = support::wait(&mut daemon, std::time::Duration::from_secs(10));
    written.unwrap();
    assert_eq!(read.unwrap(), vec![7; 100_000]);
    assert!(matches!(first, agentfs_proto::Response::BranchCreate(_)));
    assert_eq!(support::code(&second), libc::ENOSPC);
    assert!(status.unwrap().success());
}
