//! The records given to a journal suffice to repeat the history of a volume.
//!
//! Files are open while snapshots and branches are made; what writes changed in them is recorded by then. Read times
//! are no part of the history.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test stops at what goes wrong"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentfs_core::testing::{CoreDriver, Driver, Op, config, random_cases};
use agentfs_core::{
    Aside, BranchId, FsCore, Inode, InodeId, Journal, Memory, Record, Recorder, Result, SnapshotId, Version,
};

/// The recorder, kept in reach.
struct Shared(Arc<Recorder>);

impl Journal for Shared {
    fn append(&self, record: &Record) -> Result<()> {
        self.0.append(record)
    }
}

/// What records say.
#[derive(Default)]
struct History {
    branches: BTreeMap<BranchId, Version>,
    snapshots: BTreeMap<SnapshotId, Version>,
}

impl History {
    fn of(records: Vec<Record>) -> History {
        records.into_iter().fold(History::default(), |mut history, record| {
            history.repeat(record);
            history
        })
    }

    fn repeat(&mut self, record: Record) {
        match record {
            Record::Edits(branch, edits) | Record::EditsAfter(branch, _, edits) => {
                let version = self.branches.get_mut(&branch).expect("the branch was recorded");
                let mut aside = Aside::default();
                edits.into_iter().for_each(|edit| edit.apply(version, &mut aside));
            }
            Record::SnapshotCreated(new) => {
                self.snapshots.insert(new.id, self.branches[&new.branch].clone());
            }
            Record::BranchCreated(new) => {
                let version = match (new.snapshot, new.branch) {
                    (Some(snapshot), _) => self.snapshots[&snapshot].clone(),
                    (None, Some(branch)) => self.branches[&branch].clone(),
                    (None, None) => {
                        let config = config();
                        Version::new(config.root_mode, config.root_uid, config.root_gid, new.created)
                    }
                };
                self.branches.insert(new.id, version);
            }
            Record::SnapshotDeleted(id) | Record::SnapshotHidden(id) => drop(self.snapshots.remove(&id)),
            Record::BranchDeleted(id) => drop(self.branches.remove(&id)),
            _ => {}
        }
    }
}

fn compare(what: &str, live: &Version, repeated: &Version) -> Result<(), String> {
    let numbers = |version: &Version| version.iter().map(|(ino, _)| ino).collect::<Vec<_>>();
    if numbers(live) != numbers(repeated) {
        return Err(format!("{what}: inodes {:?}, repeated {:?}", numbers(live), numbers(repeated)));
    }
    for ((ino, live), (_, repeated)) in live.iter().zip(repeated.iter()) {
        if !same(live, repeated) {
            return Err(format!("{what}: {ino:?} is {live:?}, repeated {repeated:?}"));
        }
    }
    Ok(())
}

fn same(live: &Inode, repeated: &Inode) -> bool {
    let attributes = |inode: &Inode| {
        let mut meta = inode.meta;
        meta.times.atime = Default::default();
        meta
    };
    let target = |inode: &Inode| match inode.attr(InodeId::ROOT) {
        attr if attr.kind == agentfs_core::FileKind::Symlink => format!("{:?}", inode.body),
        _ => String::new(),
    };
    attributes(live) == attributes(repeated)
        && live.kind() == repeated.kind()
        && live.xattrs == repeated.xattrs
        && target(live) == target(repeated)
        && same_entries(live, repeated)
        && live.content().zip(repeated.content()).is_none_or(|(a, b)| a.same(b))
}

fn same_entries(live: &Inode, repeated: &Inode) -> bool {
    let entries = |inode: &Inode| {
        inode.directory().map(|directory| {
            let entry = |(name, entry): (&agentfs_core::Name, _)| (name.as_bytes().to_vec(), entry);
            (directory.parent, directory.iter().map(entry).collect::<Vec<_>>())
        })
    };
    let (live, repeated) = (entries(live), entries(repeated));
    format!("{live:?}") == format!("{repeated:?}")
}

fn repeat_and_compare(ops: &[Op]) -> Result<usize, String> {
    let recorder = Arc::new(Recorder::default());
    let journal = Arc::new(Shared(recorder.clone()));
    let core = Arc::new(FsCore::new_volume(Arc::new(Memory::default()), journal, config()).unwrap());
    let mut driver = CoreDriver::new(core.clone());
    for op in ops {
        let _ = driver.apply(op);
    }
    driver.close();
    let records = recorder.records();
    let count = records.len();
    let history = History::of(records);
    let (branches, snapshots) = (core.list_branches(None, usize::MAX), core.list_snapshots(None, usize::MAX));
    if (branches.len(), snapshots.len()) != (history.branches.len(), history.snapshots.len()) {
        return Err("other branches or snapshots live".into());
    }
    for info in branches {
        let live = core.version(info.view).unwrap();
        compare(&format!("branch {}", info.id), &live, &history.branches[&info.id])?;
    }
    for info in snapshots {
        let view = core.enter_snapshot(info.id, InodeId::ROOT).unwrap();
        let live = core.version(view).unwrap();
        compare(&format!("snapshot {}", info.id), &live, &history.snapshots[&info.id])?;
        core.forget(view, InodeId::ROOT, 1);
    }
    Ok(count)
}

#[test]
fn records_repeat_the_history_of_a_volume() {
    let recorded = AtomicUsize::new(0);
    random_cases("tests/replay.proptest-regressions", 80, 200, |ops| {
        recorded.fetch_add(repeat_and_compare(ops)?, Ordering::Relaxed);
        Ok(())
    });
    println!("{recorded:?} records repeated");
}
