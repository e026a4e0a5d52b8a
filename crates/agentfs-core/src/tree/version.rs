//! A version: the whole tree of a branch or snapshot at one moment, cloned in O(1).

use std::sync::Arc;

use imbl::OrdMap;

use super::homes::Home;
use super::{Body, Directory, Entry, Inode, LowerEntry, Meta, Origin, Times};
use crate::error::{FsError, Result};
use crate::types::{InodeId, Name, Timestamp};

/// All inodes of a tree, by number.
#[derive(Clone, Debug)]
pub struct Version {
    pub(super) inodes: OrdMap<InodeId, Arc<Inode>>,
    /// What it knows of the lower directory, by the path there.
    pub(super) lower_entries: OrdMap<Arc<[u8]>, LowerEntry>,
}

impl Version {
    /// A tree with nothing but its root directory.
    pub fn new(mode: u16, uid: u32, gid: u32, now: Timestamp) -> Version {
        let meta = Meta { mode, uid, gid, nlink: 2, times: Times::all(now), size: 0, blocks: 0 };
        let body = Body::Directory(Directory::new(InodeId::ROOT));
        Version::of_root(Inode::new(meta, body))
    }

    /// A tree with nothing but this root directory.
    pub fn of_root(root: Inode) -> Version {
        Version { inodes: OrdMap::unit(InodeId::ROOT, Arc::new(root)), lower_entries: OrdMap::new() }
    }

    /// Not a version, as it has no root: what the first is made out of when it is read from a log.
    pub fn nothing() -> Version {
        Version { inodes: OrdMap::new(), lower_entries: OrdMap::new() }
    }

    /// The inode, if this version has it.
    pub fn get(&self, ino: InodeId) -> Option<&Arc<Inode>> {
        self.inodes.get(&ino)
    }

    /// The entry of `name` in the directory `dir`.
    ///
    /// # Errors
    /// `Stale` when there is no such inode, `NotDirectory` when it is none.
    pub fn entry(&self, dir: InodeId, name: &Name) -> Result<Option<Entry>> {
        let inode = self.get(dir).ok_or(FsError::Stale)?;
        Ok(inode.directory().ok_or(FsError::NotDirectory)?.get(name))
    }

    /// The names of an inode: the directory of each, and what it is called there. The root has none.
    pub fn places(&self, ino: InodeId) -> Vec<(InodeId, Name)> {
        let Some(inode) = self.get(ino).filter(|_| ino != InodeId::ROOT) else { return Vec::new() };
        let named = |home: Home| {
            let directory = self.get(home.dir)?.directory()?;
            Some((home.dir, directory.name_at(home.hash, ino)?.clone()))
        };
        let found: Option<Vec<_>> = inode.homes.iter().map(named).collect();
        // Of the lower directory not all names are here.
        let expected =
            if inode.directory().is_some() || ino.is_lower() { 1 } else { inode.meta.nlink as usize };
        match found {
            Some(found) if found.len() >= expected => found,
            // Read from a log that an earlier daemon wrote, in another order.
            _ => self.search(ino),
        }
    }

    /// Does the way back from each inode lead to each of its names? For tests.
    pub fn leads_back(&self) -> bool {
        self.iter().all(|(ino, _)| {
            let (mut found, mut all) = (self.places(ino), self.search(ino));
            found.sort();
            all.sort();
            found == all && self.inodes.get(&ino).is_some_and(|inode| inode.homes.iter().count() == all.len())
        })
    }

    fn search(&self, ino: InodeId) -> Vec<(InodeId, Name)> {
        let directories = self.iter().filter_map(|(dir, inode)| Some((dir, inode.directory()?)));
        let names = directories.flat_map(|(dir, directory)| {
            let its = directory.iter().filter(move |(_, entry)| entry.ino() == ino);
            its.map(move |(name, _)| (dir, name.clone()))
        });
        names.collect()
    }

    /// Where it lies over the lower directory, if it does.
    pub fn lower(&self) -> Option<&Arc<Origin>> {
        self.get(InodeId::ROOT)?.lower.as_ref()
    }

    /// Returns what the version knows to lie at a path of the lower directory; `None` where it has taken nothing over.
    pub fn lower_entry(&self, path: &[u8]) -> Option<LowerEntry> {
        self.lower_entries.get(path).copied()
    }

    /// The names directly in a directory of the lower one of which the version knows something, with their paths there.
    pub fn lower_names<'a>(&'a self, directory: &'a [u8]) -> impl Iterator<Item = (Name, LowerEntry)> + 'a {
        let prefix: Vec<u8> = if directory.is_empty() { Vec::new() } else { [directory, b"/"].concat() };
        let from: Arc<[u8]> = prefix.as_slice().into();
        let within = self.lower_entries.range::<_, Arc<[u8]>>(from..);
        let name = move |path: &Arc<[u8]>| {
            let name = path.strip_prefix(prefix.as_slice())?;
            Some((!name.contains(&b'/')).then(|| Name::new(name).ok()).flatten())
        };
        within
            .map_while(move |(path, entry)| Some((name(path)?, *entry)))
            .filter_map(|(name, entry)| Some((name?, entry)))
    }

    /// All that the version knows of the lower directory, in the order of the paths there.
    pub fn lower_entries(&self) -> impl Iterator<Item = (&Arc<[u8]>, LowerEntry)> {
        self.lower_entries.iter().map(|(path, entry)| (path, *entry))
    }

    /// The highest number that any of its inodes has which was made here.
    pub fn highest(&self) -> Option<InodeId> {
        self.inodes.range(..InodeId::LOWER).next_back().map(|(ino, _)| *ino)
    }

    /// How many inodes it has.
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// A version always has its root.
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// All inodes, in order of number.
    pub fn iter(&self) -> impl Iterator<Item = (InodeId, &Arc<Inode>)> {
        self.inodes.iter().map(|(ino, inode)| (*ino, inode))
    }
}
