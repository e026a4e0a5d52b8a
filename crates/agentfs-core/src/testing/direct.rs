//! Operations on files that are read and written past the daemon.

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::op::{FileOp, KeptOp, Op, Path, Place, VolumeOp};

const FILES: u8 = 3;

fn place(chance: u32) -> Place {
    let which = (chance >> 4) as u8;
    if chance.is_multiple_of(3) { Place::Snapshot(which) } else { Place::Branch(which) }
}

/// Mostly opening, writing and freezing the same few files: what decides which of them are read and written past the
/// daemon.
pub fn direct_ops(seed: u64, length: usize) -> Vec<Op> {
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed.to_le_bytes().repeat(4));
    let path = |n: u32| Path::new(n as u8 % FILES, &[]);
    let mut ops: Vec<Op> =
        (0..FILES.into()).map(|n| Op::File(Place::Branch(0), FileOp::CreateFile(path(n), 0o644))).collect();
    ops.extend((0..FILES.into()).map(|n| {
        Op::File(Place::Branch(0), FileOp::Write { path: path(n), offset: 0, len: 9000, fill: n as u8 })
    }));
    ops.extend((0..length).map(|_| {
        let (kind, a, b) = (rng.next_u32() % 26, rng.next_u32(), rng.next_u32());
        let (slot, offset, len) = (a as u8, b % 20_000, 1 + (a >> 8) as u16 % 5000);
        match kind {
            0..=5 => Op::Kept(slot, KeptOp::Open(place(a >> 8), path(b))),
            6..=12 => Op::Kept(slot, KeptOp::Write(offset, len, (b >> 16) as u8)),
            13..=15 => Op::Kept(slot, KeptOp::Read(offset, len)),
            16 => Op::Kept(slot, KeptOp::Truncate(offset)),
            17 => Op::Kept(slot, KeptOp::Stat),
            18 => Op::Kept(slot, KeptOp::Close),
            19 => Op::Volume(VolumeOp::Snapshot(slot)),
            20 => Op::Volume(VolumeOp::Branch(place(b))),
            21 => Op::File(place(a), FileOp::Write { path: path(b), offset, len, fill: slot }),
            22 => Op::File(Place::Branch(slot), FileOp::Truncate(path(b), offset)),
            23 | 24 => Op::File(Place::Branch(slot), FileOp::Fsync(path(b))),
            _ if b.is_multiple_of(2) => Op::Volume(VolumeOp::DeleteSnapshot(slot)),
            _ => Op::File(
                Place::Branch(slot),
                FileOp::Copy {
                    from: path(a >> 8),
                    from_at: 0,
                    to: path(b >> 8),
                    to_at: offset,
                    len: len.into(),
                },
            ),
        }
    }));
    ops
}
