//! A history of a volume: what was done, what the model says after each step, and each I/O that it took.

mod faults;
mod found;
mod steps;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use agentfs_core::testing::{
    CoreDriver, CrashDevice, Cut, Disk, Driver, Dump, FileOp, Io, Model, Op, Path, Place,
};
use agentfs_core::{BranchId, FileId, FileKind, FsCore, InodeId, Name, ViewId};

pub use self::found::Found;
use self::found::MODEL;
use self::steps::{BOOT, Step, is_direct, run, run_model, small, steps};
pub use self::steps::{DIRECT, LAYERED, at_once};

/// Steps between two mounts.
const SESSION: usize = 25;

/// A file of a tree, by the ids of both.
type FileOf = (u128, u64);

/// Trees by their ids.
type Trees = Vec<(u128, Arc<Dump>)>;

/// The volume after a step.
#[derive(Clone)]
struct Moment {
    step: Step,
    /// I/Os until then.
    ios: usize,
    branches: Trees,
    snapshots: Trees,
    /// Files whose content a power cut may take, in part or whole.
    doubtful: HashSet<FileOf>,
    /// The first moment that may be found after a power cut.
    must: usize,
}

/// The volume at the beginning of a session.
struct Session {
    disk: Disk,
    model: Model,
    steps: Vec<Step>,
    ios: usize,
}

pub struct History {
    pub part: u64,
    pub trace: Vec<Io>,
    /// Files that were in layers, after each step, in all.
    pub layered: usize,
    moments: Vec<Moment>,
    sessions: Vec<Session>,
}

/// A place in the history at which something may end it.
pub struct Point<'a> {
    /// I/Os that were carried out.
    pub ios: usize,
    pub disk: &'a Disk,
    /// The I/O behind them was half done.
    pub torn: bool,
    /// The last moment that was reached.
    reached: usize,
    step: &'a Step,
    last: Option<&'a Io>,
}

impl fmt::Debug for Point<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let io = match self.last {
            Some(Io::Write(id, at, data)) => format!("write {id:?} {at}+{}", data.len()),
            Some(Io::Copy(id, data)) => format!("copy to {id:?} {}", data.len()),
            other => format!("{other:?}"),
        };
        let torn = if self.torn { ", the next torn" } else { "" };
        write!(f, "I/O {} ({io}{torn}), moment {}, then {:?}", self.ios, self.reached, self.step)
    }
}

impl History {
    /// Runs steps that depend on `part` alone. Panics when the core does otherwise than the model.
    pub fn record(part: u64, count: usize, deaf: fn(FileId) -> bool) -> History {
        let mut history =
            History { part, trace: Vec::new(), layered: 0, moments: Vec::new(), sessions: Vec::new() };
        let (mut disk, mut model, mut driver) = (Disk::default(), Model::new(), None);
        for (number, chunk) in steps(part, count).chunks(SESSION).enumerate() {
            let end = if number % 2 == 0 { Step::Kill } else { Step::Close };
            let steps: Vec<Step> = [&[Step::Open], chunk, &[end]].concat();
            let base = history.trace.len();
            let device = Arc::new(CrashDevice::deaf(disk.after(Cut::Kill), deaf));
            let start = (disk.clone(), model.clone());
            let core = Arc::new(FsCore::open_volume(device.clone(), small(part, BOOT)).unwrap().0);
            let driver = match &mut driver {
                None if is_direct(part) => driver.insert(CoreDriver::new(core).past_the_daemon()),
                None => driver.insert(CoreDriver::new(core)),
                Some(known) => {
                    known.reopened(core);
                    known
                }
            };
            for step in &steps {
                let (expected, found) = (run_model(&mut model, step), run(driver, step));
                assert_eq!(expected, found, "part {part}: {step:?}");
                history.note(step, base + device.count(), &mut model, driver.core(), found.is_ok());
            }
            let trace = device.trace();
            trace.iter().for_each(|io| disk.apply(io));
            history.sessions.push(Session { disk: start.0, model: start.1, steps, ios: trace.len() });
            history.trace.extend(trace);
        }
        history
    }

    fn note(&mut self, step: &Step, ios: usize, model: &mut Model, core: &FsCore, succeeded: bool) {
        for info in core.list_branches(None, usize::MAX) {
            let version = core.version(info.view).unwrap();
            self.layered += version.iter().filter(|(_, inode)| inode.is_layered()).count();
        }
        let before = self.moments.last();
        let branches = core.list_branches(None, usize::MAX).into_iter().enumerate();
        let branches: Trees =
            branches.map(|(at, info)| (info.id.0, Arc::new(model.dump_branch(at)))).collect();
        let snapshots = core.list_snapshots(None, usize::MAX).into_iter().enumerate();
        let snapshots: Trees =
            snapshots.map(|(at, info)| (info.id.0, Arc::new(model.dump_snapshot(at)))).collect();
        let branches = shared(branches, before.map(|before| &before.branches));
        let snapshots = shared(snapshots, before.map(|before| &before.snapshots));
        assert_eq!((branches.len(), snapshots.len()), (model.branches(), model.snapshots()));
        let doubtful = doubtful(step, before, &branches, &snapshots, core, succeeded);
        let must = before.map_or(0, |before| before.must);
        self.moments.push(Moment { step: step.clone(), ios, branches, snapshots, doubtful, must });
        let last = self.moments.len() - 1;
        self.moments[last].must = if succeeded { self.promised(step, last).max(must) } else { must };
    }

    /// The first moment that may be found after a power cut, by what this step was answered.
    fn promised(&self, step: &Step, now: usize) -> usize {
        match step {
            Step::Sync | Step::Checkpoint | Step::Compact | Step::Close | Step::Do(Op::Volume(_)) => now,
            Step::Do(Op::File(place, FileOp::Fsync(path))) => {
                let path: Vec<u8> = path.names().collect::<Vec<_>>().join(&b'/');
                let branches = &self.moments[now].branches;
                let Place::Branch(index) = place else { return 0 };
                let (id, dump) = &branches[usize::from(*index) % branches.len()];
                let node = &dump[&path];
                let same = |moment: &Moment| {
                    let then = moment.branches.iter().find(|(known, _)| known == id);
                    then.and_then(|(_, dump)| dump.get(&path)) == Some(node)
                };
                (0..=now).rev().take_while(|at| same(&self.moments[*at])).last().unwrap_or(now)
            }
            _ => 0,
        }
    }

    /// How often content was moved to another pack.
    pub fn moves(&self) -> usize {
        let is_compact = |ios: usize| {
            let after = self.moments.iter().position(|moment| moment.ios > ios);
            after.is_some_and(|at| matches!(self.moments[at].step, Step::Compact))
        };
        let writes = self.trace.iter().enumerate();
        writes.filter(|(at, io)| matches!(io, Io::Write(FileId::Pack(_), ..)) && is_compact(*at)).count()
    }

    /// Shows `visit` all points, until it answers false.
    pub fn walk(&self, mut visit: impl FnMut(&Point<'_>) -> bool) {
        let (mut disk, mut reached) = (Disk::default(), 0);
        for ios in 1..=self.trace.len() {
            let io = &self.trace[ios - 1];
            if *io == Io::Nothing {
                continue;
            }
            disk.apply(io);
            while self.moments.get(reached).is_some_and(|moment| moment.ios <= ios) {
                reached += 1;
            }
            let step = self.moments.get(reached).map_or(&Step::Close, |moment| &moment.step);
            let point = Point { ios, disk: &disk, torn: false, reached, step, last: Some(io) };
            if !visit(&point) {
                return;
            }
            if let Some(next) = self.trace.get(ios) {
                let mut torn = disk.clone();
                if torn.apply_torn(next)
                    && !visit(&Point { disk: &torn, torn: true, last: Some(next), ..point })
                {
                    return;
                }
            }
        }
    }

    /// Is what was found at a point what was promised?
    pub fn check(&self, point: &Point<'_>, found: Found) -> Result<(), String> {
        // `reached` counts the moments before; the step that leads to the next was under way, unless nothing was done yet.
        let Some(before) = point.reached.checked_sub(1) else {
            // The volume was being made: it is made again, under another id.
            let is_new =
                found.branches.len() == 1 && found.branches[0].1.len() == 1 && found.snapshots.is_empty();
            return if is_new { Ok(()) } else { Err("a new volume is not empty".into()) };
        };
        let last = point.reached.min(self.moments.len() - 1);
        let mut doubtful = self.under_way(before, last);
        let first = if found.cut == Cut::Kill { before } else { self.moments[before].must };
        if found.cut != Cut::Kill {
            doubtful.extend((first..=last).flat_map(|at| self.moments[at].doubtful.iter().copied()));
            // Two operations: the state between them may be found, too.
            let in_two = |at: &usize| {
                matches!(self.moments[*at].step, Step::Do(Op::File(_, FileOp::OpenTruncate(..))))
            };
            doubtful.extend((first + 1..=last).filter(in_two).flat_map(|at| self.under_way(at - 1, at)));
        }
        let mut closest: Option<Vec<String>> = None;
        for at in (first..=last).rev() {
            let wrong = found.differences(&self.moments[at], &doubtful);
            if wrong.is_empty() {
                return Ok(());
            }
            if closest.as_ref().is_none_or(|known| wrong.len() < known.len()) {
                closest = Some(wrong);
            }
        }
        let steps: Vec<String> =
            (first..=last).map(|at| format!("{at}: {:?}", self.moments[at].step)).collect();
        Err(format!(
            "no state from {first} to {last} was found; the closest differs in\n{}\nsteps\n{}",
            closest.unwrap_or_default().join("\n"),
            steps.join("\n")
        ))
    }

    /// Files in objects, or emptied in between, whose content the step from `before` to `after` changes.
    fn under_way(&self, before: usize, after: usize) -> HashSet<FileOf> {
        let (old, new) = (&self.moments[before], &self.moments[after]);
        let is_atomic = matches!(
            &new.step,
            Step::Do(Op::File(_, FileOp::Write { .. } | FileOp::Copy { .. }) | Op::Kept(..))
        );
        let mut changed = HashSet::new();
        for (id, dump) in &new.branches {
            let Some((_, then)) = old.branches.iter().find(|(known, _)| known == id) else { continue };
            for (path, node) in dump.iter() {
                let differs =
                    then.get(path).is_some_and(|was| was.bytes != node.bytes || was.mtime != node.mtime);
                let file = (*id, node.ino | MODEL);
                if differs && (!is_atomic || new.doubtful.contains(&file) || old.doubtful.contains(&file)) {
                    changed.insert(file);
                }
            }
        }
        changed
    }
}

/// The trees, each that is as it was being the one that was.
fn shared(mut trees: Trees, before: Option<&Trees>) -> Trees {
    for (id, dump) in &mut trees {
        let same = before.into_iter().flatten().find(|(known, old)| known == id && old == dump);
        *dump = same.map_or_else(|| dump.clone(), |(_, old)| old.clone());
    }
    trees
}

/// Files in objects whose content was changed and not synced since.
fn doubtful(
    step: &Step,
    before: Option<&Moment>,
    branches: &[(u128, Arc<Dump>)],
    snapshots: &[(u128, Arc<Dump>)],
    core: &FsCore,
    succeeded: bool,
) -> HashSet<FileOf> {
    let Some(before) = before else { return HashSet::new() };
    let mut doubtful = before.doubtful.clone();
    let known: HashSet<u128> = before.branches.iter().chain(&before.snapshots).map(|(id, _)| *id).collect();
    // What is new shares what it grew from: any that is doubtful somewhere may be here.
    let everywhere: BTreeSet<u64> = doubtful.iter().map(|(_, ino)| *ino).collect();
    for (id, _) in branches.iter().chain(snapshots).filter(|(id, _)| !known.contains(id)) {
        doubtful.extend(everywhere.iter().map(|ino| (*id, *ino)));
    }
    for (id, dump) in branches {
        let Some((_, then)) = before.branches.iter().find(|(known, _)| known == id) else { continue };
        if Arc::ptr_eq(dump, then) {
            continue;
        }
        let view = core.find_branch(&BranchId(*id).to_string()).unwrap().view;
        let version = core.version(view).unwrap();
        for (path, node) in dump.iter().filter(|(_, node)| node.stat.kind == FileKind::File) {
            let same = |(_, was): &(&Vec<u8>, &agentfs_core::testing::Node)| {
                was.ino == node.ino && was.bytes == node.bytes && was.mtime == node.mtime
            };
            if then.iter().any(|was| same(&was)) {
                continue;
            }
            let ino = resolve(core, view, path);
            let both = [(*id, ino.0), (*id, node.ino | MODEL)];
            if version.get(ino).is_some_and(|inode| inode.has_object()) {
                doubtful.extend(both);
            } else {
                doubtful.retain(|file| !both.contains(file));
            }
        }
    }
    let Step::Do(Op::File(Place::Branch(index), op)) = step else { return doubtful };
    let (id, dump) = &branches[usize::from(*index) % branches.len()];
    let view = core.find_branch(&BranchId(*id).to_string()).unwrap().view;
    let settled = match op {
        FileOp::Fsync(path) => Some(path),
        // What takes the place of another is synced before it does.
        FileOp::Rename(from, to, agentfs_core::RenameMode::Replace) => {
            let place = |path: &Path| path.names().collect::<Vec<_>>().join(&b'/');
            let then = before.branches.iter().find(|(known, _)| known == id).map(|(_, dump)| dump);
            let replaced = then.is_some_and(|then| {
                then.get(&place(to))
                    .is_some_and(|was| then.get(&place(from)).is_some_and(|from| from.ino != was.ino))
            });
            replaced.then_some(to)
        }
        _ => None,
    };
    if let Some(path) = settled.filter(|_| succeeded) {
        let path = path.names().collect::<Vec<_>>().join(&b'/');
        let both = [(*id, resolve(core, view, &path).0), (*id, dump[&path].ino | MODEL)];
        doubtful.retain(|file| !both.contains(file));
    }
    doubtful
}

fn resolve(core: &FsCore, view: ViewId, path: &[u8]) -> InodeId {
    path.split(|byte| *byte == b'/').fold(InodeId::ROOT, |dir, name| {
        core.lookup(view, dir, &Name::new(name).unwrap()).unwrap().expect("the model has it").ino
    })
}
