//! The operations that the core is tested with, run by system calls on a real mount, against the same model.
//!
//! `PROPTEST_CASES` sets the number of cases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod mounted_driver;
mod support;

use std::time::Instant;

use agentfs_core::testing::{MAX_BRANCHES, MAX_SNAPSHOTS, Trial, random_cases};
use mounted_driver::MountedDriver;
use support::{Volume, can_mount, is_root};

const LENGTH: usize = 200;
const INTERVAL: usize = 50;

fn run(kind: &str, cases: u32, backstore: &str, env: &[(&str, &str)]) {
    if !can_mount() || !is_root("comparing every errno with the model's superuser") {
        return;
    }
    rustix::process::umask(rustix::fs::Mode::empty());
    let config = tempfile::NamedTempFile::new().unwrap();
    let limits =
        format!("\"limits\": {{\"max_branches\": {MAX_BRANCHES}, \"max_snapshots\": {MAX_SNAPSHOTS}}}");
    std::fs::write(config.path(), format!("{{{backstore}{limits}}}")).unwrap();
    let config = config.path().to_str().unwrap();
    let (executed, begun) = (std::sync::atomic::AtomicUsize::new(0), Instant::now());
    random_cases("tests/mounted_model.proptest-regressions", cases, LENGTH, |ops| {
        let volume = if backstore.is_empty() {
            Volume::mount_with(&["--config", config], env)
        } else {
            Volume::mount_storeless(&["--config", config])
        };
        let mut trial = Trial::new(MountedDriver::new(&volume));
        let result = trial.run(ops, INTERVAL);
        executed.fetch_add(trial.counts().0, std::sync::atomic::Ordering::Relaxed);
        result.map_err(|mismatch| mismatch.to_string())
    });
    println!("{kind}: {executed:?} operations on real mounts in {:.1?}", begun.elapsed());
}

#[test]
fn a_mounted_volume_does_as_the_model() {
    run("hybrid", 50, "", &[]);
}

#[test]
fn a_mounted_volume_does_as_the_model_when_all_data_comes_through_the_daemon() {
    run("exact", 30, "", &[("AGENTFS_FUSE_DATA_PATH", "exact")]);
}

#[test]
fn a_mounted_volume_does_as_the_model_when_the_kernel_keeps_what_is_written() {
    run("write-back", 30, "", &[("AGENTFS_FUSE_DATA_PATH", "write-back")]);
}

#[test]
fn a_mounted_volume_in_memory_does_as_the_model() {
    run("memory", 10, "\"backstore\": \"InMemory\", ", &[]);
}
