//! What records say of where branches came from, and of what was done to them.

use serde::{Deserialize, Serialize};

use super::Merge;
use super::codec::owned;
use super::codec_edit::{
    Adopter, Decoded, StoredEdit, StoredTime, loaded_edits, stored_edit, time, timestamp,
};
use crate::types::{BranchId, Deed, Epoch, Event, Holder, Knows, ObjectId, SnapshotId};

#[derive(Serialize, Deserialize)]
pub(super) enum StoredHolder {
    Branch(u128),
    Snapshot(u128),
}

#[derive(Serialize, Deserialize)]
enum StoredDeed {
    Merged,
    Restored,
    Deleted,
    Undone,
    Imported,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredEvent {
    deed: StoredDeed,
    when: StoredTime,
    branch: u128,
    name: Option<String>,
    source: u128,
    source_name: Option<String>,
    kept: Option<u128>,
    is_undone: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredMerge {
    branch: u128,
    line: u128,
    knows: Vec<(u128, u64)>,
    event: StoredEvent,
    first: Vec<u64>,
    edits: Vec<StoredEdit>,
}

pub(super) fn stored_holder(holder: Holder) -> StoredHolder {
    match holder {
        Holder::Branch(id) => StoredHolder::Branch(id.0),
        Holder::Snapshot(id) => StoredHolder::Snapshot(id.0),
    }
}

pub(super) fn loaded_holder(stored: &StoredHolder) -> Holder {
    match stored {
        StoredHolder::Branch(id) => Holder::Branch(BranchId(*id)),
        StoredHolder::Snapshot(id) => Holder::Snapshot(SnapshotId(*id)),
    }
}

pub(super) fn stored_knows(knows: &Knows) -> Vec<(u128, u64)> {
    knows.iter().map(|(branch, epoch)| (branch.0, epoch.0)).collect()
}

pub(super) fn loaded_knows(stored: Vec<(u128, u64)>) -> Knows {
    stored.into_iter().map(|(branch, epoch)| (BranchId(branch), Epoch(epoch))).collect()
}

pub(super) fn stored_event(event: &Event) -> StoredEvent {
    let deed = match event.deed {
        Deed::Merged => StoredDeed::Merged,
        Deed::Restored => StoredDeed::Restored,
        Deed::Deleted => StoredDeed::Deleted,
        Deed::Undone => StoredDeed::Undone,
        Deed::Imported => StoredDeed::Imported,
    };
    StoredEvent {
        deed,
        when: time(event.when),
        branch: event.branch.0,
        name: owned(&event.name),
        source: event.source,
        source_name: owned(&event.source_name),
        kept: event.kept.map(|id| id.0),
        is_undone: event.is_undone,
    }
}

pub(super) fn loaded_event(stored: StoredEvent) -> Decoded<Event> {
    let deed = match stored.deed {
        StoredDeed::Merged => Deed::Merged,
        StoredDeed::Restored => Deed::Restored,
        StoredDeed::Deleted => Deed::Deleted,
        StoredDeed::Undone => Deed::Undone,
        StoredDeed::Imported => Deed::Imported,
    };
    Ok(Event {
        deed,
        when: timestamp(&stored.when)?,
        branch: BranchId(stored.branch),
        name: stored.name.map(Into::into),
        source: stored.source,
        source_name: stored.source_name.map(Into::into),
        kept: stored.kept.map(SnapshotId),
        is_undone: stored.is_undone,
    })
}

pub(super) fn stored_merge(merge: &Merge) -> StoredMerge {
    StoredMerge {
        branch: merge.branch.0,
        line: merge.line.0,
        knows: stored_knows(&merge.knows),
        event: stored_event(&merge.event),
        first: merge.first.iter().map(|id| id.0).collect(),
        edits: merge.edits.iter().map(stored_edit).collect(),
    }
}

pub(super) fn loaded_merge(stored: StoredMerge, adopt: Adopter<'_>) -> Decoded<Merge> {
    Ok(Merge {
        branch: BranchId(stored.branch),
        line: BranchId(stored.line),
        knows: loaded_knows(stored.knows),
        event: loaded_event(stored.event)?,
        first: stored.first.into_iter().map(ObjectId).collect(),
        edits: loaded_edits(stored.edits, adopt)?,
    })
}
