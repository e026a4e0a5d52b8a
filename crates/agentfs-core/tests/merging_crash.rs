//! A crash or a power cut at any I/O of a merge, a restore, an undo or a deletion: the branches are as they were before it or as
//! they are after it, what was answered is there, and what was interrupted is done by asking again.
//!
//! `PROPTEST_CASES` sets the number of histories.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod forked;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentfs_core::testing::{
    CoreDriver, CrashDevice, Cut, Disk, Op, config, dump, merge, random_cases, sound,
};
use agentfs_core::{Config, FsCore, PackLimits, Policy, Progress};
use forked::{Face, edit, faces, fork};

const REGRESSIONS: &str = "tests/merging_crash.proptest-regressions";

/// What is done, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Merge(&'static str, &'static str, Policy),
    Restore,
    RestorePath,
    Undo,
    Discard,
    Checkpoint,
}

const DEEDS: [Deed; 10] = [
    Deed::Merge("b", "main", Policy::Theirs),
    Deed::Checkpoint,
    Deed::Restore,
    Deed::Undo,
    Deed::Merge("main", "b", Policy::Ours),
    Deed::RestorePath,
    Deed::Checkpoint,
    Deed::Discard,
    Deed::Undo,
    Deed::Merge("b", "main", Policy::Markers),
];

fn small(boot: u128) -> Config {
    let packs = PackLimits { size: 4096, slack: 0 };
    Config { small_file: 4096, log_factor: 1000, packs, boot, max_snapshots: 100, ..config() }
}

impl Deed {
    /// Refusals are answers, too.
    fn run(self, core: &FsCore) -> Result<(), String> {
        let progress = Progress::default();
        let done = match self {
            Deed::Merge(source, into, policy) => merge(core, source, into, policy).map(drop),
            Deed::Restore => core.restore("main", "s", &[], false, &progress).map(drop),
            Deed::RestorePath => core.restore("main", "s", &[b"a".to_vec()], false, &progress).map(drop),
            Deed::Undo => core.undo(&progress).map(drop),
            Deed::Discard => core.discard_branch("b", true).map(drop),
            Deed::Checkpoint => core.checkpoint().map(drop),
        };
        done.map_err(|error| error.to_string())
    }
}

/// The branches, by name.
type Trees = BTreeMap<String, BTreeMap<Vec<u8>, Face>>;

fn trees(core: &FsCore) -> Result<Trees, String> {
    sound(core)?;
    let mut trees = Trees::new();
    for info in core.list_branches(None, usize::MAX) {
        let name = info.name.as_deref().unwrap_or("-").to_owned();
        trees.insert(name, faces(&dump(core, info.view)));
    }
    Ok(trees)
}

/// A state that was reached after so many I/Os, and what was done then.
struct Moment {
    ios: usize,
    trees: Trees,
    next: Option<(Deed, Result<(), String>)>,
}

/// Runs all; returns the device's I/Os and the moments.
fn history(ops: &[Op]) -> (Arc<CrashDevice>, Vec<Moment>) {
    let device = Arc::new(CrashDevice::new(Disk::default().after(Cut::Kill)));
    let core = Arc::new(FsCore::open_volume(device.clone(), small(1)).unwrap().0);
    let mut driver = CoreDriver::new(core.clone());
    edit(&mut driver, &ops[..ops.len() / 3], 0, &|_| true);
    drop(fork(&core, ops, &|_| true));
    core.sync_content().unwrap();
    let mut moments = vec![Moment { ios: device.count(), trees: trees(&core).unwrap(), next: None }];
    for deed in DEEDS {
        let answer = deed.run(&core);
        moments.last_mut().unwrap().next = Some((deed, answer));
        moments.push(Moment { ios: device.count(), trees: trees(&core).unwrap(), next: None });
    }
    (device, moments)
}

/// Is what a crash left one of the two states, and is what was interrupted done by asking again?
fn look(disk: &Disk, cut: Cut, moments: &[Moment], reached: usize) -> Result<(), String> {
    let boot = if cut == Cut::Kill { 1 } else { 2 };
    let (core, found) =
        FsCore::open_volume(Arc::new(disk.after(cut)), small(boot)).map_err(|error| error.to_string())?;
    if let Some(damage) = found.damage {
        return Err(damage.to_string());
    }
    core.sweep().and_then(|_| core.tend()).map_err(|error| error.to_string())?;
    let now = trees(&core)?;
    let after = moments.get(reached + 1).unwrap_or(&moments[reached]);
    if now == after.trees && now != moments[reached].trees {
        return Ok(());
    }
    if now != moments[reached].trees {
        return Err("neither the state before nor the one after".to_owned());
    }
    let Some((deed, answer)) = &moments[reached].next else { return Ok(()) };
    // Of what changes no tree it cannot be told whether it was done: an undo is not to be done twice.
    if after.trees == moments[reached].trees {
        return Ok(());
    }
    let again = deed.run(&core);
    if again.is_ok() != answer.is_ok() {
        return Err(format!("again {deed:?} answers {again:?}, not {answer:?}"));
    }
    if trees(&core)? != after.trees {
        return Err(format!("{deed:?}, done again, does something else"));
    }
    Ok(())
}

#[test]
fn at_any_moment_all_is_done_or_nothing() {
    let (points, changes) = (AtomicUsize::new(0), AtomicUsize::new(0));
    random_cases(REGRESSIONS, 12, 60, |ops| {
        let (device, moments) = history(ops);
        changes.fetch_add(
            moments.windows(2).filter(|pair| pair[0].trees != pair[1].trees).count(),
            Ordering::Relaxed,
        );
        let (mut disk, trace, start) = (Disk::default(), device.trace(), moments[0].ios);
        for (done, io) in trace.iter().enumerate() {
            if done >= start {
                let reached = moments.iter().rposition(|moment| moment.ios <= done).unwrap();
                let mut torn = disk.clone();
                let disks = [Some(&disk), torn.apply_torn(io).then_some(&torn)];
                for disk in disks.into_iter().flatten() {
                    for cut in [Cut::Kill, Cut::Synced, Cut::Some(done as u64)] {
                        points.fetch_add(1, Ordering::Relaxed);
                        look(disk, cut, &moments, reached).map_err(|wrong| {
                            format!("{wrong}\nI/O {done}, {cut:?}, after {:?}: {io:?}", moments[reached].next)
                                .chars()
                                .take(2000)
                                .collect::<String>()
                        })?;
                    }
                }
            }
            disk.apply(io);
        }
        Ok(())
    });
    println!("{points:?} crashes in histories with {changes:?} changes");
    assert!(changes.into_inner() > 12);
}
