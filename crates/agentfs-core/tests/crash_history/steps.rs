//! What is done to a volume, and doing it.

use std::sync::Arc;

use agentfs_core::testing::proptest::strategy::{Strategy, ValueTree};
use agentfs_core::testing::proptest::test_runner::{Config as Cases, RngAlgorithm, TestRng, TestRunner};
use agentfs_core::testing::{
    Answer, CoreDriver, CrashDevice, Driver, FileOp, Io, KeptOp, Model, Op, Outcome, Path, Place, VolumeOp,
    config, direct_ops, ops,
};
use agentfs_core::{Config, FsCore, Memory, PackLimits};

/// The host's boot until the power is cut.
pub(super) const BOOT: u128 = 1;

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

/// Small files, so that both kinds of content are met; a log that is shortened when steps say so.
pub(super) fn small(part: u64, boot: u128) -> Config {
    let packs = PackLimits { size: 4096, slack: 0 };
    let (small_file, layered_from) = if part >= LAYERED { (0, 4096) } else { (4096, 1 << 20) };
    // Of some parts, all snapshots that may leave memory do.
    let resident_snapshots = if part % 4 == 1 { 0 } else { 1024 };
    Config { small_file, layered_from, log_factor: 1000, packs, boot, resident_snapshots, ..config() }
}

pub(super) fn steps(part: u64, count: usize) -> Vec<Step> {
    if is_direct(part) {
        return direct_steps(part, count);
    }
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
        let op = if at % 4 == 0 || part >= LAYERED { op } else { near(op) };
        let small = match at % 5 {
            3 if part < LAYERED => small_file(at),
            3 => large_file(at),
            _ => vec![],
        };
        [vec![Step::Do(op)], small, other].concat()
    };
    ops.into_iter().enumerate().flat_map(with_others).collect()
}

/// From this part on histories are of files that are written past the daemon.
pub const DIRECT: u64 = 1000;

/// From this part on histories are of files in layers.
pub const LAYERED: u64 = 2000;

pub(super) fn is_direct(part: u64) -> bool {
    (DIRECT..LAYERED).contains(&part)
}

fn direct_steps(part: u64, count: usize) -> Vec<Step> {
    let with_others = |(at, op): (usize, Op)| match at % 40 {
        19 => vec![Step::Do(op), Step::Sync],
        24 => vec![Step::Do(op), Step::Checkpoint],
        35 => vec![Step::Do(op), Step::Sync, Step::Tend],
        _ => vec![Step::Do(op)],
    };
    direct_ops(part, count).into_iter().enumerate().flat_map(with_others).collect()
}

/// Makes a small file, unless it is there, and writes to it.
pub(super) fn small_file(at: usize) -> Vec<Step> {
    let path = Path::new([2, 3, 4][at / 5 % 3], &[]);
    let (offset, len, fill) = (at as u32 % 300, at as u16 % 400 + 100, at as u8);
    let write = |offset| FileOp::Write { path: path.clone(), offset, len, fill };
    // The second goes on where the first ended: as a rule it grows in its pack.
    let ops = [FileOp::CreateFile(path.clone(), 0o644), write(offset), write(offset + u32::from(len))];
    ops.map(|op| Step::Do(Op::File(Place::Branch(0), op))).to_vec()
}

/// Makes a file of some blocks, unless it is there, has it frozen, and writes to it.
fn large_file(at: usize) -> Vec<Step> {
    let path = Path::new([2, 3, 4][at / 5 % 3], &[]);
    let (offset, len, fill) = (at as u32 * 997 % 20_000, at as u16 * 37 % 6000 + 100, at as u8);
    let write = |offset, len| FileOp::Write { path: path.clone(), offset, len, fill };
    let file = |op| Step::Do(Op::File(Place::Branch(0), op));
    let freeze = at.is_multiple_of(3).then_some(Step::Do(Op::Volume(VolumeOp::Snapshot(0))));
    let thaw = at.is_multiple_of(4).then_some(Step::Do(Op::Volume(VolumeOp::DeleteSnapshot(at as u8))));
    let made = [FileOp::CreateFile(path.clone(), 0o644), write(0, 9000)].map(file);
    let changed = [write(offset, len), FileOp::Punch(path.clone(), offset / 2, 5000)].map(file);
    made.into_iter().chain(freeze).chain(changed).chain(thaw).collect()
}

/// The operation, with content near the beginning of the file.
pub(super) fn near(op: Op) -> Op {
    match op {
        Op::File(place, FileOp::Write { path, offset, len, fill }) => {
            Op::File(place, FileOp::Write { path, offset: offset % 700, len: len % 700 + 1, fill })
        }
        Op::File(place, FileOp::Copy { from, from_at, to, to_at, .. }) => {
            let (from_at, to_at) = (from_at % 700, to_at % 700);
            Op::File(place, FileOp::Copy { from, from_at, to, to_at, len: 1000 })
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
pub(super) fn run(driver: &mut CoreDriver, step: &Step) -> Outcome {
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

pub(super) fn run_model(model: &mut Model, step: &Step) -> Outcome {
    match step {
        Step::Do(op) => model.apply(op),
        Step::Close | Step::Kill => {
            model.close();
            Ok(Answer::Done)
        }
        _ => Ok(Answer::Done),
    }
}

/// The I/Os of some threads that each do so many operations at once, while another shortens the log and empties packs.
pub fn at_once(part: u64, threads: u64, count: usize) -> Vec<Io> {
    let device = Arc::new(CrashDevice::new(Memory::default()));
    let core = Arc::new(FsCore::open_volume(device.clone(), small(part, BOOT)).unwrap().0);
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
                    for step in steps(part + 100 + seed, count).into_iter().filter(is_on_files) {
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
