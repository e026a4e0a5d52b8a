//! Failing one I/O of a history: what is told, what is there afterwards, and that the volume goes on.

use std::collections::HashSet;
use std::sync::Arc;

use agentfs_core::testing::{Answer, CoreDriver, CrashDevice, Cut, Driver, Errno, Fault, Model};
use agentfs_core::{Caller, CreateMode, FileKind, FsCore, InodeId, Name, ViewId};

use super::found::{Found, MODEL, tree_differences};
use super::steps::{BOOT, run, run_model, small};
use super::{FileOf, History};

/// Errors that a failed I/O may become.
const TOLD: [Errno; 3] = [Errno::IO, Errno::NOSPC, Errno::ROFS];

impl History {
    /// Shows `visit` all I/Os to fail, with how each fails, until it answers false.
    pub fn faults(&self, mut visit: impl FnMut(usize, usize, Fault) -> bool) {
        for (number, session) in self.sessions.iter().enumerate() {
            for at in 0..session.ios {
                let full = if at % 2 == 0 { Fault::NoSpace } else { Fault::Short };
                if !visit(number, at, Fault::Error) || !visit(number, at, full) {
                    return;
                }
            }
        }
    }

    /// Fails an I/O of a session.
    pub fn fail(&self, number: usize, at: usize, fault: Fault) -> Result<(), String> {
        let session = &self.sessions[number];
        let device = Arc::new(CrashDevice::new(session.disk.after(Cut::Kill)));
        device.fail(at, fault);
        let mut before = session.model.clone();
        let core = match FsCore::open_volume(device.clone(), small(self.part, BOOT)) {
            Ok((core, _)) => Arc::new(core),
            Err(_) if !device.is_armed() => {
                // It is told, and the next try works.
                let (core, _) =
                    FsCore::open_volume(device.clone(), small(self.part, BOOT)).map_err(|e| e.to_string())?;
                return agrees(&core, &mut [&mut before], &HashSet::new());
            }
            Err(error) => return Err(format!("the mount fails by itself: {error}")),
        };
        let mut driver = CoreDriver::new(core.clone());
        let mut after = before.clone();
        for step in &session.steps {
            if !device.is_armed() {
                break;
            }
            before = after.clone();
            let expected = run_model(&mut after, step);
            let found = run(&mut driver, step);
            let told = !device.is_armed()
                && match (&found, &expected) {
                    (Err(error), _) => TOLD.contains(error),
                    // A write that stopped midway says how far it came.
                    (Ok(Answer::Count(found)), Ok(Answer::Count(expected))) => found < expected,
                    _ => false,
                };
            if found != expected && !told {
                return Err(format!("{step:?}: expected {expected:?}, found {found:?}"));
            }
        }
        driver.close();
        before.close();
        after.close();
        let doubtful = changed_content(&mut before, &mut after);
        agrees(&core, &mut [&mut after, &mut before], &doubtful)?;
        // The same mount works on.
        let _ = core.tend();
        core.tend().map_err(|e| format!("the volume does not recover: {e}"))?;
        let what = CreateMode { kind: FileKind::File, mode: 0o600, umask: 0, rdev: 0 };
        let name = Name::new(b"what comes next").unwrap();
        core.create(ViewId::MAIN, InodeId::ROOT, &name, what, Caller::ROOT)
            .map_err(|e| format!("next: {e}"))?;
        core.unlink(ViewId::MAIN, InodeId::ROOT, &name).map_err(|e| format!("next: {e}"))?;
        agrees(&core, &mut [&mut after, &mut before], &doubtful)?;
        core.sync().map_err(|e| e.to_string())?;
        drop((driver, core));
        // Nothing that was answered then is lost by a kill, nor, but for content in objects, by a power cut.
        let mut disk = session.disk.clone();
        device.trace().iter().for_each(|io| disk.apply(io));
        for cut in [Cut::Kill, Cut::Synced] {
            let boot = if cut == Cut::Kill { BOOT } else { BOOT + 1 };
            let opened = FsCore::open_volume(Arc::new(disk.after(cut)), small(self.part, boot));
            let (core, recovered) = opened.map_err(|e| format!("after {cut:?}: {e}"))?;
            if let Some(damage) = recovered.damage {
                return Err(format!("after {cut:?}: {damage}"));
            }
            let mut in_doubt = doubtful.clone();
            if cut != Cut::Kill {
                in_doubt.extend(with_objects(&core));
            }
            agrees(&core, &mut [&mut after, &mut before], &in_doubt)
                .map_err(|e| format!("after {cut:?}: {e}"))?;
        }
        Ok(())
    }
}

/// Places of trees and inodes, by the model's number, whose content or time differs.
fn changed_content(before: &mut Model, after: &mut Model) -> HashSet<FileOf> {
    let mut changed = HashSet::new();
    for at in 0..before.branches().min(after.branches()) {
        let (old, new) = (before.dump_branch(at), after.dump_branch(at));
        for (path, node) in &new {
            if old.get(path).is_some_and(|was| was.bytes != node.bytes || was.mtime != node.mtime) {
                changed.insert((at as u128, node.ino | MODEL));
            }
        }
    }
    changed
}

/// All files in objects, in any tree.
fn with_objects(core: &FsCore) -> HashSet<FileOf> {
    let mut all = HashSet::new();
    let mut add = |at: usize, view: ViewId| {
        let version = core.version(view).unwrap();
        all.extend(
            version.iter().filter(|(_, inode)| inode.has_object()).map(|(ino, _)| (at as u128, ino.0)),
        );
    };
    for (at, info) in core.list_branches(None, usize::MAX).iter().enumerate() {
        add(at, info.view);
    }
    for (at, info) in core.list_snapshots(None, usize::MAX).iter().enumerate() {
        let view = core.enter_snapshot(info.id, InodeId::ROOT).unwrap();
        add(SNAPSHOTS + at, view);
        core.forget(view, InodeId::ROOT, 1);
    }
    all
}

/// Places of snapshots among those of trees.
const SNAPSHOTS: usize = 1000;

/// Is the volume as one of the models says?
fn agrees(core: &FsCore, models: &mut [&mut Model], doubtful: &HashSet<FileOf>) -> Result<(), String> {
    let found = Found::in_core(core, Cut::Kill)?;
    let mut closest: Option<Vec<String>> = None;
    for model in models {
        if (model.branches(), model.snapshots()) != (found.branches.len(), found.snapshots.len()) {
            continue;
        }
        let mut wrong = Vec::new();
        for (at, (_, tree)) in found.branches.iter().enumerate() {
            wrong.extend(tree_differences(at as u128, &model.dump_branch(at), tree, doubtful));
        }
        for (at, (_, tree)) in found.snapshots.iter().enumerate() {
            wrong.extend(tree_differences(
                (SNAPSHOTS + at) as u128,
                &model.dump_snapshot(at),
                tree,
                doubtful,
            ));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        if closest.as_ref().is_none_or(|known| wrong.len() < known.len()) {
            closest = Some(wrong);
        }
    }
    Err(closest.map_or("other branches or snapshots".into(), |wrong| wrong.join("\n")))
}
