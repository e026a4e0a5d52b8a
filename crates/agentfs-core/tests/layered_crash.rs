//! Large files in layers, and what a crash leaves of them: what was durable stays, whatever was let go of, given back or cut
//! meanwhile.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]

mod volume;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentfs_core::testing::{Chance, CrashDevice, Cut, Disk, Io};
use agentfs_core::{Caller, FallocateFlags, FileId, FileKind, InodeId, Memory, OpenMode, ViewId};
use volume::large::{BLOCK, copy, filled, held, is_layered, open, sync_file, tend};
use volume::{Volume, name};

/// A file as it was after each write, with the I/Os until then.
type Moments = Vec<(usize, Vec<u8>)>;

/// Writes to a durable file in many places, and takes snapshots between, on a device that leaves out the syncs of these files.
fn written_without_fsync(seed: u64, deaf: fn(FileId) -> bool) -> (Vec<Io>, Moments) {
    let (mut chance, len) = (Chance(seed), 64 * BLOCK as usize);
    let device = Arc::new(CrashDevice::deaf(Memory::default(), deaf));
    let v = open(device.clone(), 1);
    v.make("main", "f", FileKind::File);
    v.write_at("main", "f", 0, &filled(1, len));
    sync_file(&v, "f");
    v.0.create_snapshot("main", None).unwrap();
    let (mut moments, mut layered) = (vec![(device.count(), filled(1, len))], 0);
    for n in 0..60_u8 {
        let mut now = moments.last().unwrap().1.clone();
        let size = 1 + chance.below(3 * BLOCK) as usize;
        let at = chance.below((now.len() - size) as u64) as usize;
        let (at, size) = if n % 2 == 0 { (at - at % BLOCK as usize, size) } else { (at, size) };
        now[at..at + size].fill(n + 2);
        v.write_at("main", "f", at as u64, &filled(n + 2, size));
        match n % 12 {
            4 => drop(v.0.create_snapshot("main", None).unwrap()),
            6 => v.0.list_snapshots(None, 10).iter().for_each(|taken| {
                v.0.delete_snapshot(&taken.id.to_string()).unwrap();
            }),
            8 => v.0.sync().unwrap(),
            10 => tend(&v),
            // What was let go of since the log was last synced is to wait.
            _ => v.0.tend().unwrap(),
        }
        moments.push((device.count(), now));
        layered += usize::from(is_layered(&v, "main", "f"));
    }
    assert!(layered > 20, "in layers after {layered} of 60 writes");
    (device.trace(), moments)
}

/// Of which bytes does a crash leave neither what they were nor what was written over them?
fn lost_bytes(seed: u64, deaf: fn(FileId) -> bool) -> (usize, usize) {
    let (trace, moments) = written_without_fsync(seed, deaf);
    let (mut disk, mut lost, mut points) = (Disk::default(), 0, 0);
    for (ios, io) in trace.iter().enumerate() {
        disk.apply(io);
        if ios < moments[0].0 || ios % 9 != 0 {
            continue;
        }
        let reached = moments.iter().position(|(end, _)| *end > ios).unwrap_or(moments.len() - 1);
        for cut in [Cut::Synced, Cut::Written, Cut::Some(ios as u64), Cut::Some(ios as u64 + 7)] {
            let v = open(Arc::new(disk.after(cut)), 2);
            let found = v.bytes("main", "f").unwrap();
            let known = |at: usize, some: &[u8]| {
                moments[..=reached].iter().any(|(_, then)| then[at..at + some.len()] == *some)
            };
            for (n, block) in found.chunks(BLOCK as usize).enumerate() {
                let at = n * BLOCK as usize;
                let bytes = if known(at, block) { &[] } else { block };
                lost += bytes.iter().enumerate().filter(|(n, byte)| !known(at + n, &[**byte])).count();
            }
            lost += usize::from(found.len() != moments[0].1.len());
            points += 1;
        }
    }
    (points, lost)
}

/// A write that was never synced may be lost; what it was to take the place of is not, nor is anything beside it.
#[test]
fn a_power_cut_leaves_each_byte_as_it_was_durable_or_as_it_was_written() {
    let all: Vec<_> = (1..4).map(|seed| lost_bytes(seed, |_| false)).collect();
    println!("{all:?} crashes, bytes lost");
    assert!(all.iter().all(|(points, lost)| *points > 200 && *lost == 0), "{all:?}");
    // What forgets to sync the blocks before the record that names them is found.
    let forgotten = |id: FileId| matches!(id, FileId::Object(_));
    assert!((1..4).any(|seed| lost_bytes(seed, forgotten).1 > 0), "a sync that is left out does not show");
}

/// The volume as it is found when the power was cut and nothing is there that was not synced, or all is.
fn after_a_power_cut(device: &CrashDevice, cut: Cut) -> Volume {
    open(Arc::new(device.disk(Disk::default()).after(cut)), 2)
}

/// A durable file in main, and a durable snapshot of it.
fn frozen(device: &Arc<CrashDevice>, blocks: u64) -> Volume {
    let v = open(device.clone(), 1);
    v.make("main", "f", FileKind::File);
    v.write_at("main", "f", 0, &filled(1, (blocks * BLOCK) as usize));
    sync_file(&v, "f");
    v.0.create_snapshot("main", Some("s")).unwrap();
    v
}

fn device() -> Arc<CrashDevice> {
    Arc::new(CrashDevice::new(Memory::default()))
}

#[test]
fn blocks_of_a_copy_that_is_deleted_stay_until_that_is_durable() {
    let device = device();
    let v = frozen(&device, 32);
    v.make("main", "g", FileKind::File);
    assert_eq!(copy(&v, ("f", BLOCK), ("g", 0), 31 * BLOCK), 31 * BLOCK);
    sync_file(&v, "g");
    v.0.delete_snapshot("s").unwrap();
    [1, 2].iter().for_each(|block| v.write_at("main", "f", block * BLOCK, &filled(2, BLOCK as usize)));
    v.0.sync().unwrap();
    v.remove("main", "g");
    v.0.tend().unwrap();
    for seed in 0..40 {
        let cut = Cut::Some(seed);
        let found = after_a_power_cut(&device, cut).bytes("main", "g");
        assert!(found.is_none_or(|found| found == filled(1, 31 * BLOCK as usize)), "{cut:?}: blocks went");
    }
    tend(&v);
    assert_eq!(v.bytes("main", "f").unwrap().len() as u64, 32 * BLOCK);
    assert_eq!(v.0.version(ViewId::MAIN).unwrap().get(v.find("main", "f").unwrap()).unwrap().objects(), 2);
}

/// The file of two branches of a snapshot is one object. While a sync of it is under way, another does not return.
#[test]
fn a_sync_returns_when_the_content_is_durable_that_another_is_about_to_make_so() {
    let device = device();
    let v = frozen(&device, 8);
    // The first is durable with the log, as it takes the place of something; the second is not.
    for fill in [3, 2] {
        v.0.sync().unwrap();
        v.write_at("main", "f", 0, &filled(fill, BLOCK as usize));
    }
    v.0.create_branch("main", Some("b")).unwrap();
    assert!(is_layered(&v, "main", "f") && is_layered(&v, "b", "f"));
    let core = Arc::new(v.0);
    let handle = |branch: &str| {
        let view = core.find_branch(branch).unwrap().view;
        let ino = core.lookup(view, InodeId::ROOT, &name("f")).unwrap().unwrap().ino;
        core.open(view, ino, OpenMode::Read, Caller::ROOT).unwrap()
    };
    let (one, other) = (handle("main"), handle("b"));
    let (other, disk) = ((Arc::downgrade(&core), other), Arc::downgrade(&device));
    let (meanwhile, syncs) = (Arc::new(Mutex::new(None)), AtomicU32::new(0));
    let found = meanwhile.clone();
    device.set_rule(move |io| {
        // The second is that of what was written.
        if matches!(io, Io::Sync(FileId::Object(_))) && syncs.fetch_add(1, Ordering::SeqCst) == 1 {
            other.0.upgrade().unwrap().fsync(other.1, true).unwrap();
            let after = after_a_power_cut(&disk.upgrade().unwrap(), Cut::Synced);
            *found.lock().unwrap() = after.bytes("b", "f");
        }
        None
    });
    core.fsync(one, true).unwrap();
    device.clear_rule();
    let found = meanwhile.lock().unwrap().take().unwrap();
    assert!(found[..BLOCK as usize] == filled(2, BLOCK as usize), "it said that it was durable");
}

/// Waits until `step` is so far.
fn wait_for(step: &AtomicU32, until: u32) {
    let begun = Instant::now();
    while step.load(Ordering::SeqCst) < until {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not come to step {until}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// While the first object of a file is being synced, more is copied to another of its objects; while that is, the other is synced,
/// and the whole sync returns.
#[test]
fn what_is_copied_while_a_file_is_synced_is_durable_before_it_is_named() {
    let device = device();
    let v = frozen(&device, 500);
    (0..520).for_each(|n| v.write_at("main", "f", 0, &filled(2 + n as u8 % 2, BLOCK as usize)));
    assert!(is_layered(&v, "main", "f"));
    let (core, step) = (Arc::new(v.0), Arc::new(AtomicU32::new(0)));
    let (weak, at) = (Arc::downgrade(&core), step.clone());
    let tender = Arc::new(Mutex::new(None));
    let (tending, disk, image) = (tender.clone(), Arc::downgrade(&device), Arc::new(Mutex::new(None)));
    let found = image.clone();
    device.set_rule(move |io| {
        match io {
            Io::Sync(FileId::Object(_))
                if at.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() =>
            {
                let core = weak.upgrade().unwrap();
                *tending.lock().unwrap() = Some(std::thread::spawn(move || core.tend().unwrap()));
                wait_for(&at, 2);
            }
            Io::Write(FileId::Object(_), offset, _) if *offset >= BLOCK => {
                if at.compare_exchange(1, 2, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                    wait_for(&at, 3);
                }
                // The first MiB is named by a record now.
                if *offset > 1 << 20 && at.compare_exchange(3, 4, Ordering::SeqCst, Ordering::SeqCst).is_ok()
                {
                    weak.upgrade().unwrap().sync().unwrap();
                    let after = after_a_power_cut(&disk.upgrade().unwrap(), Cut::Synced);
                    *found.lock().unwrap() = after.bytes("main", "f");
                }
            }
            _ => {}
        }
        None
    });
    let ino = core.lookup(ViewId::MAIN, InodeId::ROOT, &name("f")).unwrap().unwrap().ino;
    let handle = core.open(ViewId::MAIN, ino, OpenMode::Read, Caller::ROOT).unwrap();
    core.fsync(handle, true).unwrap();
    assert_eq!(step.swap(3, Ordering::SeqCst), 2, "nothing was copied meanwhile");
    tender.lock().unwrap().take().unwrap().join().unwrap();
    device.clear_rule();
    let found: Vec<u8> = image.lock().unwrap().take().unwrap();
    assert!(found[BLOCK as usize..] == filled(1, 499 * BLOCK as usize), "it was named and not durable");
}

fn allocate(v: &Volume, mode: FallocateFlags, at: u64, len: u64) {
    let handle = v.0.open(ViewId::MAIN, v.find("main", "f").unwrap(), OpenMode::Write, Caller::ROOT).unwrap();
    v.0.allocate(handle, mode, at, len, Caller::ROOT).unwrap();
    v.0.release(handle).unwrap();
}

#[test]
fn a_size_that_was_synced_stays_when_all_that_is_left_comes_to_be_in_one_object() {
    let device = device();
    let v = frozen(&device, 30);
    v.write_at("main", "f", 0, &filled(2, 10 * BLOCK as usize));
    allocate(&v, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 10 * BLOCK, 20 * BLOCK);
    sync_file(&v, "f");
    assert!(is_layered(&v, "main", "f"));
    // It stays open: after a crash it is as long as its object.
    let handle = v.0.open(ViewId::MAIN, v.find("main", "f").unwrap(), OpenMode::Write, Caller::ROOT).unwrap();
    assert_eq!(v.0.write(handle, 0, &filled(3, 100), false).unwrap(), 100);
    assert!(!is_layered(&v, "main", "f"));
    v.0.sync().unwrap();
    for seed in 0..20 {
        for cut in [Cut::Synced, Cut::Written, Cut::Some(seed)] {
            let found = after_a_power_cut(&device, cut).bytes("main", "f").unwrap();
            assert_eq!(found.len() as u64, 30 * BLOCK, "{cut:?}");
            assert!(found[BLOCK as usize..10 * BLOCK as usize] == filled(2, 9 * BLOCK as usize));
            assert!(found[10 * BLOCK as usize..].iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn what_was_punched_out_and_synced_does_not_come_back_where_room_is_reserved_then() {
    let device = device();
    let v = frozen(&device, 30);
    v.write_at("main", "f", 0, &filled(2, 10 * BLOCK as usize));
    sync_file(&v, "f");
    allocate(&v, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, BLOCK, 9 * BLOCK);
    allocate(&v, FallocateFlags::empty(), 0, 10 * BLOCK);
    sync_file(&v, "f");
    assert!(is_layered(&v, "main", "f"));
    for seed in 0..20 {
        for cut in [Cut::Synced, Cut::Written, Cut::Some(seed)] {
            let found = after_a_power_cut(&device, cut).bytes("main", "f").unwrap();
            let cleared = &found[BLOCK as usize..10 * BLOCK as usize];
            assert!(cleared.iter().all(|byte| *byte == 0), "{cut:?}: it came back");
        }
    }
}

#[test]
fn writing_nothing_changes_nothing() {
    let device = device();
    let v = frozen(&device, 8);
    for round in 0..2 {
        let handle =
            v.0.open(ViewId::MAIN, v.find("main", "f").unwrap(), OpenMode::Write, Caller::ROOT).unwrap();
        for at in [0, BLOCK, 3 * BLOCK, 8 * BLOCK, 100 * BLOCK] {
            assert_eq!(v.0.write(handle, at, &[], false).unwrap(), 0);
        }
        v.0.release(handle).unwrap();
        assert!(v.bytes("main", "f").unwrap()[BLOCK as usize..] == filled(1, 7 * BLOCK as usize));
        assert_eq!(is_layered(&v, "main", "f"), round == 1);
        v.write_at("main", "f", 0, &filled(1, 10));
    }
    v.0.checkpoint().unwrap();
    drop(v);
    assert!(open(device, 1).bytes("main", "f").unwrap() == filled(1, 8 * BLOCK as usize));
}

/// The daemon is killed when blocks were let go of, and before they were given back; then the log is shortened.
#[test]
fn blocks_that_were_let_go_of_before_a_kill_are_given_back_after_it() {
    let device = Arc::new(Memory::default());
    let v = open(device.clone(), 1);
    v.make("main", "f", FileKind::File);
    v.write_at("main", "f", 0, &filled(1, 100 * BLOCK as usize));
    v.0.create_snapshot("main", Some("s")).unwrap();
    v.write_at("main", "f", 0, &filled(2, BLOCK as usize));
    v.0.delete_snapshot("s").unwrap();
    (0..40).for_each(|at| v.write_at("main", "f", at * BLOCK, &filled(2, BLOCK as usize)));
    drop(v);
    let v = open(device.clone(), 1);
    v.0.checkpoint().unwrap();
    drop(v);
    let v = open(device.clone(), 1);
    tend(&v);
    assert_eq!(held(&*device), 100 * BLOCK);
    assert!(v.bytes("main", "f").unwrap()[40 * BLOCK as usize..] == filled(1, 60 * BLOCK as usize));
}
