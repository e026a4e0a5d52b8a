//! Records as bytes: postcard's encoding of the shapes below. They are the format on disk: a change of any is a new
//! format version. They repeat the core's types on purpose, so that these can change.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::codec_lower::{
    StoredLower, StoredOrigin, loaded_lower, loaded_origin, stored_lower, stored_origin,
};
use super::{Marks, NewBranch, NewSnapshot, Record, RootAttributes};
use crate::store::{Content, Extent, Move, Object, Place};
use crate::tree::{Body, Directory, Edit, Entry, Homes, Inode, Meta, Times, Xattrs};
use crate::types::{
    BranchId, Epoch, FileKind, InodeId, Name, ObjectId, PackId, SnapshotId, Timestamp, ViewId,
};

/// Finds or makes what content is made of, one of a kind for each number or place.
pub trait Adopt {
    /// The object.
    fn object(&mut self, id: ObjectId, epoch: Epoch) -> Arc<Object>;
    /// The extent at a place, with its length and checksum.
    fn extent(&mut self, place: Place, len: u32, crc: u32) -> Arc<Extent>;
}

type Adopter<'a> = &'a mut dyn Adopt;

/// A record that no such thing can be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no record")]
pub struct NotARecord;

pub(super) type Decoded<T> = Result<T, NotARecord>;

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

#[derive(Serialize, Deserialize)]
pub(super) struct StoredTime(i64, u32);

#[derive(Serialize, Deserialize)]
pub(super) struct Bytes(#[serde(with = "serde_bytes")] pub(super) Vec<u8>);

#[derive(Serialize, Deserialize)]
enum StoredEdit {
    Put(u64, StoredMeta, StoredBody, Vec<(Bytes, Bytes)>),
    Meta(u64, StoredMeta),
    Content(u64, StoredContent),
    Xattrs(u64, Vec<(Bytes, Bytes)>),
    Parent(u64, u64),
    Link(u64, Bytes, u64, u8),
    Unlink(u64, Bytes),
    Drop(u64),
    Dirty(u64),
    Clean(u64),
    PutLower(u64, StoredMeta, StoredBody, Vec<(Bytes, Bytes)>, StoredOrigin),
    Origin(u64, Option<StoredOrigin>),
}

#[derive(Serialize, Deserialize)]
struct StoredMeta {
    mode: u16,
    uid: u32,
    gid: u32,
    nlink: u32,
    times: [StoredTime; 3],
    size: u64,
    blocks: u64,
}

#[derive(Serialize, Deserialize)]
enum StoredBody {
    File(StoredContent),
    Directory(u64),
    Symlink(Bytes),
    Special(u8, u32),
}

#[derive(Serialize, Deserialize)]
enum StoredContent {
    Hole,
    Whole { object: u64, epoch: u64 },
    Packed { pack: u64, offset: u32, len: u32, crc: u32 },
    Lower(Box<StoredLower>),
}

/// The codes of kinds, by place.
const KINDS: [FileKind; 7] = [
    FileKind::File,
    FileKind::Directory,
    FileKind::Symlink,
    FileKind::Fifo,
    FileKind::CharDevice,
    FileKind::BlockDevice,
    FileKind::Socket,
];

/// The code of no kind: the name is hidden.
const WHITEOUT: u8 = 7;

fn code(kind: FileKind) -> u8 {
    KINDS.iter().position(|known| *known == kind).unwrap_or_default() as u8
}

fn kind(code: u8) -> Decoded<FileKind> {
    KINDS.get(usize::from(code)).copied().ok_or(NotARecord)
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

fn loaded_edits(edits: Vec<StoredEdit>, adopt: Adopter<'_>) -> Decoded<Vec<Edit>> {
    edits.into_iter().map(|stored| edit(stored, adopt)).collect()
}

fn owned(name: &Option<Arc<str>>) -> Option<String> {
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

fn stored_edit(edit: &Edit) -> StoredEdit {
    match edit {
        Edit::Put(ino, inode) => {
            let (meta, body, xattrs) =
                (meta(&inode.meta), body(&inode.body), xattrs(inode.xattrs.as_deref()));
            match &inode.lower {
                None => StoredEdit::Put(ino.0, meta, body, xattrs),
                Some(lower) => StoredEdit::PutLower(ino.0, meta, body, xattrs, stored_origin(lower)),
            }
        }
        Edit::Origin(ino, lower) => StoredEdit::Origin(ino.0, lower.as_deref().map(stored_origin)),
        Edit::Meta(ino, new) => StoredEdit::Meta(ino.0, meta(new)),
        Edit::Content(ino, new) => StoredEdit::Content(ino.0, content(new)),
        Edit::Xattrs(ino, new) => StoredEdit::Xattrs(ino.0, xattrs(new.as_deref())),
        Edit::Parent(ino, parent) => StoredEdit::Parent(ino.0, parent.0),
        Edit::Link(dir, name, entry) => {
            let code = if entry.is_whiteout() { WHITEOUT } else { code(entry.kind()) };
            StoredEdit::Link(dir.0, Bytes(name.as_bytes().to_vec()), entry.ino().0, code)
        }
        Edit::Unlink(dir, name) => StoredEdit::Unlink(dir.0, Bytes(name.as_bytes().to_vec())),
        Edit::Drop(ino) => StoredEdit::Drop(ino.0),
        Edit::Dirty(ino) => StoredEdit::Dirty(ino.0),
        Edit::Clean(ino) => StoredEdit::Clean(ino.0),
    }
}

fn edit(stored: StoredEdit, adopt: Adopter<'_>) -> Decoded<Edit> {
    let name = |bytes: &Bytes| Name::new(&bytes.0).map_err(|_| NotARecord);
    Ok(match stored {
        StoredEdit::Put(ino, meta, body, xattrs) => {
            let (meta, body, xattrs) =
                (loaded_meta(&meta)?, loaded_body(body, adopt)?, loaded_xattrs(xattrs));
            Edit::Put(
                inode_id(ino)?,
                Arc::new(Inode { meta, body, xattrs, lower: None, homes: Homes::default() }),
            )
        }
        StoredEdit::PutLower(ino, meta, body, xattrs, lower) => {
            let (meta, body, xattrs) =
                (loaded_meta(&meta)?, loaded_body(body, adopt)?, loaded_xattrs(xattrs));
            let lower = Some(loaded_origin(lower)?);
            Edit::Put(inode_id(ino)?, Arc::new(Inode { meta, body, xattrs, lower, homes: Homes::default() }))
        }
        StoredEdit::Origin(ino, lower) => Edit::Origin(inode_id(ino)?, lower.map(loaded_origin).transpose()?),
        StoredEdit::Meta(ino, meta) => Edit::Meta(inode_id(ino)?, loaded_meta(&meta)?),
        StoredEdit::Content(ino, content) => Edit::Content(inode_id(ino)?, loaded_content(content, adopt)?),
        StoredEdit::Xattrs(ino, xattrs) => Edit::Xattrs(inode_id(ino)?, loaded_xattrs(xattrs)),
        StoredEdit::Parent(ino, parent) => Edit::Parent(inode_id(ino)?, inode_id(parent)?),
        StoredEdit::Link(dir, bytes, stamp, WHITEOUT) => {
            Edit::Link(inode_id(dir)?, name(&bytes)?, Entry::whiteout(stamp))
        }
        StoredEdit::Link(dir, bytes, ino, code) => {
            Edit::Link(inode_id(dir)?, name(&bytes)?, Entry::new(inode_id(ino)?, kind(code)?))
        }
        StoredEdit::Unlink(dir, bytes) => Edit::Unlink(inode_id(dir)?, name(&bytes)?),
        StoredEdit::Drop(ino) => Edit::Drop(inode_id(ino)?),
        StoredEdit::Dirty(ino) => Edit::Dirty(inode_id(ino)?),
        StoredEdit::Clean(ino) => Edit::Clean(inode_id(ino)?),
    })
}

fn inode_id(number: u64) -> Decoded<InodeId> {
    if number < InodeId::LIMIT { Ok(InodeId(number)) } else { Err(NotARecord) }
}

pub(super) fn time(time: Timestamp) -> StoredTime {
    StoredTime(time.secs, time.nanos)
}

pub(super) fn timestamp(time: &StoredTime) -> Decoded<Timestamp> {
    if time.1 < 1_000_000_000 { Ok(Timestamp { secs: time.0, nanos: time.1 }) } else { Err(NotARecord) }
}

fn meta(meta: &Meta) -> StoredMeta {
    let times = [meta.times.atime, meta.times.mtime, meta.times.ctime].map(time);
    let Meta { mode, uid, gid, nlink, size, blocks, .. } = *meta;
    StoredMeta { mode, uid, gid, nlink, times, size, blocks }
}

fn loaded_meta(stored: &StoredMeta) -> Decoded<Meta> {
    let [atime, mtime, ctime] = &stored.times;
    let times = Times { atime: timestamp(atime)?, mtime: timestamp(mtime)?, ctime: timestamp(ctime)? };
    let StoredMeta { mode, uid, gid, nlink, size, blocks, .. } = *stored;
    Ok(Meta { mode, uid, gid, nlink, times, size, blocks })
}

/// A directory's entries are records of their own.
fn body(body: &Body) -> StoredBody {
    match body {
        Body::File(new) => StoredBody::File(content(new)),
        Body::Directory(directory) => StoredBody::Directory(directory.parent.0),
        Body::Symlink(target) => StoredBody::Symlink(Bytes(target.to_vec())),
        Body::Special(kind, rdev) => StoredBody::Special(code(*kind), *rdev),
    }
}

fn loaded_body(stored: StoredBody, adopt: Adopter<'_>) -> Decoded<Body> {
    Ok(match stored {
        StoredBody::File(content) => Body::File(loaded_content(content, adopt)?),
        StoredBody::Directory(parent) => Body::Directory(Directory::new(inode_id(parent)?)),
        StoredBody::Symlink(target) => Body::Symlink(target.0.into()),
        StoredBody::Special(code, rdev) => Body::Special(kind(code)?, rdev),
    })
}

fn content(content: &Content) -> StoredContent {
    match content {
        Content::Hole => StoredContent::Hole,
        Content::Whole(object) => StoredContent::Whole { object: object.id.0, epoch: object.epoch().0 },
        Content::Packed(extent) => {
            let (pack, offset) = extent.place();
            StoredContent::Packed { pack: pack.0, offset, len: extent.len, crc: extent.crc }
        }
        Content::Lower(file) => StoredContent::Lower(Box::new(stored_lower(file))),
    }
}

fn loaded_content(stored: StoredContent, adopt: Adopter<'_>) -> Decoded<Content> {
    Ok(match stored {
        StoredContent::Hole => Content::Hole,
        StoredContent::Whole { object, epoch } => {
            Content::Whole(adopt.object(ObjectId(object), Epoch(epoch)))
        }
        StoredContent::Packed { pack, offset, len, crc } => {
            Content::Packed(adopt.extent((PackId(pack), offset), len, crc))
        }
        StoredContent::Lower(file) => Content::Lower(Arc::new(loaded_lower(*file)?)),
    })
}

fn xattrs(xattrs: Option<&Xattrs>) -> Vec<(Bytes, Bytes)> {
    let pairs = xattrs.into_iter().flatten();
    pairs.map(|(name, value)| (Bytes(name.to_vec()), Bytes(value.to_vec()))).collect()
}

fn loaded_xattrs(stored: Vec<(Bytes, Bytes)>) -> Option<Arc<Xattrs>> {
    let xattrs: Xattrs = stored.into_iter().map(|(name, value)| (name.0.into(), value.0.into())).collect();
    (!xattrs.is_empty()).then(|| Arc::new(xattrs))
}
