//! Random operations. Weights are chosen so that about half of them succeed on a volume that is in use.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::Union;

use super::op::{FileOp, KeptOp, Op, Path, Place, VolumeOp};
use crate::{RenameMode, XattrMode};

/// Exactly `n` operations.
pub fn ops(n: usize) -> impl Strategy<Value = Vec<Op>> {
    vec(op(), n)
}

/// One operation.
pub fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        70 => (any::<u8>(), file_op()).prop_map(|(branch, op)| Op::File(Place::Branch(branch), op)),
        4 => (any::<u8>(), snapshot_op()).prop_map(|(snapshot, op)| Op::File(Place::Snapshot(snapshot), op)),
        18 => (any::<u8>(), kept_op()).prop_map(|(slot, op)| Op::Kept(slot, op)),
        8 => volume_op().prop_map(Op::Volume),
    ]
}

/// Exactly `n` operations that work in branches and leave branches and snapshots as they are.
pub fn file_ops(n: usize) -> impl Strategy<Value = Vec<Op>> {
    let by_path = (any::<u8>(), file_op()).prop_map(|(branch, op)| Op::File(Place::Branch(branch), op));
    vec(by_path, n)
}

fn name() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0), 4 => Just(1), 3 => Just(2), 2 => Just(3), 1 => 4..7u8]
}

fn path() -> impl Strategy<Value = Path> {
    let above = prop_oneof![3 => vec(name(), 0), 3 => vec(name(), 1), 1 => vec(name(), 2)];
    (name(), above).prop_map(|(last, above)| Path::new(last, &above))
}

/// Mostly within some pages, at times far out, at times on page boundaries.
fn offset() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..10_000u32, 2 => (0..12u32).prop_map(|page| page * 4096), 1 => 0..200_000u32]
}

fn length() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 1..600u16, 1 => 1..9_000u16]
}

fn mode() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0o644), Just(0o600), Just(0o755), Just(0o777), Just(0)]
}

fn mode_with_special_bits() -> impl Strategy<Value = u16> {
    prop_oneof![3 => mode(), 1 => Just(0o4755), 2 => Just(0o2755), 1 => Just(0o2644), 1 => Just(0o1777)]
}

fn file_op() -> impl Strategy<Value = FileOp> {
    prop_oneof![28 => naming_op(), 22 => content_op(), 13 => attribute_op()]
}

fn naming_op() -> impl Strategy<Value = FileOp> {
    use RenameMode::{Exchange, NoReplace, Replace};
    let rename_mode = prop_oneof![4 => Just(Replace), 1 => Just(NoReplace), 2 => Just(Exchange)];
    prop_oneof![
        6 => (path(), mode()).prop_map(|(path, mode)| FileOp::CreateFile(path, mode)),
        6 => (path(), mode()).prop_map(|(path, mode)| FileOp::Mkdir(path, mode)),
        1 => (path(), mode()).prop_map(|(path, mode)| FileOp::Mkfifo(path, mode)),
        2 => (path(), any::<u8>()).prop_map(|(path, target)| FileOp::Symlink(path, target)),
        3 => (path(), path()).prop_map(|(from, to)| FileOp::Link(from, to)),
        3 => path().prop_map(FileOp::Unlink),
        2 => path().prop_map(FileOp::Rmdir),
        7 => (path(), path(), rename_mode).prop_map(|(from, to, mode)| FileOp::Rename(from, to, mode)),
    ]
}

fn content_op() -> impl Strategy<Value = FileOp> {
    prop_oneof![
        8 => write_op(),
        3 => read_op(),
        4 => (path(), prop_oneof![Just(0), offset()]).prop_map(|(path, size)| FileOp::Truncate(path, size)),
        3 => (path(), 0..5_000u16, any::<u8>()).prop_map(|(path, len, fill)| FileOp::OpenTruncate(path, len, fill)),
        2 => (path(), offset(), 1..30_000u32).prop_map(|(path, at, len)| FileOp::Punch(path, at, len)),
        2 => (path(), offset(), 1..30_000u32, any::<bool>())
            .prop_map(|(path, offset, len, keep_size)| FileOp::Allocate { path, offset, len, keep_size }),
    ]
}

fn write_op() -> impl Strategy<Value = FileOp> {
    (path(), offset(), length(), any::<u8>())
        .prop_map(|(path, offset, len, fill)| FileOp::Write { path, offset, len, fill })
}

fn read_op() -> impl Strategy<Value = FileOp> {
    (path(), offset(), length()).prop_map(|(path, offset, len)| FileOp::Read { path, offset, len })
}

fn attribute_op() -> impl Strategy<Value = FileOp> {
    use XattrMode::{Any, Create, Replace};
    let xattr_mode = prop_oneof![2 => Just(Any), 1 => Just(Create), 1 => Just(Replace)];
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
}

fn snapshot_op() -> impl Strategy<Value = FileOp> {
    prop_oneof![
        3 => read_op(),
        1 => write_op(),
        1 => (path(), mode()).prop_map(|(path, mode)| FileOp::Chmod(path, mode)),
        1 => path().prop_map(FileOp::Stat),
        1 => path().prop_map(FileOp::Readlink),
    ]
}

fn kept_op() -> impl Strategy<Value = KeptOp> {
    let place = prop_oneof![5 => any::<u8>().prop_map(Place::Branch), 1 => any::<u8>().prop_map(Place::Snapshot)];
    prop_oneof![
        5 => (place, path()).prop_map(|(place, path)| KeptOp::Open(place, path)),
        4 => (offset(), length(), any::<u8>()).prop_map(|(at, len, fill)| KeptOp::Write(at, len, fill)),
        3 => (offset(), length()).prop_map(|(at, len)| KeptOp::Read(at, len)),
        1 => prop_oneof![Just(0), offset()].prop_map(KeptOp::Truncate),
        1 => Just(KeptOp::Stat),
        1 => Just(KeptOp::Close),
    ]
}

fn volume_op() -> impl Strategy<Value = VolumeOp> {
    Union::new_weighted(vec![
        (6, any::<u8>().prop_map(VolumeOp::Snapshot).boxed()),
        (2, any::<u8>().prop_map(|branch| VolumeOp::Branch(Place::Branch(branch))).boxed()),
        (3, any::<u8>().prop_map(|snapshot| VolumeOp::Branch(Place::Snapshot(snapshot))).boxed()),
        (2, (any::<u8>(), any::<bool>()).prop_map(|(branch, force)| VolumeOp::DeleteBranch(branch, force)).boxed()),
        (4, any::<u8>().prop_map(VolumeOp::DeleteSnapshot).boxed()),
    ])
}
