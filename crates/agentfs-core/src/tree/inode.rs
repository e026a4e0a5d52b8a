//! An inode: its attributes, its body by kind, its extended attributes.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::{CopySource, Directory, Homes, LowerEntry, Origin, Replaces};
use crate::store::{Charged, Content, FileStat};
use crate::types::{Attr, FileKind, InodeId, Timestamp};

/// What `stat` shows for a directory's size and blocks, whatever it holds.
const DIRECTORY_SIZE: u64 = 4096;

/// Extended attributes by name.
pub type Xattrs = BTreeMap<Box<[u8]>, Arc<[u8]>>;

/// The three times of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Last read.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
}

impl Times {
    /// All three at `now`.
    pub fn all(now: Timestamp) -> Times {
        Times { atime: now, mtime: now, ctime: now }
    }
}

/// Attributes that an edit can change as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits (07777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that lead here.
    pub nlink: u32,
    /// The three times.
    pub times: Times,
    /// Bytes, of regular files.
    pub size: u64,
    /// Space held by a regular file in units of 512 bytes, as of its last write or close.
    pub blocks: u64,
}

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A regular file's bytes.
    File(Content),
    /// A directory's entries.
    Directory(Directory),
    /// A symbolic link's target.
    Symlink(Arc<[u8]>),
    /// A pipe, socket or device: kind and device number.
    Special(FileKind, u32),
}

/// One file of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Attributes.
    pub meta: Meta,
    /// Body.
    pub body: Body,
    /// Extended attributes, if any.
    pub xattrs: Option<Arc<Xattrs>>,
    /// Where it came from, when it came from the lower directory.
    pub lower: Option<Arc<Origin>>,
    /// Where its names are.
    pub homes: Homes,
    /// The files that it continues, where a merge or a restore put it in the place of others.
    pub replaces: Replaces,
    /// Itself, where there are quotas; all versions that have it share this.
    pub charge: Charged,
}

impl Meta {
    /// Takes over what the host says of the file's object, and when it was written last if that is not known yet.
    pub fn note_host(&mut self, stat: FileStat, modified: Option<Timestamp>) {
        (self.size, self.blocks) = (stat.len, stat.blocks);
        if let Some(modified) = modified {
            (self.times.mtime, self.times.ctime) = (modified, self.times.ctime.max(modified));
        }
    }
}

impl Inode {
    /// One without extended attributes and names, which comes from nowhere.
    pub fn new(meta: Meta, body: Body) -> Inode {
        let (homes, replaces, charge) = (Homes::default(), Replaces::default(), Charged::default());
        Inode { meta, body, xattrs: None, lower: None, homes, replaces, charge }
    }

    /// Has another the same kind, permissions, owner and extended attributes?
    pub fn has_attributes_of(&self, other: &Inode) -> bool {
        let of = |inode: &Inode| (inode.kind(), inode.meta.mode, inode.meta.uid, inode.meta.gid);
        of(self) == of(other) && self.xattrs == other.xattrs
    }

    /// The files that it is one with, of the number `ino`: those that it continues, or itself.
    pub fn identities(&self, ino: InodeId) -> impl Iterator<Item = InodeId> {
        let own = self.replaces.is_empty().then_some(ino);
        own.into_iter().chain(self.replaces.iter())
    }

    /// What the inode `ino` itself says of the lower directory at a path, as stores until format 5 had it.
    pub fn lower_entry(&self, ino: InodeId, path: &[u8]) -> Option<LowerEntry> {
        let origin = self.lower.as_deref().filter(|origin| *origin.path == *path)?;
        if self.directory().is_some() {
            return Some(LowerEntry::Directory { copy_of: None });
        }
        let copy_of = origin.since.map(|changed| CopySource { ino, changed });
        (origin.base != 0).then_some(LowerEntry::File { token: origin.base, copy_of })
    }

    /// Returns whether it was taken over from another path of the lower directory than this one.
    pub fn is_from_elsewhere(&self, path: &[u8]) -> bool {
        self.lower.as_ref().is_some_and(|origin| *origin.path != *path)
    }

    /// What it is.
    pub fn kind(&self) -> FileKind {
        match &self.body {
            Body::File(_) => FileKind::File,
            Body::Directory(_) => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Special(kind, _) => *kind,
        }
    }

    /// Its entries, of a directory.
    pub fn directory(&self) -> Option<&Directory> {
        match &self.body {
            Body::Directory(directory) => Some(directory),
            Body::File(_) | Body::Symlink(_) | Body::Special(..) => None,
        }
    }

    /// Its bytes, of a regular file.
    pub fn content(&self) -> Option<&Content> {
        match &self.body {
            Body::File(content) => Some(content),
            Body::Directory(_) | Body::Symlink(_) | Body::Special(..) => None,
        }
    }

    /// Stands for its owner, permissions and extended attributes.
    pub fn attributes(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        (self.meta.mode, self.meta.uid, self.meta.gid).hash(&mut hasher);
        for (name, value) in self.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
            (name, value).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Does its content lie in objects?
    pub fn has_object(&self) -> bool {
        matches!(self.content(), Some(Content::Whole(_) | Content::Layered(_)))
    }

    /// Is its content in layers?
    pub fn is_layered(&self) -> bool {
        matches!(self.content(), Some(Content::Layered(_)))
    }

    /// How many objects its content lies in.
    pub fn objects(&self) -> usize {
        match self.content() {
            Some(Content::Whole(_)) => 1,
            Some(Content::Layered(layers)) => layers.owners().len(),
            Some(Content::Hole | Content::Packed(_) | Content::Lower(_)) | None => 0,
        }
    }

    /// What `stat` shows.
    pub fn attr(&self, ino: InodeId) -> Attr {
        let meta = &self.meta;
        let (size, blocks, rdev) = match &self.body {
            Body::File(_) => (meta.size, meta.blocks, 0),
            Body::Directory(_) => (DIRECTORY_SIZE, DIRECTORY_SIZE / 512, 0),
            Body::Symlink(target) => (target.len() as u64, 0, 0),
            Body::Special(_, rdev) => (0, 0, *rdev),
        };
        Attr {
            ino,
            kind: self.kind(),
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            nlink: meta.nlink,
            rdev,
            size,
            blocks,
            atime: meta.times.atime,
            mtime: meta.times.mtime,
            ctime: meta.times.ctime,
        }
    }
}
