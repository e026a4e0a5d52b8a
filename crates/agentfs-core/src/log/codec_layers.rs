//! Pieces of content in layers, as bytes.

use serde::{Deserialize, Serialize};

use super::codec_edit::{Adopter, Decoded, NotARecord};
use crate::store::{Change, Claim, Layers};
use crate::types::{Epoch, ObjectId};

/// A stretch of a file and, unless it is a hole, where it lies.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredChange {
    start: u64,
    len: u64,
    piece: Option<StoredPiece>,
}

#[derive(Serialize, Deserialize)]
struct StoredPiece {
    object: u64,
    epoch: u64,
    at: u64,
}

/// No file, and no object, has more bytes.
const MOST: u64 = i64::MAX as u64;

fn stored_piece(claim: &Claim) -> StoredPiece {
    let backing = claim.backing();
    StoredPiece { object: backing.id.0, epoch: backing.epoch().0, at: claim.at() }
}

pub(super) fn stored_change(change: &Change) -> StoredChange {
    StoredChange { start: change.start, len: change.len, piece: change.claim.as_deref().map(stored_piece) }
}

pub(super) fn stored_pieces(layers: &Layers) -> Vec<StoredChange> {
    layers.pieces().map(|(start, claim)| stored_change(&Change::piece(start, claim.clone()))).collect()
}

pub(super) fn loaded_changes(stored: Vec<StoredChange>, adopt: Adopter<'_>) -> Decoded<Vec<Change>> {
    stored.into_iter().map(|change| loaded_change(&change, adopt)).collect()
}

fn loaded_change(stored: &StoredChange, adopt: Adopter<'_>) -> Decoded<Change> {
    let is_stretch =
        |from: u64| stored.len > 0 && from.checked_add(stored.len).is_some_and(|end| end <= MOST);
    let at = stored.piece.as_ref().map_or(0, |piece| piece.at);
    if !is_stretch(stored.start) || !is_stretch(at) {
        return Err(NotARecord);
    }
    let claim = stored.piece.as_ref().map(|piece| {
        let backing = adopt.backing(ObjectId(piece.object), Epoch(piece.epoch))?;
        Ok(Claim::new(backing, piece.at, stored.len))
    });
    Ok(Change { start: stored.start, len: stored.len, claim: claim.transpose()? })
}
