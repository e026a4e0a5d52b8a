//! What records say of the lower directory.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::codec_edit::{Bytes, Decoded, StoredTime, inode_id, time, timestamp};
use crate::store::{FileStat, Identity, LowerFile};
use crate::tree::{CopySource, DirectoryCopy, LowerEntry, Origin};
use crate::types::InodeId;

#[derive(Serialize, Deserialize)]
pub(super) struct StoredOrigin {
    path: Bytes,
    identity: StoredIdentity,
    since: Option<StoredTime>,
    base: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredIdentity(u64, StoredTime);

#[derive(Serialize, Deserialize)]
pub(super) struct StoredLower {
    path: Bytes,
    identity: StoredIdentity,
    len: u64,
    blocks: u64,
    modified: StoredTime,
    changed: StoredTime,
}

#[derive(Serialize, Deserialize)]
pub(super) enum StoredLowerEntry {
    Absent,
    Directory(Option<(u64, u64)>),
    File(u64, Option<(u64, StoredTime)>),
}

pub(super) fn stored_lower_entry(entry: LowerEntry) -> StoredLowerEntry {
    let source = |copy_of: CopySource| (copy_of.ino.0, time(copy_of.changed));
    match entry {
        LowerEntry::Absent => StoredLowerEntry::Absent,
        LowerEntry::Directory { copy_of } => {
            StoredLowerEntry::Directory(copy_of.map(|copy| (copy.ino.0, copy.attributes)))
        }
        LowerEntry::File { token, copy_of } => StoredLowerEntry::File(token, copy_of.map(source)),
    }
}

pub(super) fn loaded_lower_entry(stored: &StoredLowerEntry) -> Decoded<LowerEntry> {
    let source = |(ino, changed): &(u64, StoredTime)| {
        let ino: InodeId = inode_id(*ino)?;
        Ok(CopySource { ino, changed: timestamp(changed)? })
    };
    let directory =
        |(ino, attributes): &(u64, u64)| Ok(DirectoryCopy { ino: inode_id(*ino)?, attributes: *attributes });
    Ok(match stored {
        StoredLowerEntry::Absent => LowerEntry::Absent,
        StoredLowerEntry::Directory(copy_of) => {
            LowerEntry::Directory { copy_of: copy_of.as_ref().map(directory).transpose()? }
        }
        StoredLowerEntry::File(token, copy_of) => {
            LowerEntry::File { token: *token, copy_of: copy_of.as_ref().map(source).transpose()? }
        }
    })
}

fn stored_identity(identity: Identity) -> StoredIdentity {
    StoredIdentity(identity.ino, time(identity.born))
}

fn loaded_identity(stored: &StoredIdentity) -> Decoded<Identity> {
    Ok(Identity { ino: stored.0, born: timestamp(&stored.1)? })
}

pub(super) fn stored_origin(origin: &Origin) -> StoredOrigin {
    let (path, since) = (Bytes(origin.path.to_vec()), origin.since.map(time));
    StoredOrigin { path, identity: stored_identity(origin.identity), since, base: origin.base }
}

pub(super) fn loaded_origin(stored: StoredOrigin) -> Decoded<Arc<Origin>> {
    let since = stored.since.as_ref().map(timestamp).transpose()?;
    let identity = loaded_identity(&stored.identity)?;
    Ok(Arc::new(Origin { path: stored.path.0.into(), identity, since, base: stored.base }))
}

pub(super) fn stored_lower(file: &LowerFile) -> StoredLower {
    StoredLower {
        path: Bytes(file.path.to_vec()),
        identity: stored_identity(file.identity),
        len: file.stat.len,
        blocks: file.stat.blocks,
        modified: time(file.stat.modified),
        changed: time(file.stat.changed),
    }
}

pub(super) fn loaded_lower(stored: StoredLower) -> Decoded<LowerFile> {
    let (modified, changed) = (timestamp(&stored.modified)?, timestamp(&stored.changed)?);
    let stat = FileStat { len: stored.len, blocks: stored.blocks, modified, changed };
    Ok(LowerFile { path: stored.path.0.into(), identity: loaded_identity(&stored.identity)?, stat })
}
