//! The lower directory as inodes: which number each of its files has, and where it was last seen. A number is the host's,
//! shifted out of the way of our own; nothing is recorded of a file before it is changed.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::Mutex;

use crate::error::{FsError, Result};
use crate::store::{Content, Identity, LowerFile, LowerStat, LowerTree, ObjectFile, split};
use crate::tree::{Body, Directory, Entry, Inode, Meta, Origin, Times, Version};
use crate::types::{FileKind, InodeId, Name, Timestamp, ViewId};

/// Listings that are kept.
const LISTINGS: usize = 64;
/// A directory that was changed so shortly before it was listed may change again without its time's telling.
const FRESH: Duration = Duration::from_millis(50);
/// So long a file is kept that the kernel may be about to be told of.
const UNTOLD: Duration = Duration::from_secs(10);
/// Numbers below this many times the first are tried when the host gives one again.
const STEP: u64 = 0x9E37_79B1;

/// A file of the lower directory that the kernel knows, or is about to.
#[derive(Clone)]
struct Known {
    path: Arc<[u8]>,
    parent: InodeId,
    kind: FileKind,
    identity: Identity,
    /// In which views the kernel knows it.
    views: Vec<ViewId>,
    noted: Instant,
    /// Has the kernel dropped what it read of it before `main` came to have it itself?
    is_dropped: bool,
}

/// A directory as it was listed.
struct Listing {
    path: Arc<[u8]>,
    changed: (Timestamp, Timestamp),
    shown: Directory,
}

/// The lower directory of a volume.
pub struct Lower {
    tree: LowerTree,
    known: DashMap<InodeId, Known>,
    /// Of files that versions have, by number: these stay taken.
    recorded: DashMap<InodeId, Identity>,
    /// Files that have another number than theirs, because that was taken.
    moved: DashMap<Identity, InodeId>,
    listings: Mutex<VecDeque<Listing>>,
    tended: Mutex<Instant>,
}

/// Which moment a version relies on.
pub type Since = Option<Timestamp>;

impl Lower {
    /// Over this tree.
    pub fn new(tree: LowerTree) -> Lower {
        let (known, recorded, moved) = (DashMap::new(), DashMap::new(), DashMap::new());
        Lower { tree, known, recorded, moved, listings: Mutex::default(), tended: Mutex::new(Instant::now()) }
    }

    /// The files that a version has from there keep their numbers.
    pub fn adopt(&self, version: &Version) {
        for (ino, inode) in version.iter() {
            inode.lower.iter().for_each(|origin| self.record(ino, origin.identity));
        }
    }

    /// A version has a file from there.
    pub fn record(&self, ino: InodeId, identity: Identity) {
        if ino.is_lower() {
            self.recorded.insert(ino, identity);
            if number(identity, 0) != ino {
                self.moved.insert(identity, ino);
            }
        }
    }

    /// What is at a path, with its number.
    ///
    /// # Errors
    /// What the host answers.
    pub fn find(&self, path: &Arc<[u8]>) -> Result<Option<(InodeId, LowerStat)>> {
        let found = self.tree.find(path)?;
        Ok(found.map(|stat| (self.number_of(path, stat.identity), stat)))
    }

    fn number_of(&self, path: &[u8], identity: Identity) -> InodeId {
        if path.is_empty() {
            return InodeId::ROOT;
        }
        if let Some(ino) = self.moved.get(&identity) {
            return *ino;
        }
        let is_others = |ino: InodeId| {
            self.known.get(&ino).is_some_and(|known| known.identity != identity)
                || self.recorded.get(&ino).is_some_and(|known| *known != identity)
        };
        let mut ino = number(identity, 0);
        for turn in 1.. {
            if !is_others(ino) {
                break;
            }
            ino = number(identity, turn);
            self.moved.insert(identity, ino);
        }
        ino
    }

    /// The kernel is about to be told of a file in the directory `parent`: here it is.
    pub fn note(&self, ino: InodeId, path: &Arc<[u8]>, stat: &LowerStat, parent: InodeId) {
        let known = || {
            let (path, identity, kind) = (path.clone(), stat.identity, stat.kind);
            Known {
                path,
                parent,
                kind,
                identity,
                views: Vec::new(),
                noted: Instant::now(),
                is_dropped: false,
            }
        };
        let mut known = self.known.entry(ino).or_insert_with(known);
        if known.path != *path || known.parent != parent {
            (known.path, known.parent) = (path.clone(), parent);
        }
        known.noted = Instant::now();
    }

    /// The kernel knows it in one more view.
    pub fn remember(&self, ino: InodeId, view: ViewId) {
        if let Some(mut known) = self.known.get_mut(&ino)
            && !known.views.contains(&view)
        {
            known.views.push(view);
        }
    }

    /// It knows it in one less.
    pub fn forget(&self, ino: InodeId, view: ViewId) {
        self.known.remove_if_mut(&ino, |_, known| {
            known.views.retain(|known| *known != view);
            known.views.is_empty()
        });
    }

    /// Forgets what was looked up and the kernel was never told of.
    pub fn tend(&self) {
        let mut tended = self.tended.lock();
        if tended.elapsed() >= UNTOLD {
            self.known.retain(|_, known| !known.views.is_empty() || known.noted.elapsed() < UNTOLD);
            if self.known.capacity() > 4 * self.known.len() {
                self.known.shrink_to_fit();
            }
            *tended = Instant::now();
        }
    }

    /// A file that `main` has itself is opened: did the kernel drop what it had read before? It has from now on.
    pub fn was_dropped(&self, ino: InodeId) -> bool {
        let known = self.known.get_mut(&ino);
        known.is_some_and(|mut known| std::mem::replace(&mut known.is_dropped, true))
    }

    /// The directory itself, as a descriptor of this process.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.tree.descriptor()
    }

    /// Where it was when it was taken.
    pub fn place(&self) -> &std::path::Path {
        self.tree.path()
    }

    /// Files of it that the kernel knows.
    pub fn known(&self) -> usize {
        self.known.len()
    }

    /// In which directory a file that the kernel knows was last seen, under which name, and what it is.
    pub fn place_of(&self, ino: InodeId) -> Option<(InodeId, Name, FileKind)> {
        let known = self.known.get(&ino)?;
        Some((known.parent, split(&known.path)?.1, known.kind))
    }

    /// Where a directory that the kernel knows was last seen.
    ///
    /// # Errors
    /// `Stale` when it knows none, `NotDirectory` when it is none.
    pub fn directory(&self, ino: InodeId) -> Result<Arc<[u8]>> {
        let known = self.known.get(&ino).ok_or(FsError::Stale)?;
        if known.kind == FileKind::Directory { Ok(known.path.clone()) } else { Err(FsError::NotDirectory) }
    }

    /// Where a file that the kernel knows was last seen.
    pub fn path_of(&self, ino: InodeId) -> Option<Arc<[u8]>> {
        if ino == InodeId::ROOT {
            return Some(Arc::from([]));
        }
        self.known.get(&ino).map(|known| known.path.clone())
    }

    /// A file that the kernel knows, as it is now, without its extended attributes.
    ///
    /// # Errors
    /// `Stale` when it is gone, `Changed` when `since` says that a version relies on what it was.
    pub fn inode(&self, ino: InodeId, since: Since) -> Result<Inode> {
        let (path, identity) = {
            let known = self.known.get(&ino).ok_or(FsError::Stale)?;
            (known.path.clone(), known.identity)
        };
        match self.tree.find(&path)? {
            Some(stat) if stat.identity == identity => {
                check(&path, &stat, since)?;
                let is_directory = stat.kind == FileKind::Directory;
                let parent = if is_directory { self.parent_of(&path)? } else { InodeId::ROOT };
                self.face(&path, &stat, parent)
            }
            _ => Err(FsError::Stale),
        }
    }

    /// As [`Lower::inode`], of a file that was just found in the directory `parent`.
    ///
    /// # Errors
    /// What the host answers.
    pub fn face(&self, path: &Arc<[u8]>, stat: &LowerStat, parent: InodeId) -> Result<Inode> {
        let body = match stat.kind {
            FileKind::File => {
                let (path, identity, stat) = (path.clone(), stat.identity, stat.content());
                Body::File(Content::Lower(Arc::new(LowerFile { path, identity, stat })))
            }
            FileKind::Directory => Body::Directory(Directory::new(parent)),
            FileKind::Symlink => Body::Symlink(self.tree.target(path)?),
            special => Body::Special(special, stat.rdev),
        };
        let meta = Meta {
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            nlink: links(stat),
            times: Times { atime: stat.atime, mtime: stat.mtime, ctime: stat.ctime },
            size: if stat.kind == FileKind::File { stat.size } else { 0 },
            blocks: if stat.kind == FileKind::File { stat.blocks } else { 0 },
        };
        // The root's is another: what it shows is not what it was when it was first seen.
        let since = (!path.is_empty()).then_some(stat.ctime);
        let lower = Origin { path: path.clone(), identity: stat.identity, since, base: stat.change_token() };
        Ok(Inode { lower: Some(Arc::new(lower)), ..Inode::new(meta, body) })
    }

    /// Gives an inode the extended attributes of the file at a path.
    pub fn dress(&self, inode: &mut Inode, path: &[u8]) {
        if matches!(inode.body, Body::File(_) | Body::Directory(_)) {
            let kept = |name: &[u8]| {
                [&b"user."[..], b"trusted.", b"security.", b"system.posix_acl_"]
                    .iter()
                    .any(|known| name.starts_with(known))
            };
            let xattrs = self
                .tree
                .xattrs(path)
                .into_iter()
                .filter(|(name, _)| kept(name) && &**name != b"security.selinux");
            let xattrs: crate::tree::Xattrs = xattrs.collect();
            inode.xattrs = (!xattrs.is_empty()).then(|| Arc::new(xattrs));
        }
        if inode.directory().is_some() {
            let base = inode.attributes();
            inode.lower = inode.lower.take().map(|origin| Arc::new(Origin { base, ..(*origin).clone() }));
        }
    }

    fn parent_of(&self, path: &[u8]) -> Result<InodeId> {
        let Some((parent, _)) = split(path) else { return Ok(InodeId::ROOT) };
        Ok(self.find(&parent.into())?.ok_or(FsError::Stale)?.0)
    }

    /// What a directory shows; empty when there is none at this path.
    ///
    /// # Errors
    /// What the host answers.
    pub fn list(&self, path: &Arc<[u8]>) -> Result<Directory> {
        let Some((_, stat)) = self.find(path)? else { return Ok(Directory::new(InodeId::ROOT)) };
        let changed = (stat.mtime, stat.ctime);
        let mut listings = self.listings.lock();
        let at = listings.iter().position(|listing| listing.path == *path);
        if let Some(listing) = at.and_then(|at| listings.remove(at))
            && listing.changed == changed
        {
            let shown = listing.shown.clone();
            listings.push_back(listing);
            return Ok(shown);
        }
        drop(listings);
        let begun = std::time::SystemTime::now();
        let parent = self.parent_of(path)?;
        let listed = self.tree.list(path)?.unwrap_or_default();
        let entry = |(name, ino, kind)| {
            // When it was made is not told here: it is asked for when it is looked up.
            (name, Entry::new(number(Identity { ino, born: Timestamp::default() }, 0), kind))
        };
        let shown = Directory::of(parent, listed.into_iter().map(entry));
        let age = begun.duration_since(stat.ctime.max(stat.mtime).into()).unwrap_or_default();
        if age > FRESH {
            let mut listings = self.listings.lock();
            listings.push_back(Listing { path: path.clone(), changed, shown: shown.clone() });
            if listings.len() > LISTINGS {
                listings.pop_front();
            }
        }
        Ok(shown)
    }

    /// Opens a file that a version relies on.
    ///
    /// # Errors
    /// `Changed` when it is not what it was.
    pub fn open(&self, file: &LowerFile) -> Result<Arc<dyn ObjectFile>> {
        let (open, stat) = self.tree.content(&file.path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => changed(&file.path),
            _ => error.into(),
        })?;
        if stat.identity == file.identity && stat.content().is_the_same_as(&file.stat) {
            Ok(open)
        } else {
            Err(changed(&file.path))
        }
    }
}

/// A directory counts at least itself and its own name; some hosts do not.
fn links(stat: &LowerStat) -> u32 {
    if stat.kind == FileKind::Directory { stat.nlink.max(2) } else { stat.nlink.max(1) }
}

/// Is what was found what a version relies on? Directories show what is there.
///
/// # Errors
/// `Changed` when it is not.
pub fn check(path: &[u8], stat: &LowerStat, since: Since) -> Result<()> {
    match since {
        Some(since) if stat.kind != FileKind::Directory && stat.ctime > since => Err(changed(path)),
        _ => Ok(()),
    }
}

/// What a version relies on is not there any more.
pub fn changed(path: &[u8]) -> FsError {
    let path = String::from_utf8_lossy(path).into_owned();
    tracing::warn!(path, "a file of the lower directory changed since a branch or snapshot relies on it");
    FsError::Changed(path)
}

/// The number of a file, in the `turn`th attempt.
fn number(identity: Identity, turn: u64) -> InodeId {
    let folded =
        (identity.ino ^ (identity.ino >> 32).wrapping_mul(STEP)).wrapping_add(turn.wrapping_mul(STEP));
    InodeId(InodeId::LOWER.0 | folded & (InodeId::LOWER.0 - 1))
}
