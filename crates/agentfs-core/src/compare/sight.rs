//! A version as it shows: with what it shows of the directory that it lies over.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::branch::{Lower, Since, Tree, check_lower};
use crate::error::{FsError, Result};
use crate::store::{join, split};
use crate::tree::{Entry, Inode, Version};
use crate::types::{FileKind, InodeId, Name};

/// A name in a directory.
pub type Place = (InodeId, Name);

/// A file as a version shows it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its number.
    pub ino: InodeId,
    /// What it is.
    pub inode: Arc<Inode>,
    /// Its names.
    pub places: Vec<Place>,
}

impl Node {
    /// Is it a directory?
    pub fn is_directory(&self) -> bool {
        self.inode.directory().is_some()
    }
}

/// A version that does not change, to be looked at.
pub struct Sight {
    /// What it has itself.
    pub version: Version,
    lower: Option<(Arc<Lower>, Since)>,
    /// Paths of directories that were asked for.
    paths: RefCell<HashMap<InodeId, Arc<[u8]>>>,
}

impl Sight {
    /// A version, which may lie over a lower directory.
    pub fn new(version: Version, lower: Option<&Arc<Lower>>) -> Sight {
        let since = version.lower().map(|origin| origin.since);
        let lower = lower.cloned().zip(since);
        let root: (InodeId, Arc<[u8]>) = (InodeId::ROOT, Arc::from([]));
        Sight { version, lower, paths: RefCell::new(HashMap::from([root])) }
    }

    /// What a tree shows now.
    pub fn of(tree: &Tree, lower: Option<&Arc<Lower>>) -> Sight {
        Sight::new(tree.read(Version::clone), lower)
    }

    /// What a name in a directory leads to. `from` is where the directory is below, for one that the version does not have
    /// itself.
    ///
    /// # Errors
    /// What the host answers.
    pub fn entry(&self, dir: InodeId, from: Option<&Arc<[u8]>>, name: &Name) -> Result<Option<Entry>> {
        let below = match self.version.get(dir) {
            Some(inode) => {
                let Some(directory) = inode.directory() else { return Ok(None) };
                match (directory.get_any(name), &inode.lower) {
                    (Some(entry), _) => return Ok((!entry.is_whiteout()).then_some(entry)),
                    (None, Some(origin)) => origin.path.clone(),
                    (None, None) => return Ok(None),
                }
            }
            None => match from {
                Some(from) => from.clone(),
                None => return Ok(None),
            },
        };
        let Some((lower, _)) = &self.lower else { return Ok(None) };
        let Some((ino, stat)) = lower.find(&join(&below, name))? else { return Ok(None) };
        // The version has it itself, and elsewhere: a directory has one place.
        let is_elsewhere = stat.kind == FileKind::Directory && self.version.get(ino).is_some();
        Ok((!is_elsewhere).then(|| Entry::new(ino, stat.kind)))
    }

    /// All names of a directory, and what they lead to.
    ///
    /// # Errors
    /// What the host answers.
    pub fn entries(&self, dir: InodeId) -> Result<Vec<(Name, Entry)>> {
        let own = self.version.get(dir);
        let below = match own {
            Some(inode) => inode.lower.as_ref().map(|origin| origin.path.clone()),
            None => Some(self.path(dir)?),
        };
        let listed = match (&self.lower, below) {
            (Some((lower, _)), Some(path)) => Some(lower.list(&path)?),
            _ => None,
        };
        let own = own.and_then(|inode| inode.directory());
        let shown = match (own, listed) {
            (Some(own), Some(listed)) => own.over(&listed),
            (Some(own), None) => own.clone(),
            (None, Some(listed)) => listed,
            (None, None) => return Ok(Vec::new()),
        };
        Ok(shown.iter().map(|(name, entry)| (name.clone(), entry)).collect())
    }

    /// A file, if the version shows it. `from` is where it is below, for one that the version does not have itself.
    ///
    /// # Errors
    /// What the host answers; `Changed` when the version relies on what it was.
    pub fn node(&self, ino: InodeId, from: Option<&Arc<[u8]>>) -> Result<Option<Node>> {
        if let Some(inode) = self.version.get(ino) {
            return Ok(Some(Node { ino, inode: inode.clone(), places: self.version.places(ino) }));
        }
        let (Some((lower, since)), Some(path)) = (&self.lower, from) else { return Ok(None) };
        let Some((place, found)) = self.walk(path)? else { return Ok(None) };
        if found != ino {
            return Ok(None);
        }
        let Some((found, stat)) = lower.find(path)? else { return Ok(None) };
        if found != ino {
            return Ok(None);
        }
        check_lower(path, &stat, *since)?;
        let mut inode = lower.face(path, &stat, place.0)?;
        lower.dress(&mut inode, path);
        Ok(Some(Node { ino, inode: Arc::new(inode), places: vec![place] }))
    }

    /// Where a path leads to, and under which name in which directory.
    ///
    /// # Errors
    /// What the host answers.
    pub fn walk(&self, path: &Arc<[u8]>) -> Result<Option<(Place, InodeId)>> {
        let (mut at, mut so_far, mut place): (_, Arc<[u8]>, _) = (InodeId::ROOT, Arc::from([]), None);
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            let name = Name::new(part)?;
            let Some(entry) = self.entry(at, Some(&so_far), &name)? else { return Ok(None) };
            so_far = join(&so_far, &name);
            place = Some((at, name));
            at = entry.ino();
            if entry.kind() == FileKind::Directory {
                self.paths.borrow_mut().entry(at).or_insert_with(|| so_far.clone());
            }
        }
        Ok(place.map(|place| (place, at)))
    }

    /// The path of a directory, from the root on.
    ///
    /// # Errors
    /// `Stale` when it is not in the version.
    pub fn path(&self, dir: InodeId) -> Result<Arc<[u8]>> {
        let (mut at, mut missing) = (dir, Vec::new());
        let known = |at: InodeId| self.paths.borrow().get(&at).cloned();
        let mut path = loop {
            if let Some(path) = known(at) {
                break path;
            }
            let place = self.version.places(at).into_iter().next().ok_or(FsError::Stale)?;
            missing.push((at, place.1));
            at = place.0;
        };
        for (dir, name) in missing.into_iter().rev() {
            path = join(&path, &name);
            self.paths.borrow_mut().insert(dir, path.clone());
        }
        Ok(path)
    }

    /// The path that a name in a directory makes.
    ///
    /// # Errors
    /// As [`Sight::path`].
    pub fn path_at(&self, (dir, name): &Place) -> Result<Arc<[u8]>> {
        Ok(join(&self.path(*dir)?, name))
    }

    /// The paths of a file, in order.
    ///
    /// # Errors
    /// As [`Sight::path`].
    pub fn paths(&self, node: &Node) -> Result<Vec<Arc<[u8]>>> {
        let mut paths = node.places.iter().map(|place| self.path_at(place)).collect::<Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }

    /// What lies at a path.
    ///
    /// # Errors
    /// What the host answers.
    pub fn at(&self, path: &Arc<[u8]>) -> Result<Option<Node>> {
        if split(path).is_none() {
            return self.node(InodeId::ROOT, None);
        }
        let Some((_, ino)) = self.walk(path)? else { return Ok(None) };
        self.node(ino, Some(path))
    }
}
