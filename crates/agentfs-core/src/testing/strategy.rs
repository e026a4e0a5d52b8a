//! Random operations. Weights are chosen so that more than a third succeed on a volume that is in use.
//! Strategies are boxed: nested by value they outgrow the stack of a test's thread.

use proptest::collection::vec;
use proptest::prelude::*;

use super::op::{FileOp, KeptOp, Op, Path, Place, VolumeOp};
use crate::{RenameMode, XattrMode};

/// Exactly `n` operations; the first eighth make files.
pub fn ops(n: usize) -> impl Strategy<Value = Vec<Op>> {
    let first = making_op().prop_map(|op| Op::File(Place::Branch(0), op));
    (vec(first, n / 8), vec(op(), n - n / 8)).prop_map(|(first, rest)| [first, rest].concat())
}

/// One operation.
pub fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        70 => (branch(), file_op()).prop_map(|(branch, op)| Op::File(Place::Branch(branch), op)),
        4 => (any::<u8>(), snapshot_op()).prop_map(|(snapshot, op)| Op::File(Place::Snapshot(snapshot), op)),
        18 => (slot(), kept_op()).prop_map(|(slot, op)| Op::Kept(slot, op)),
        8 => volume_op().prop_map(Op::Volume),
    ]
}

/// Exactly `n` operations that work in branches and leave branches and snapshots as they are.
pub fn file_ops(n: usize) -> impl Strategy<Value = Vec<Op>> {
    let by_path = (branch(), file_op()).prop_map(|(branch, op)| Op::File(Place::Branch(branch), op));
    vec(by_path, n)
}

/// Mostly one of the first branches: operations that meet tell more than such that do not.
fn branch() -> BoxedStrategy<u8> {
    prop_oneof![5 => Just(0), 2 => Just(1), 1 => any::<u8>()].boxed()
}

fn slot() -> BoxedStrategy<u8> {
    prop_oneof![3 => Just(0), 2 => Just(1), 1 => any::<u8>()].boxed()
}

fn name() -> BoxedStrategy<u8> {
    prop_oneof![3 => Just(0), 2 => Just(1), 3 => Just(2), 2 => Just(3), 1 => 4..7u8].boxed()
}

fn path() -> BoxedStrategy<Path> {
    prop_oneof![1 => any_path(), 1 => dir_path(), 2 => file_path()].boxed()
}

fn any_path() -> BoxedStrategy<Path> {
    path_of(name(), name())
}

/// A path that leads to a directory more often than not: `a` and `b` are liked for directories.
fn dir_path() -> BoxedStrategy<Path> {
    prop_oneof![3 => path_of(0..1u8, 0..2u8), 2 => path_of(0..2u8, 0..2u8), 1 => any_path()].boxed()
}

/// A path that leads to a file more often than not: other names are liked for files.
fn file_path() -> BoxedStrategy<Path> {
    prop_oneof![8 => path_of(0..1u8, 2..4u8), 2 => path_of(0..2u8, 2..7u8), 1 => any_path()].boxed()
}

/// A path for what is neither, mostly where it is in nobody's way.
fn other_path() -> BoxedStrategy<Path> {
    prop_oneof![3 => path_of(0..1u8, 4..7u8), 1 => any_path()].boxed()
}

fn path_of(
    above: impl Strategy<Value = u8> + Clone + 'static,
    last: impl Strategy<Value = u8> + 'static,
) -> BoxedStrategy<Path> {
    let above = prop_oneof![5 => vec(above.clone(), 0), 3 => vec(above.clone(), 1), 1 => vec(above, 2)];
    (last, above).prop_map(|(last, above)| Path::new(last, &above)).boxed()
}

/// Mostly within some pages, at times far out, at times on page boundaries.
fn offset() -> BoxedStrategy<u32> {
    prop_oneof![4 => 0..10_000u32, 2 => (0..12u32).prop_map(|page| page * 4096), 1 => 0..200_000u32].boxed()
}

fn length() -> BoxedStrategy<u16> {
    prop_oneof![4 => 1..600u16, 1 => 1..9_000u16].boxed()
}

fn mode() -> BoxedStrategy<u16> {
    prop_oneof![Just(0o644), Just(0o600), Just(0o755), Just(0o777), Just(0)].boxed()
}

fn mode_with_special_bits() -> BoxedStrategy<u16> {
    prop_oneof![3 => mode(), 1 => Just(0o4755), 2 => Just(0o2755), 1 => Just(0o2644), 1 => Just(0o1777)]
        .boxed()
}

fn file_op() -> BoxedStrategy<FileOp> {
    prop_oneof![28 => naming_op(), 25 => content_op(), 12 => attribute_op()].boxed()
}

fn making_op() -> BoxedStrategy<FileOp> {
    prop_oneof![
        6 => (file_path(), mode()).prop_map(|(path, mode)| FileOp::CreateFile(path, mode)),
        5 => (dir_path(), mode()).prop_map(|(path, mode)| FileOp::Mkdir(path, mode)),
        1 => (other_path(), mode()).prop_map(|(path, mode)| FileOp::Mkfifo(path, mode)),
        2 => (other_path(), any::<u8>()).prop_map(|(path, target)| FileOp::Symlink(path, target)),
        4 => (file_path(), path()).prop_map(|(from, to)| FileOp::Link(from, to)),
    ]
    .boxed()
}

fn naming_op() -> BoxedStrategy<FileOp> {
    use RenameMode::{Exchange, NoReplace, Replace};
    let rename_mode = prop_oneof![4 => Just(Replace), 1 => Just(NoReplace), 2 => Just(Exchange)];
    prop_oneof![
        17 => making_op(),
        2 => path().prop_map(FileOp::Unlink),
        2 => dir_path().prop_map(FileOp::Rmdir),
        7 => (path(), path(), rename_mode).prop_map(|(from, to, mode)| FileOp::Rename(from, to, mode)),
    ]
    .boxed()
}

fn content_op() -> BoxedStrategy<FileOp> {
    let size = prop_oneof![Just(0), offset()];
    prop_oneof![
        8 => write_op(),
        3 => copy_op(),
        3 => read_op(),
        1 => file_path().prop_map(FileOp::Fsync),
        4 => (file_path(), size).prop_map(|(path, size)| FileOp::Truncate(path, size)),
        3 => (file_path(), 0..5_000u16, any::<u8>())
            .prop_map(|(path, len, fill)| FileOp::OpenTruncate(path, len, fill)),
        2 => (file_path(), offset(), 1..30_000u32).prop_map(|(path, at, len)| FileOp::Punch(path, at, len)),
        2 => (file_path(), offset(), 1..30_000u32, any::<bool>())
            .prop_map(|(path, offset, len, keep_size)| FileOp::Allocate { path, offset, len, keep_size }),
    ]
    .boxed()
}

fn write_op() -> BoxedStrategy<FileOp> {
    (file_path(), offset(), length(), any::<u8>())
        .prop_map(|(path, offset, len, fill)| FileOp::Write { path, offset, len, fill })
        .boxed()
}

fn copy_op() -> BoxedStrategy<FileOp> {
    let range = prop_oneof![
        3 => Just((0, 0, u32::MAX)),
        2 => (offset(), offset(), 0..60_000u32),
    ];
    (file_path(), file_path(), range)
        .prop_map(|(from, to, (from_at, to_at, len))| FileOp::Copy { from, from_at, to, to_at, len })
        .boxed()
}

fn read_op() -> BoxedStrategy<FileOp> {
    (file_path(), offset(), length())
        .prop_map(|(path, offset, len)| FileOp::Read { path, offset, len })
        .boxed()
}

fn attribute_op() -> BoxedStrategy<FileOp> {
    use XattrMode::{Any, Create, Replace};
    let xattr_mode = prop_oneof![3 => Just(Any), 1 => Just(Create), 1 => Just(Replace)];
    let value_len = prop_oneof![4 => 0..20u16, 1 => 0..5_000u16];
    let set_xattr = (path(), any::<u8>(), value_len, any::<u8>(), xattr_mode)
        .prop_map(|(path, name, len, fill, mode)| FileOp::SetXattr { path, name, len, fill, mode });
    prop_oneof![
        3 => (path(), mode_with_special_bits()).prop_map(|(path, mode)| FileOp::Chmod(path, mode)),
        2 => (path(), 0..2_000_000_000i64, 0..1_000_000_000u32)
            .prop_map(|(path, secs, nanos)| FileOp::SetTimes(path, secs, nanos)),
        4 => set_xattr,
        2 => (path(), any::<u8>()).prop_map(|(path, name)| FileOp::RemoveXattr(path, name)),
        1 => path().prop_map(FileOp::Readlink),
        1 => path().prop_map(FileOp::Stat),
    ]
    .boxed()
}

fn snapshot_op() -> BoxedStrategy<FileOp> {
    prop_oneof![
        3 => read_op(),
        1 => write_op(),
        1 => (path(), mode()).prop_map(|(path, mode)| FileOp::Chmod(path, mode)),
        1 => path().prop_map(FileOp::Stat),
        1 => path().prop_map(FileOp::Readlink),
    ]
    .boxed()
}

fn kept_op() -> BoxedStrategy<KeptOp> {
    let place =
        prop_oneof![5 => branch().prop_map(Place::Branch), 1 => any::<u8>().prop_map(Place::Snapshot)];
    prop_oneof![
        7 => (place, file_path()).prop_map(|(place, path)| KeptOp::Open(place, path)),
        4 => (offset(), length(), any::<u8>()).prop_map(|(at, len, fill)| KeptOp::Write(at, len, fill)),
        3 => (offset(), length()).prop_map(|(at, len)| KeptOp::Read(at, len)),
        1 => prop_oneof![Just(0), offset()].prop_map(KeptOp::Truncate),
        1 => Just(KeptOp::Stat),
        1 => Just(KeptOp::Close),
    ]
    .boxed()
}

fn volume_op() -> BoxedStrategy<VolumeOp> {
    prop_oneof![
        6 => branch().prop_map(VolumeOp::Snapshot),
        2 => branch().prop_map(|branch| VolumeOp::Branch(Place::Branch(branch))),
        3 => any::<u8>().prop_map(|snapshot| VolumeOp::Branch(Place::Snapshot(snapshot))),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(branch, force)| VolumeOp::DeleteBranch(branch, force)),
        4 => any::<u8>().prop_map(VolumeOp::DeleteSnapshot),
    ]
    .boxed()
}
