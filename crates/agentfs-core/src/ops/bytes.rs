//! The bytes of files that nobody has open, as versions have them.

use std::borrow::Cow;
use std::sync::Arc;

use super::content::check_same;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::store::{Change, Claim, Content, LayeredFile, Layers, LowerFile, ObjectFile};
use crate::tree::{Body, Inode};
use crate::types::ObjectId;

/// Bytes that are compared at once.
const CHUNK: usize = 256 << 10;

/// Where bytes come from.
enum Bytes<'a> {
    Zeros,
    Small(Vec<u8>),
    Object(&'a FsCore, Frozen),
    Lower(Arc<LowerFile>, Arc<dyn ObjectFile>),
}

/// Content that nobody writes in place, in objects. Under the number of one another file may come to lie, with the same
/// bytes; what is open may then be written.
struct Frozen {
    content: Content,
    size: u64,
    open: Arc<dyn ObjectFile>,
    /// How often files had changed places when it was opened.
    since: u64,
}

impl Bytes<'_> {
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        let found = match self {
            Bytes::Zeros => 0,
            Bytes::Small(bytes) => {
                let from = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                let len = from.len().min(buf.len());
                if let (Some(room), Some(from)) = (buf.get_mut(..len), from.get(..len)) {
                    room.copy_from_slice(from);
                }
                len
            }
            Bytes::Object(core, frozen) => loop {
                let found = frozen.open.read_at(buf, offset)?;
                if frozen.since == core.direct.exchanges() {
                    break found;
                }
                *frozen = core.open_frozen(&frozen.content, frozen.size)?;
            },
            Bytes::Lower(lower, file) => {
                let found = file.read_at(buf, offset)?;
                check_same(lower, &**file)?;
                found
            }
        };
        buf.get_mut(found..).unwrap_or_default().fill(0);
        Ok(())
    }
}

/// Where the bytes of a file are, if they are in objects.
fn layers_of(content: &Content, size: u64) -> Option<Cow<'_, Layers>> {
    match content {
        Content::Layered(layers) => Some(Cow::Borrowed(layers)),
        Content::Whole(object) => {
            let claim = Claim::new(object.backing().clone(), 0, size);
            Some(Cow::Owned(std::iter::once(Change::piece(0, claim)).collect()))
        }
        Content::Hole | Content::Packed(_) | Content::Lower(_) => None,
    }
}

impl FsCore {
    fn bytes_of(&self, content: &Content, size: u64) -> Result<Bytes<'_>> {
        Ok(match content {
            Content::Hole => Bytes::Zeros,
            Content::Packed(extent) => Bytes::Small(extent.read()?),
            Content::Whole(_) | Content::Layered(_) => Bytes::Object(self, self.open_frozen(content, size)?),
            Content::Lower(lower) => Bytes::Lower(lower.clone(), self.open_lower(lower)?),
        })
    }

    fn open_frozen(&self, content: &Content, size: u64) -> Result<Frozen> {
        let since = self.direct.exchanges();
        let open: Arc<dyn ObjectFile> = match content {
            Content::Whole(object) => self.store.open(object)?,
            Content::Layered(layers) => {
                let (layers, opens) = (layers.clone(), self.store.opens());
                Arc::new(LayeredFile { layers, len: size, opens })
            }
            Content::Hole | Content::Packed(_) | Content::Lower(_) => return Err(FsError::Stale),
        };
        Ok(Frozen { content: content.clone(), size, open, since })
    }

    /// All bytes of a regular file of a version.
    ///
    /// # Errors
    /// What the store answers; `FileTooLarge` past `limit`, in bytes.
    pub(crate) fn read_all(&self, inode: &Inode, limit: u64) -> Result<Vec<u8>> {
        let Some(content) = inode.content() else { return Ok(Vec::new()) };
        if inode.meta.size > limit {
            return Err(FsError::FileTooLarge);
        }
        let mut bytes = vec![0; usize::try_from(inode.meta.size).map_err(|_| FsError::FileTooLarge)?];
        self.bytes_of(content, inode.meta.size)?.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Have two files the same bytes, targets or numbers?
    ///
    /// # Errors
    /// What the store answers.
    pub(crate) fn is_same_body(&self, a: &Inode, b: &Inode) -> Result<bool> {
        let (old, new) = match (&a.body, &b.body) {
            (Body::File(old), Body::File(new)) => (old, new),
            (Body::Directory(_), Body::Directory(_)) => return Ok(true),
            (old, new) => return Ok(old == new),
        };
        let size = a.meta.size;
        if size != b.meta.size {
            return Ok(false);
        }
        if size == 0 || old.same(new) {
            return Ok(true);
        }
        let (a, b) = (layers_of(old, size), layers_of(new, size));
        let (mut old, mut new) = (self.bytes_of(old, size)?, self.bytes_of(new, size)?);
        let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut at = 0;
        loop {
            if let (Some(a), Some(b)) = (&a, &b) {
                at = a.same_until(b, at); // what both have from the same place is not looked at
            }
            if at >= size {
                return Ok(true);
            }
            let len = (size - at).min(CHUNK as u64) as usize;
            let (Some(left), Some(right)) = (left.get_mut(..len), right.get_mut(..len)) else {
                return Err(FsError::FileTooLarge); // never: they are that long
            };
            old.read_at(left, at)?;
            new.read_at(right, at)?;
            if left != right {
                return Ok(false);
            }
            at += len as u64;
        }
    }

    /// Has a file that is about to be made have its bytes itself, where they are in the lower directory.
    ///
    /// # Errors
    /// `Changed`, what the store answers.
    pub(crate) fn own_below(&self, inode: &mut Inode, first: &mut Vec<ObjectId>) -> Result<()> {
        if let Some(Content::Lower(file)) = inode.content() {
            let content = self.copy_lower(file)?;
            first.extend(content.unsynced());
            inode.body = Body::File(content);
        }
        Ok(())
    }

    /// Puts bytes into the store, as content of nobody's own; and the object that is to be durable before a record names it.
    ///
    /// # Errors
    /// What the store answers.
    pub(crate) fn store_bytes(&self, bytes: &[u8]) -> Result<(Content, Option<ObjectId>)> {
        if bytes.is_empty() {
            return Ok((Content::Hole, None));
        }
        if bytes.len() <= self.config.small_file as usize {
            let reserved = self.reserve_shared(bytes.len() as u64)?;
            let extent = self.with_room(|| self.store.packs.append(bytes))?;
            self.charge_shared(&extent, reserved.as_ref());
            return Ok((Content::Packed(extent), None));
        }
        let reserved = self.reserve_shared(bytes.len() as u64)?;
        let (id, object) = self.with_room(|| self.store.create())?;
        let written = self.with_room(|| object.write_at(bytes, 0));
        match written {
            // No branch is ever in this epoch.
            Ok(count) if count == bytes.len() => {
                Ok((Content::Whole(self.adopt_shared(id, &*object, reserved.as_ref())?), Some(id)))
            }
            Ok(_) => {
                self.store.discard(id);
                Err(FsError::no_space())
            }
            Err(error) => {
                self.store.discard(id);
                Err(error)
            }
        }
    }
}
