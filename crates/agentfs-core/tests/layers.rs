//! A volume over a directory of the host is what it would be if it held all that is there: random operations on it and on the
//! model answer alike and leave the same trees, in all branches and snapshots, before and after it is opened anew. The
//! directory stays as it is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use agentfs_core::testing::{CoreDriver, Op, Place, Trial, config, dump, plant, random_cases};
use agentfs_core::{Config, FsCore, LowerTree, Memory, Unrecorded, ViewId};

/// Operations of a case; a third of them make the lower directory.
const LENGTH: usize = 200;
const INTERVAL: usize = 20;

type Seen = BTreeMap<PathBuf, (Vec<u8>, [i64; 9])>;

/// All that can be seen of a directory, but when it was read.
fn seen(at: &Path) -> Seen {
    let (mut found, mut open) = (Seen::new(), vec![at.to_owned()]);
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let bytes = match meta.file_type() {
            kind if kind.is_file() => fs::read(&path).unwrap(),
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            kind if kind.is_dir() => {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                Vec::new()
            }
            _ => Vec::new(),
        };
        let facts = [
            meta.ino() as i64,
            meta.mode().into(),
            meta.nlink() as i64,
            meta.size() as i64,
            meta.blocks() as i64,
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        ];
        found.insert(path, (bytes, facts));
    }
    found
}

fn open(device: &Arc<Memory>, lower: &Path, config: Config) -> Arc<FsCore> {
    let tree = LowerTree::open(lower, &[], &[]).unwrap();
    let (core, found) = FsCore::open_layered(device.clone(), config, Some(tree)).unwrap();
    assert_eq!(found.damage, None);
    Arc::new(core)
}

/// The operations on files, all of them in `main`.
fn in_main(ops: &[Op]) -> impl Iterator<Item = Op> {
    ops.iter().filter_map(|op| match op {
        Op::File(_, op) => Some(Op::File(Place::Branch(0), op.clone())),
        Op::Kept(..) | Op::Volume(_) => None,
    })
}

fn volumes_over_directories(cases: u32, config: fn() -> Config) {
    let (executed, below, begun) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
    random_cases("tests/layers.proptest-regressions", cases, LENGTH, |ops| {
        let (first, rest) = ops.split_at(ops.len() / 3);
        let plain = FsCore::new_volume(Arc::new(Memory::default()), Arc::new(Unrecorded), config()).unwrap();
        let mut trial = Trial::new(CoreDriver::new(Arc::new(plain)));
        in_main(first).try_for_each(|op| trial.step(&op)).map_err(|m| m.to_string())?;
        let tree = dump(trial.driver().core(), ViewId::MAIN);
        let lower = tempfile::tempdir().unwrap();
        if !plant(&tree, lower.path()) {
            return Ok(()); // attributes that are root's
        }
        below.fetch_add(tree.len(), Ordering::Relaxed);
        let before = seen(lower.path());
        let device = Arc::new(Memory::default());
        let driver = CoreDriver::new(open(&device, lower.path(), config())).remembering_all();
        let mut trial = trial.replaced(driver);
        trial.compare().map_err(|m| m.to_string())?;
        for (round, batch) in rest.chunks(INTERVAL).enumerate() {
            batch.iter().try_for_each(|op| trial.step(op)).map_err(|m| m.to_string())?;
            trial.compare().map_err(|m| m.to_string())?;
            if round % 2 == 1 {
                trial.restart(|driver| driver.reopened(open(&device, lower.path(), config())));
                trial.compare().map_err(|m| m.to_string())?;
            }
        }
        executed.fetch_add(trial.counts().0, Ordering::Relaxed);
        assert_eq!(seen(lower.path()), before, "the lower directory was changed");
        Ok(())
    });
    println!("{executed:?} operations over {below:?} files in {:.1?}", begun.elapsed());
}

#[test]
fn a_volume_over_a_directory_does_as_the_model() {
    volumes_over_directories(80, config);
}

#[test]
fn a_volume_of_objects_over_a_directory_does_as_the_model() {
    volumes_over_directories(40, || Config { small_file: 0, log_factor: 0, log_slack: 0, ..config() });
}
