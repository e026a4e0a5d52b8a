//! Edits as bytes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::codec_layers::{StoredChange, loaded_changes, stored_change, stored_pieces};
use super::codec_lower::{
    StoredLower, StoredLowerEntry, StoredOrigin, loaded_lower, loaded_lower_entry, loaded_origin,
    stored_lower, stored_lower_entry, stored_origin,
};
use crate::error::FsError;
use crate::store::{Backing, Content, Extent, Object, Place};
use crate::tree::{Body, Directory, Edit, Entry, Inode, Meta, Replaces, Times, Xattrs};
use crate::types::{Epoch, FileKind, InodeId, Name, ObjectId, PackId, Timestamp};

/// Finds or makes what content is made of, one of a kind for each number or place.
pub trait Adopt {
    /// The object.
    fn object(&mut self, id: ObjectId, epoch: Epoch) -> Decoded<Arc<Object>>;
    /// The object's file, to name stretches of it.
    fn backing(&mut self, id: ObjectId, epoch: Epoch) -> Decoded<Arc<Backing>>;
    /// The extent at a place, with its length and checksum.
    fn extent(&mut self, place: Place, len: u32, crc: u32) -> Decoded<Arc<Extent>>;
}

/// Of edits that name no content.
struct NoContent;

impl Adopt for NoContent {
    fn object(&mut self, _: ObjectId, _: Epoch) -> Decoded<Arc<Object>> {
        Err(NotARecord)
    }
    fn backing(&mut self, _: ObjectId, _: Epoch) -> Decoded<Arc<Backing>> {
        Err(NotARecord)
    }
    fn extent(&mut self, _: Place, _: u32, _: u32) -> Decoded<Arc<Extent>> {
        Err(NotARecord)
    }
}

/// Edits that name no content, as bytes.
///
/// # Errors
/// `Io` when they cannot be encoded, which is a fault of the program.
pub fn encode_edits(edits: &[Edit]) -> crate::error::Result<Vec<u8>> {
    let stored: Vec<_> = edits.iter().map(stored_edit).collect();
    postcard::to_extend(&stored, Vec::new()).map_err(|error| FsError::damaged(&error.to_string()))
}

/// The edits that bytes are.
///
/// # Errors
/// `Io` when they are none.
pub fn decode_edits(bytes: &[u8]) -> crate::error::Result<Vec<Edit>> {
    let stored = postcard::from_bytes::<Vec<StoredEdit>>(bytes).map_err(|_| NotARecord);
    let edits = stored.and_then(|stored| loaded_edits(stored, &mut NoContent));
    edits.map_err(|error| FsError::damaged(&error.to_string()))
}

pub(super) type Adopter<'a> = &'a mut dyn Adopt;

/// A record that no such thing can be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no record")]
pub struct NotARecord;

pub(super) type Decoded<T> = Result<T, NotARecord>;

#[derive(Serialize, Deserialize)]
pub(super) struct StoredTime(i64, u32);

#[derive(Serialize, Deserialize)]
pub(super) struct Bytes(#[serde(with = "serde_bytes")] pub(super) Vec<u8>);

#[derive(Serialize, Deserialize)]
pub(super) enum StoredEdit {
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
    PutFor(u64, u64, StoredMeta, StoredBody, Vec<(Bytes, Bytes)>, Option<StoredOrigin>),
    Layers(u64, Vec<StoredChange>),
    LowerEntry(Bytes, Option<StoredLowerEntry>),
    PutForAll(u64, Vec<u64>, StoredMeta, StoredBody, Vec<(Bytes, Bytes)>, Option<StoredOrigin>),
    Replaces(u64, Vec<u64>),
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredMeta {
    mode: u16,
    uid: u32,
    gid: u32,
    nlink: u32,
    times: [StoredTime; 3],
    size: u64,
    blocks: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) enum StoredBody {
    File(StoredContent),
    Directory(u64),
    Symlink(Bytes),
    Special(u8, u32),
}

#[derive(Serialize, Deserialize)]
pub(super) enum StoredContent {
    Hole,
    Whole { object: u64, epoch: u64 },
    Packed { pack: u64, offset: u32, len: u32, crc: u32 },
    Lower(Box<StoredLower>),
    Layered(Vec<StoredChange>),
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

pub(super) fn loaded_edits(edits: Vec<StoredEdit>, adopt: Adopter<'_>) -> Decoded<Vec<Edit>> {
    edits.into_iter().map(|stored| edit(stored, adopt)).collect()
}

pub(super) fn stored_edit(edit: &Edit) -> StoredEdit {
    match edit {
        Edit::Put(ino, inode) => {
            let (meta, body, xattrs) =
                (meta(&inode.meta), body(&inode.body), xattrs(inode.xattrs.as_deref()));
            if !inode.replaces.is_empty() {
                let lower = inode.lower.as_deref().map(stored_origin);
                let replaces = inode.replaces.iter().map(|ino| ino.0).collect();
                return StoredEdit::PutForAll(ino.0, replaces, meta, body, xattrs, lower);
            }
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
        Edit::Layers(ino, changes) => StoredEdit::Layers(ino.0, changes.iter().map(stored_change).collect()),
        Edit::Replaces(ino, replaces) => {
            StoredEdit::Replaces(ino.0, replaces.iter().map(|ino| ino.0).collect())
        }
        Edit::LowerEntry(path, entry) => {
            StoredEdit::LowerEntry(Bytes(path.to_vec()), entry.map(stored_lower_entry))
        }
    }
}

fn edit(stored: StoredEdit, adopt: Adopter<'_>) -> Decoded<Edit> {
    let name = |bytes: &Bytes| Name::new(&bytes.0).map_err(|_| NotARecord);
    Ok(match stored {
        StoredEdit::Put(ino, meta, body, xattrs) => put((ino, &[]), &meta, body, xattrs, None, adopt)?,
        StoredEdit::PutLower(ino, meta, body, xattrs, lower) => {
            put((ino, &[]), &meta, body, xattrs, Some(lower), adopt)?
        }
        StoredEdit::PutFor(ino, replaces, meta, body, xattrs, lower) => {
            put((ino, &[replaces]), &meta, body, xattrs, lower, adopt)?
        }
        StoredEdit::PutForAll(ino, replaces, meta, body, xattrs, lower) => {
            put((ino, &replaces), &meta, body, xattrs, lower, adopt)?
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
        StoredEdit::Layers(ino, changes) => Edit::Layers(inode_id(ino)?, loaded_changes(changes, adopt)?),
        StoredEdit::Replaces(ino, replaces) => Edit::Replaces(inode_id(ino)?, loaded_replaces(&replaces)?),
        StoredEdit::LowerEntry(path, entry) => {
            Edit::LowerEntry(path.0.into(), entry.as_ref().map(loaded_lower_entry).transpose()?)
        }
    })
}

fn put(
    (ino, replaces): (u64, &[u64]),
    meta: &StoredMeta,
    body: StoredBody,
    xattrs: Vec<(Bytes, Bytes)>,
    lower: Option<StoredOrigin>,
    adopt: Adopter<'_>,
) -> Decoded<Edit> {
    let inode = Inode::new(loaded_meta(meta)?, loaded_body(body, adopt)?);
    let (lower, replaces) = (lower.map(loaded_origin).transpose()?, loaded_replaces(replaces)?);
    Ok(Edit::Put(inode_id(ino)?, Arc::new(Inode { xattrs: loaded_xattrs(xattrs), lower, replaces, ..inode })))
}

fn loaded_replaces(stored: &[u64]) -> Decoded<Replaces> {
    Ok(Replaces::all(stored.iter().map(|ino| inode_id(*ino)).collect::<Decoded<Vec<_>>>()?))
}

pub(super) fn inode_id(number: u64) -> Decoded<InodeId> {
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
        Content::Layered(layers) => StoredContent::Layered(stored_pieces(layers)),
    }
}

fn loaded_content(stored: StoredContent, adopt: Adopter<'_>) -> Decoded<Content> {
    Ok(match stored {
        StoredContent::Hole => Content::Hole,
        StoredContent::Whole { object, epoch } => {
            Content::Whole(adopt.object(ObjectId(object), Epoch(epoch))?)
        }
        StoredContent::Packed { pack, offset, len, crc } => {
            Content::Packed(adopt.extent((PackId(pack), offset), len, crc)?)
        }
        StoredContent::Lower(file) => Content::Lower(Arc::new(loaded_lower(*file)?)),
        StoredContent::Layered(pieces) => {
            Content::Layered(Arc::new(loaded_changes(pieces, adopt)?.into_iter().collect()))
        }
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
