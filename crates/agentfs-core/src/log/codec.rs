//! Records as bytes: postcard's encoding of the shapes below. They are the format on disk: a change of any is a new
//! format version. They repeat the core's types on purpose, so that these can change.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use super::codec_edit::{Adopt, NotARecord, decode_edits, encode_edits};
use super::codec_edit::{
    Adopter, Decoded, StoredEdit, StoredTime, loaded_edits, stored_edit, time, timestamp,
};
use super::codec_history::{
    StoredEvent, StoredHolder, StoredMerge, loaded_event, loaded_holder, loaded_knows, loaded_merge,
    stored_event, stored_holder, stored_knows, stored_merge,
};
use super::{Marks, NewBranch, NewSnapshot, Record, RootAttributes};
use crate::store::{Move, Place};
use crate::types::{BranchId, Epoch, ObjectId, PackId, SnapshotId, ViewId};

#[derive(Serialize, Deserialize)]
enum Stored {
    Edits(u128, Vec<StoredEdit>),
    Snapshot(Box<StoredSnapshot>),
    Branch(Box<StoredBranch>),
    SnapshotRenamed(u128, String),
    BranchRenamed(u128, String),
    SnapshotDeleted(u128),
    BranchDeleted(u128),
    Marks { inode: u64, object: u64, epoch: u64 },
    Checkpoint,
    Version(u32, Option<u32>, Vec<StoredEdit>),
    BranchIs(Box<StoredBranch>, u32),
    SnapshotIs(Box<StoredSnapshot>, u32),
    CheckpointEnd,
    EditsAfter(u128, Vec<u64>, Vec<StoredEdit>),
    Moved(Vec<StoredMove>),
    Mounted(u128),
    Ordered { at: Fixed, through: Fixed, synced: Fixed },
    Continues { piece: u64, len: u64 },
    Closed { at: Fixed },
    SnapshotKeeps(u128, Vec<u64>, Vec<StoredEdit>),
    Point(Box<StoredSnapshot>),
    PointIs(Box<StoredSnapshot>, u32),
    Knows(StoredHolder, u128, Vec<(u128, u64)>),
    Merged(Box<StoredMerge>),
    Happened(Box<StoredEvent>),
    SnapshotHidden(u128),
}

/// Eight bytes always: the record's length does not depend on where it is.
#[derive(Serialize, Deserialize)]
struct Fixed([u8; 8]);

impl Fixed {
    fn of(number: u64) -> Fixed {
        Fixed(number.to_le_bytes())
    }

    fn number(&self) -> u64 {
        u64::from_le_bytes(self.0)
    }
}

#[derive(Serialize, Deserialize)]
struct StoredMove {
    from: (u64, u32),
    to: (u64, u32),
    len: u32,
}

#[derive(Serialize, Deserialize)]
struct StoredSnapshot {
    id: u128,
    name: Option<String>,
    branch: u128,
    epoch: u64,
    created: StoredTime,
}

#[derive(Serialize, Deserialize)]
struct StoredBranch {
    id: u128,
    name: Option<String>,
    snapshot: Option<u128>,
    branch: Option<u128>,
    view: u32,
    epoch: u64,
    source_epoch: Option<u64>,
    root: Option<(u16, u32, u32)>,
    created: StoredTime,
}

/// Appends the bytes of a record to `buffer`.
pub(super) fn encode(record: &Record, buffer: Vec<u8>) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(&stored(record), buffer)
}

/// What a frame is to the log itself.
pub(super) enum Mark {
    Checkpoint,
    CheckpointEnd,
    Mounted(u128),
    Ordered { at: u64, through: u64, synced: u64 },
    Continues { piece: u64, len: u64 },
    Closed { at: u64 },
}

/// The first bytes of records that are marks. Others need not be decoded to know that they are none.
const MARKS: [u8; 6] = [8, 12, 15, 16, 17, 18];

/// Is the record one of the log's own?
pub(super) fn mark(bytes: &[u8]) -> Option<Mark> {
    if !bytes.first().is_some_and(|first| MARKS.contains(first)) {
        return None;
    }
    match postcard::from_bytes::<Stored>(bytes).ok()? {
        Stored::Checkpoint => Some(Mark::Checkpoint),
        Stored::CheckpointEnd => Some(Mark::CheckpointEnd),
        Stored::Mounted(boot) => Some(Mark::Mounted(boot)),
        Stored::Ordered { at, through, synced } => {
            Some(Mark::Ordered { at: at.number(), through: through.number(), synced: synced.number() })
        }
        Stored::Continues { piece, len } => Some(Mark::Continues { piece, len }),
        Stored::Closed { at } => Some(Mark::Closed { at: at.number() }),
        _ => None,
    }
}

/// The record that `bytes` are.
pub fn decode(bytes: &[u8], adopt: Adopter<'_>) -> Decoded<Record> {
    let (stored, rest) = postcard::take_from_bytes::<Stored>(bytes).map_err(|_| NotARecord)?;
    if rest.is_empty() { record(stored, adopt) } else { Err(NotARecord) }
}

fn stored(record: &Record) -> Stored {
    match record {
        Record::Edits(branch, edits) => Stored::Edits(branch.0, edits.iter().map(stored_edit).collect()),
        Record::SnapshotCreated(new) => Stored::Snapshot(Box::new(stored_snapshot(new))),
        Record::BranchCreated(new) => Stored::Branch(Box::new(stored_branch(new))),
        Record::SnapshotRenamed(id, name) => Stored::SnapshotRenamed(id.0, name.to_string()),
        Record::BranchRenamed(id, name) => Stored::BranchRenamed(id.0, name.to_string()),
        Record::SnapshotDeleted(id) => Stored::SnapshotDeleted(id.0),
        Record::BranchDeleted(id) => Stored::BranchDeleted(id.0),
        Record::Marks(marks) => {
            Stored::Marks { inode: marks.inode, object: marks.object, epoch: marks.epoch }
        }
        Record::Checkpoint => Stored::Checkpoint,
        Record::Version(number, base, edits) => {
            Stored::Version(*number, *base, edits.iter().map(stored_edit).collect())
        }
        Record::BranchIs(branch, version) => Stored::BranchIs(Box::new(stored_branch(branch)), *version),
        Record::SnapshotIs(new, version) => Stored::SnapshotIs(Box::new(stored_snapshot(new)), *version),
        Record::CheckpointEnd => Stored::CheckpointEnd,
        Record::EditsAfter(branch, first, edits) => {
            let first = first.iter().map(|id| id.0).collect();
            Stored::EditsAfter(branch.0, first, edits.iter().map(stored_edit).collect())
        }
        Record::SnapshotKeeps(snapshot, first, edits) => {
            let first = first.iter().map(|id| id.0).collect();
            Stored::SnapshotKeeps(snapshot.0, first, edits.iter().map(stored_edit).collect())
        }
        Record::PointCreated(new) => Stored::Point(Box::new(stored_snapshot(new))),
        Record::SnapshotHidden(id) => Stored::SnapshotHidden(id.0),
        Record::PointIs(new, version) => Stored::PointIs(Box::new(stored_snapshot(new)), *version),
        Record::Knows(holder, line, knows) => {
            Stored::Knows(stored_holder(*holder), line.0, stored_knows(knows))
        }
        Record::Merged(merge) => Stored::Merged(Box::new(stored_merge(merge))),
        Record::Happened(event) => Stored::Happened(Box::new(stored_event(event))),
        Record::Moved(moves) => Stored::Moved(moves.iter().map(stored_move).collect()),
        Record::Mounted(boot) => Stored::Mounted(*boot),
        Record::Ordered { at, through, synced } => {
            Stored::Ordered { at: Fixed::of(*at), through: Fixed::of(*through), synced: Fixed::of(*synced) }
        }
        Record::Continues { piece, len } => Stored::Continues { piece: *piece, len: *len },
        Record::Closed { at } => Stored::Closed { at: Fixed::of(*at) },
    }
}

fn record(stored: Stored, adopt: Adopter<'_>) -> Decoded<Record> {
    Ok(match stored {
        Stored::Edits(branch, edits) => Record::Edits(BranchId(branch), loaded_edits(edits, adopt)?),
        Stored::Snapshot(new) => Record::SnapshotCreated(new_snapshot(*new)?),
        Stored::Branch(new) => Record::BranchCreated(new_branch(*new)?),
        Stored::SnapshotRenamed(id, name) => Record::SnapshotRenamed(SnapshotId(id), name.into()),
        Stored::BranchRenamed(id, name) => Record::BranchRenamed(BranchId(id), name.into()),
        Stored::SnapshotDeleted(id) => Record::SnapshotDeleted(SnapshotId(id)),
        Stored::BranchDeleted(id) => Record::BranchDeleted(BranchId(id)),
        Stored::Marks { inode, object, epoch } => Record::Marks(Marks { inode, object, epoch }),
        Stored::Checkpoint => Record::Checkpoint,
        Stored::Version(number, base, edits) => Record::Version(number, base, loaded_edits(edits, adopt)?),
        Stored::BranchIs(branch, version) => Record::BranchIs(new_branch(*branch)?, version),
        Stored::SnapshotIs(new, version) => Record::SnapshotIs(new_snapshot(*new)?, version),
        Stored::CheckpointEnd => Record::CheckpointEnd,
        Stored::EditsAfter(branch, first, edits) => {
            let first = first.into_iter().map(ObjectId).collect();
            Record::EditsAfter(BranchId(branch), first, loaded_edits(edits, adopt)?)
        }
        Stored::SnapshotKeeps(snapshot, first, edits) => {
            let first = first.into_iter().map(ObjectId).collect();
            Record::SnapshotKeeps(SnapshotId(snapshot), first, loaded_edits(edits, adopt)?)
        }
        Stored::Point(new) => Record::PointCreated(new_snapshot(*new)?),
        Stored::SnapshotHidden(id) => Record::SnapshotHidden(SnapshotId(id)),
        Stored::PointIs(new, version) => Record::PointIs(new_snapshot(*new)?, version),
        Stored::Knows(holder, line, knows) => {
            Record::Knows(loaded_holder(&holder), BranchId(line), loaded_knows(knows))
        }
        Stored::Merged(merge) => Record::Merged(Box::new(loaded_merge(*merge, adopt)?)),
        Stored::Happened(event) => Record::Happened(loaded_event(*event)?),
        Stored::Moved(moves) => Record::Moved(moves.iter().map(loaded_move).collect()),
        Stored::Mounted(boot) => Record::Mounted(boot),
        Stored::Ordered { at, through, synced } => {
            Record::Ordered { at: at.number(), through: through.number(), synced: synced.number() }
        }
        Stored::Continues { piece, len } => Record::Continues { piece, len },
        Stored::Closed { at } => Record::Closed { at: at.number() },
    })
}

fn stored_move(moved: &Move) -> StoredMove {
    let stored = |(pack, offset): Place| (pack.0, offset);
    StoredMove { from: stored(moved.from), to: stored(moved.to), len: moved.len }
}

fn loaded_move(stored: &StoredMove) -> Move {
    let place = |(pack, offset): (u64, u32)| (PackId(pack), offset);
    Move { from: place(stored.from), to: place(stored.to), len: stored.len }
}

pub(super) fn owned(name: &Option<Arc<str>>) -> Option<String> {
    name.as_deref().map(str::to_owned)
}

fn stored_snapshot(new: &NewSnapshot) -> StoredSnapshot {
    StoredSnapshot {
        id: new.id.0,
        name: owned(&new.name),
        branch: new.branch.0,
        epoch: new.epoch.0,
        created: time(new.created),
    }
}

fn new_snapshot(new: StoredSnapshot) -> Decoded<NewSnapshot> {
    Ok(NewSnapshot {
        id: SnapshotId(new.id),
        name: new.name.map(Arc::from),
        branch: BranchId(new.branch),
        epoch: Epoch(new.epoch),
        created: timestamp(&new.created)?,
    })
}

fn stored_branch(new: &NewBranch) -> StoredBranch {
    StoredBranch {
        id: new.id.0,
        name: owned(&new.name),
        snapshot: new.snapshot.map(|id| id.0),
        branch: new.branch.map(|id| id.0),
        view: new.view.0,
        epoch: new.epoch.0,
        source_epoch: new.source_epoch.map(|epoch| epoch.0),
        root: new.root.map(|root| (root.mode, root.uid, root.gid)),
        created: time(new.created),
    }
}

fn new_branch(new: StoredBranch) -> Decoded<NewBranch> {
    Ok(NewBranch {
        id: BranchId(new.id),
        name: new.name.map(Arc::from),
        snapshot: new.snapshot.map(SnapshotId),
        branch: new.branch.map(BranchId),
        view: ViewId(new.view),
        epoch: Epoch(new.epoch),
        source_epoch: new.source_epoch.map(Epoch),
        root: new.root.map(|(mode, uid, gid)| RootAttributes { mode, uid, gid }),
        created: timestamp(&new.created)?,
    })
}
