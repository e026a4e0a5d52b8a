//! A history of a volume: what was done, what the model says after each step, and each I/O that it took.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use agentfs_core::testing::proptest::strategy::{Strategy, ValueTree};
use agentfs_core::testing::proptest::test_runner::{Config as Cases, RngAlgorithm, TestRng, TestRunner};
use agentfs_core::testing::{
    Answer, CoreDriver, CrashDevice, Cut, Disk, Driver, Dump, Errno, Fault, FileOp, Io, KeptOp, Model, Op,
    Outcome, Path, Place, config, dump, ops,
};
use agentfs_core::{
    BranchId, Caller, Config, CreateMode, FileId, FileKind, FsCore, InodeId, Memory, Name, PackLimits,
    ViewId, check,
};

/// Steps between two mounts.
const SESSION: usize = 25;
/// The host's boot until the power is cut.
const BOOT: u128 = 1;

/// What is done to a volume.
#[derive(Clone, Debug)]
pub enum Step {
    Open,
    Do(Op),
    Sync,
    Tend,
    Checkpoint,
    Compact,
    Close,
    Kill,
}

/// A file of a tree, by the ids of both.
type FileOf = (u128, u64);

/// The volume after a step.
#[derive(Clone)]
struct Moment {
    step: Step,
    /// I/Os until then.
    ios: usize,
    branches: Vec<(u128, Arc<Dump>)>,
    snapshots: Vec<(u128, Arc<Dump>)>,
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

/// Small files, so that both kinds of content are met; a log that is shortened when steps say so.
fn small(boot: u128) -> Config {
    let packs = PackLimits { size: 4096, slack: 0 };
    Config { small_file: 4096, log_factor: 1000, packs, boot, ..config() }
}

fn steps(part: u64, count: usize) -> Vec<Step> {
    let seed: Vec<u8> = part.to_le_bytes().repeat(4);
    let mut runner =
        TestRunner::new_with_rng(Cases::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let ops = ops(count).new_tree(&mut runner).unwrap().current();
    let with_others = |(at, op): (usize, Op)| {
        let other = match at % 40 {
            9 | 29 => vec![Step::Tend],
            19 => vec![Step::Sync],
            24 => vec![Step::Checkpoint],
            12 | 31 => vec![Step::Compact],
            35 => vec![Step::Sync, Step::Tend],
            _ => vec![],
        };
        // Three of four small, near the beginning: such files lie in packs.
        let op = if at % 4 == 0 { op } else { near(op) };
        let small = if at % 5 == 3 { small_file(at) } else { vec![] };
        [vec![Step::Do(op)], small, other].concat()
    };
    ops.into_iter().enumerate().flat_map(with_others).collect()
}

/// Makes a small file, unless it is there, and writes to it.
fn small_file(at: usize) -> Vec<Step> {
    let path = Path::new([2, 3, 4][at / 5 % 3], &[]);
    let (offset, len, fill) = (at as u32 % 300, at as u16 % 400 + 100, at as u8);
    let write = |offset| FileOp::Write { path: path.clone(), offset, len, fill };
    // The second goes on where the first ended: as a rule it grows in its pack.
    let ops = [FileOp::CreateFile(path.clone(), 0o644), write(offset), write(offset + u32::from(len))];
    ops.map(|op| Step::Do(Op::File(Place::Branch(0), op))).to_vec()
}

/// The operation, with content near the beginning of the file.
fn near(op: Op) -> Op {
    match op {
        Op::File(place, FileOp::Write { path, offset, len, fill }) => {
            Op::File(place, FileOp::Write { path, offset: offset % 700, len: len % 700 + 1, fill })
        }
        Op::File(place, FileOp::Truncate(path, size)) => Op::File(place, FileOp::Truncate(path, size % 2000)),
        Op::File(place, FileOp::Punch(path, offset, len)) => {
            Op::File(place, FileOp::Write { path, offset: offset % 700, len: len as u16 % 500 + 1, fill: 7 })
        }
        Op::Kept(slot, KeptOp::Write(offset, len, fill)) => {
            Op::Kept(slot, KeptOp::Write(offset % 700, len % 700 + 1, fill))
        }
        other => other,
    }
}

/// Runs a step on a core.
fn run(driver: &mut CoreDriver, step: &Step) -> Outcome {
    let core = driver.core().clone();
    let told = |done: agentfs_core::Result<()>| {
        done.map(|()| Answer::Done).map_err(|error| agentfs_core::testing::errno(&error))
    };
    match step {
        Step::Do(op) => driver.apply(op),
        Step::Sync => told(core.sync()),
        Step::Tend => told(core.tend()),
        Step::Compact => told(core.compact()),
        Step::Checkpoint => told(core.checkpoint().map(drop)),
        Step::Close => {
            driver.close();
            told(core.close())
        }
        Step::Open | Step::Kill => Ok(Answer::Done),
    }
}

fn run_model(model: &mut Model, step: &Step) -> Outcome {
    match step {
        Step::Do(op) => model.apply(op),
        Step::Close | Step::Kill => {
            model.close();
            Ok(Answer::Done)
        }
        _ => Ok(Answer::Done),
    }
}

impl History {
    /// Runs steps that depend on `part` alone. Panics when the core does otherwise than the model.
    pub fn record(part: u64, count: usize, deaf: fn(FileId) -> bool) -> History {
        let mut history = History { part, trace: Vec::new(), moments: Vec::new(), sessions: Vec::new() };
        let (mut disk, mut model, mut driver) = (Disk::default(), Model::new(), None);
        for (number, chunk) in steps(part, count).chunks(SESSION).enumerate() {
            let end = if number % 2 == 0 { Step::Kill } else { Step::Close };
            let steps: Vec<Step> = [&[Step::Open], chunk, &[end]].concat();
            let base = history.trace.len();
            let device = Arc::new(CrashDevice::deaf(disk.after(Cut::Kill), deaf));
            let start = (disk.clone(), model.clone());
            let core = Arc::new(FsCore::open_volume(device.clone(), small(BOOT)).unwrap().0);
            let driver = match &mut driver {
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
        let before = self.moments.last();
        let share = |id: u128, dump: Dump, known: Option<&Vec<(u128, Arc<Dump>)>>| {
            let same = known.into_iter().flatten().find(|(known, old)| *known == id && **old == dump);
            same.map_or_else(|| Arc::new(dump), |(_, old)| old.clone())
        };
        let branches: Vec<(u128, Arc<Dump>)> = core
            .list_branches(None, usize::MAX)
            .iter()
            .enumerate()
            .map(|(at, info)| {
                (info.id.0, share(info.id.0, model.dump_branch(at), before.map(|m| &m.branches)))
            })
            .collect();
        let snapshots: Vec<(u128, Arc<Dump>)> = core
            .list_snapshots(None, usize::MAX)
            .iter()
            .enumerate()
            .map(|(at, info)| {
                (info.id.0, share(info.id.0, model.dump_snapshot(at), before.map(|m| &m.snapshots)))
            })
            .collect();
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
        let is_atomic = matches!(&new.step, Step::Do(Op::File(_, FileOp::Write { .. }) | Op::Kept(..)));
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

/// Set in numbers of the model's inodes.
const MODEL: u64 = 1 << 63;

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

/// A volume as it was found.
pub struct Found {
    cut: Cut,
    branches: Vec<(u128, Dump)>,
    snapshots: Vec<(u128, Dump)>,
}

impl Found {
    /// Opens what a crash left, has it swept and tended, and looks at all there is.
    pub fn of(device: Memory, cut: Cut) -> Result<Found, String> {
        let boot = if cut == Cut::Kill { BOOT } else { BOOT + 1 };
        let (core, recovered) =
            FsCore::open_volume(Arc::new(device), small(boot)).map_err(|e| e.to_string())?;
        if let Some(damage) = recovered.damage {
            return Err(damage.to_string());
        }
        core.sweep().and_then(|_| core.sync()).and_then(|()| core.tend()).map_err(|e| e.to_string())?;
        let found = Found::in_core(&core, cut)?;
        // And it takes what comes next.
        let what = CreateMode { kind: FileKind::File, mode: 0o600, rdev: 0 };
        let name = Name::new(b"what comes next").unwrap();
        core.create(ViewId::MAIN, InodeId::ROOT, &name, what, Caller::ROOT).map_err(|e| e.to_string())?;
        core.create_snapshot("main", None).map(drop).or_else(|e| {
            if matches!(e, agentfs_core::FsError::LimitReached(_)) { Ok(()) } else { Err(e.to_string()) }
        })?;
        Ok(found)
    }

    fn in_core(core: &FsCore, cut: Cut) -> Result<Found, String> {
        let mut found = Found { cut, branches: Vec::new(), snapshots: Vec::new() };
        for info in core.list_branches(None, usize::MAX) {
            let faults = check(&core.version(info.view).unwrap());
            if !faults.is_empty() {
                return Err(format!("{faults:?}"));
            }
            found.branches.push((info.id.0, dump(core, info.view)));
        }
        for info in core.list_snapshots(None, usize::MAX) {
            let view = core.enter_snapshot(info.id, InodeId::ROOT).unwrap();
            found.snapshots.push((info.id.0, dump(core, view)));
            core.forget(view, InodeId::ROOT, 1);
        }
        Ok(found)
    }

    fn differences(&self, moment: &Moment, doubtful: &HashSet<FileOf>) -> Vec<String> {
        let ids = |trees: &[(u128, Arc<Dump>)]| trees.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        let found = |trees: &[(u128, Dump)]| trees.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        if ids(&moment.branches) != found(&self.branches) || ids(&moment.snapshots) != found(&self.snapshots)
        {
            return vec!["other branches or snapshots".into(); 1000];
        }
        let expected = moment.branches.iter().chain(&moment.snapshots);
        let pairs = expected.zip(self.branches.iter().chain(&self.snapshots));
        pairs
            .flat_map(|((id, expected), (_, found))| tree_differences(*id, expected, found, doubtful))
            .collect()
    }
}

fn tree_differences(id: u128, expected: &Dump, found: &Dump, doubtful: &HashSet<FileOf>) -> Vec<String> {
    let mut wrong = Vec::new();
    let named = |path: &[u8]| path.escape_ascii().to_string().chars().take(60).collect::<String>();
    let gone = expected.keys().filter(|path| !found.contains_key(*path));
    wrong.extend(gone.map(|path| format!("{id:x}/{} is missing", named(path))));
    let extra = found.keys().filter(|path| !expected.contains_key(*path));
    wrong.extend(extra.map(|path| format!("{id:x}/{} should not be there", named(path))));
    for (path, expected) in expected {
        let Some(found) = found.get(path) else { continue };
        let in_doubt = doubtful.contains(&(id, found.ino)) || doubtful.contains(&(id, expected.ino | MODEL));
        let mut shown = expected.stat;
        if in_doubt {
            shown.size = found.stat.size;
        }
        let content = in_doubt
            || (expected.bytes == found.bytes && (expected.mtime.is_none() || expected.mtime == found.mtime));
        if shown != found.stat || !content || expected.xattrs != found.xattrs {
            wrong.push(format!("{id:x}/{}:\n  expected {expected:?}\n  found    {found:?}", named(path)));
        }
    }
    wrong
}

/// The I/Os of some threads that each do so many operations at once, while another shortens the log and empties packs.
pub fn at_once(threads: u64, count: usize) -> Vec<Io> {
    let device = Arc::new(CrashDevice::new(Memory::default()));
    let core = Arc::new(FsCore::open_volume(device.clone(), small(BOOT)).unwrap().0);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                core.compact().unwrap();
                core.sync().unwrap();
                core.tend().unwrap();
            }
        });
        let work: Vec<_> = (0..threads)
            .map(|seed| {
                let core = core.clone();
                scope.spawn(move || {
                    let mut driver = CoreDriver::new(core);
                    // Others delete what this one knows: only operations on files.
                    let is_on_files = |step: &Step| matches!(step, Step::Do(Op::File(Place::Branch(_), _)));
                    for step in steps(100 + seed, count).into_iter().filter(is_on_files) {
                        let _ = run(&mut driver, &step);
                    }
                    driver.close();
                })
            })
            .collect();
        work.into_iter().for_each(|thread| thread.join().unwrap());
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    device.trace()
}

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
        let core = match FsCore::open_volume(device.clone(), small(BOOT)) {
            Ok((core, _)) => Arc::new(core),
            Err(_) if !device.is_armed() => {
                // It is told, and the next try works.
                let (core, _) =
                    FsCore::open_volume(device.clone(), small(BOOT)).map_err(|e| e.to_string())?;
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
        let what = CreateMode { kind: FileKind::File, mode: 0o600, rdev: 0 };
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
            let opened = FsCore::open_volume(Arc::new(disk.after(cut)), small(boot));
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
