//! What records say of the lower directory.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::codec_edit::{Bytes, Decoded, StoredTime, time, timestamp};
use crate::store::{FileStat, Identity, LowerFile};
use crate::tree::Origin;

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
