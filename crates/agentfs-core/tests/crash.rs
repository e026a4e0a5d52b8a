//! The crash matrix. A history of some 2,000 operations is run once on a device that notes every I/O. Then, for each I/O in
//! turn: it is the last before the daemon dies, before the power is cut (with what was not synced dropped, written by
//! chance, or in part and in any order), is torn, or fails; the volume is opened again and must be as promised:
//!
//! - after the death of the daemon, every operation that was answered, and of the one under way all or nothing;
//! - after a power cut, a state that the volume had, not before the last sync, snapshot, branch or what any fsync
//!   answered promised; the content of files in objects of their own exactly when it was synced after its last change, of
//!   all others always;
//! - after an I/O that failed, what there was before the operation that was told so, and the volume goes on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod crash_history;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use agentfs_core::FileId;
use agentfs_core::testing::{Cut, Disk, Io, caught};
use crash_history::{DIRECT, Found, History, LAYERED, Point};

/// Operations in all, in parts that are histories of volumes of their own.
const PARTS: u64 = 10;
const OPERATIONS: usize = 200;

/// Runs `work` for all numbers below `count` on as many threads as there are CPUs; returns what went wrong.
fn in_parallel(count: u64, work: impl Fn(u64) -> Vec<String> + Sync) -> Vec<String> {
    let next = std::sync::atomic::AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let run = || {
            let mut wrong = Vec::new();
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= count {
                    return wrong;
                }
                wrong.extend(work(part));
            }
        };
        let started: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        started.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// Checks one point.
fn finding(what: &dyn std::fmt::Debug, check: impl FnOnce() -> Result<(), String>) -> Option<String> {
    caught(check).err().map(|told| format!("{what:?}: {told}"))
}

/// All crashes of a history. Stops after a few findings.
fn crashes(history: &History, points: &AtomicUsize) -> Vec<String> {
    let mut wrong = Vec::new();
    history.walk(|point: &Point<'_>| {
        for cut in [Cut::Kill, Cut::Synced, Cut::Written, Cut::Some(1), Cut::Some(2), Cut::Some(3)] {
            points.fetch_add(1, Ordering::Relaxed);
            let check = || history.check(point, Found::of(history.part, point.disk.after(cut), cut)?);
            wrong.extend(finding(&(history.part, point, cut), check));
        }
        wrong.len() < 5
    });
    wrong
}

fn told(wrong: &[String]) -> String {
    wrong.iter().take(3).cloned().collect::<Vec<_>>().join("\n\n")
}

#[test]
fn every_crash_and_every_power_cut_leaves_what_was_promised() {
    let (points, ios, begun) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
    let moves = AtomicUsize::new(0);
    let wrong = in_parallel(PARTS, |part| {
        let history = History::record(part, OPERATIONS, |_| false);
        ios.fetch_add(history.trace.len(), Ordering::Relaxed);
        moves.fetch_add(history.moves(), Ordering::Relaxed);
        crashes(&history, &points)
    });
    println!(
        "{points:?} crashes at {ios:?} I/Os of {} operations in {:.0?}",
        PARTS as usize * OPERATIONS,
        begun.elapsed()
    );
    assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), told(&wrong));
    println!("{moves:?} contents were moved to other packs meanwhile");
    assert!(points.into_inner() > 20_000 && moves.into_inner() > 10);
}

/// The same of files that the kernel writes by itself.
#[test]
fn every_crash_leaves_what_was_promised_of_what_was_written_past_the_daemon() {
    let points = AtomicUsize::new(0);
    let wrong = in_parallel(12, |part| {
        let history = History::record(DIRECT + part, 120, |_| false);
        crashes(&history, &points)
    });
    println!("{points:?} crashes");
    assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), told(&wrong));
    assert!(points.into_inner() > 20_000);
}

/// The same of files in layers, of which what is frozen stays where it is.
#[test]
fn every_crash_leaves_what_was_promised_of_what_was_written_in_layers() {
    let (points, layered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let wrong = in_parallel(8, |part| {
        let history = History::record(LAYERED + part, 60, |_| false);
        layered.fetch_add(history.layered, Ordering::Relaxed);
        crashes(&history, &points)
    });
    println!("{points:?} crashes, {layered:?} times a file was in layers after an operation");
    assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), told(&wrong));
    assert!(points.into_inner() > 20_000 && layered.into_inner() > 1000);
}

/// A device that leaves out some syncs is a program that forgot them: the matrix must see that.
#[test]
fn a_sync_that_is_left_out_is_found() {
    type Forgotten = fn(FileId) -> bool;
    let planted: [(&str, Forgotten); 3] = [
        ("the log is marked without its packs being synced", |id| matches!(id, FileId::Pack(_))),
        ("fsync and rename leave out the object", |id| matches!(id, FileId::Object(_))),
        ("fsync and snapshots leave out the log", |id| matches!(id, FileId::Log(_))),
    ];
    for (what, deaf) in planted {
        let points = AtomicUsize::new(0);
        let found = (0..PARTS).find_map(|part| {
            let wrong = crashes(&History::record(part, OPERATIONS, deaf), &points);
            wrong.into_iter().next().map(|wrong| (part, wrong))
        });
        let (part, wrong) = found.unwrap_or_else(|| panic!("not found: {what}"));
        println!("found in part {part}, after {points:?} crashes: {what}: {}", wrong.lines().next().unwrap());
    }
}

/// What threads do at the same time, while the log is shortened and packs are emptied, cannot be compared with a model; but
/// wherever it is cut, trees hold together, and all content can be read.
#[test]
fn what_threads_do_at_once_is_sound_wherever_it_is_cut() {
    sound_wherever_it_is_cut(0);
    sound_wherever_it_is_cut(LAYERED);
}

fn sound_wherever_it_is_cut(part_of: u64) {
    let (trace, begun) = (crash_history::at_once(part_of, 3, 700), Instant::now());
    let points = AtomicUsize::new(0);
    let stride = 1 + trace.len() / 4000;
    let parts = 8;
    let wrong = in_parallel(parts, |part| {
        let (mut disk, mut wrong) = (Disk::default(), Vec::new());
        for (at, io) in trace.iter().enumerate() {
            disk.apply(io);
            // Where a checkpoint takes over, always.
            let is_chosen = at % stride == 0 || matches!(io, Io::Publish(_));
            if !is_chosen || at as u64 / stride as u64 % parts != part {
                continue;
            }
            for cut in [Cut::Kill, Cut::Synced, Cut::Some(at as u64)] {
                points.fetch_add(1, Ordering::Relaxed);
                wrong.extend(finding(&(at, io_name(io), cut), || {
                    Found::of(part_of, disk.after(cut), cut).map(drop)
                }));
            }
            if wrong.len() > 3 {
                break;
            }
        }
        wrong
    });
    println!("{points:?} crashes in {} I/Os of three threads in {:.0?}", trace.len(), begun.elapsed());
    assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), told(&wrong));
    assert!(points.into_inner() > 3000);
}

fn io_name(io: &Io) -> String {
    format!("{io:?}").chars().take(60).collect()
}

#[test]
fn every_io_that_fails_is_told_and_the_volume_goes_on() {
    let (faults, begun) = (AtomicUsize::new(0), Instant::now());
    let wrong = in_parallel(PARTS + 4, |part| {
        let history = match part.checked_sub(PARTS) {
            None => History::record(part, OPERATIONS, |_| false),
            Some(part) => History::record(LAYERED + part, 60, |_| false),
        };
        let mut wrong = Vec::new();
        history.faults(|session, at, fault| {
            faults.fetch_add(1, Ordering::Relaxed);
            wrong.extend(finding(&(part, session, at, fault), || history.fail(session, at, fault)));
            wrong.len() < 5
        });
        wrong
    });
    println!("{faults:?} failed I/Os in {:.0?}", begun.elapsed());
    assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), told(&wrong));
    assert!(faults.into_inner() > 10_000);
}
