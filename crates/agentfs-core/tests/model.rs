//! Random operations on the core and on the model answer alike and leave the same trees.
//!
//! `PROPTEST_CASES` sets the number of cases. What fails is kept in `tests/model.proptest-regressions` and tried
//! again first.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test stops at what goes wrong")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use agentfs_core::testing::{CoreDriver, Trial, config, random_cases};
use agentfs_core::{Config, Device, FsCore, HostFs, Memory, Unrecorded};

/// Operations of a case, and after how many of them all trees are compared.
const LENGTH: usize = 200;
const INTERVAL: usize = 25;

fn run(kind: &str, cases: u32, device: impl Fn() -> (Arc<dyn Device>, Option<tempfile::TempDir>)) {
    let (executed, succeeded) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let started = Instant::now();
    random_cases("tests/model.proptest-regressions", cases, LENGTH, |ops| {
        let (device, _directory) = device();
        let core = FsCore::new_volume(device, Arc::new(Unrecorded), config()).unwrap();
        let mut trial = Trial::new(CoreDriver::new(Arc::new(core)));
        let result = trial.run(ops, INTERVAL);
        executed.fetch_add(trial.counts().0, Ordering::Relaxed);
        succeeded.fetch_add(trial.counts().1, Ordering::Relaxed);
        result.map_err(|mismatch| mismatch.to_string())
    });
    println!("{kind}: {executed:?} operations, {succeeded:?} succeeded, in {:.1?}", started.elapsed());
}

/// As the kernel reads and writes files by itself: a snapshot gets a copy of what is written, and of what is read once that
/// is to be written.
#[test]
fn a_volume_whose_files_are_written_past_the_daemon_does_as_the_model() {
    let direct = AtomicUsize::new(0);
    random_cases("tests/model.proptest-regressions", 60, LENGTH, |ops| {
        let config = Config { small_file: 0, ..config() };
        let core = FsCore::new_volume(Arc::new(Memory::default()), Arc::new(Unrecorded), config).unwrap();
        let mut trial = Trial::new(CoreDriver::new(Arc::new(core)).past_the_daemon());
        let result = trial.run(ops, INTERVAL);
        direct.fetch_add(trial.driver().direct(), Ordering::Relaxed);
        result.map_err(|mismatch| mismatch.to_string())
    });
    println!("{direct:?} times past the daemon");
    assert!(direct.into_inner() > 10);
}

/// As every file that was frozen once has its content in layers.
#[test]
fn a_volume_whose_files_are_in_layers_does_as_the_model() {
    for past_the_daemon in [false, true] {
        random_cases("tests/model.proptest-regressions", 150, LENGTH, |ops| {
            let config = Config { small_file: 0, layered_from: 1, ..config() };
            let core = FsCore::new_volume(Arc::new(Memory::default()), Arc::new(Unrecorded), config).unwrap();
            let driver = CoreDriver::new(Arc::new(core));
            let driver = if past_the_daemon { driver.past_the_daemon() } else { driver };
            Trial::new(driver).run(ops, INTERVAL).map_err(|mismatch| mismatch.to_string())
        });
    }
}

#[test]
fn a_volume_in_memory_does_as_the_model() {
    run("memory", 150, || (Arc::new(Memory::default()), None));
}

#[test]
fn a_volume_on_a_host_directory_does_as_the_model() {
    run("host directory", 10, || {
        let directory = tempfile::tempdir().unwrap();
        let device = HostFs::open(&directory.path().join("store"), true).unwrap();
        (Arc::new(device), Some(directory))
    });
}
