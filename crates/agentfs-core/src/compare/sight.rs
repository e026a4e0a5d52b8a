//! A version as it shows: with what it shows of the directory that it lies over.

use std::cell::{OnceCell, RefCell};
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
    /// Paths of directories that were come by.
    paths: RefCell<HashMap<InodeId, Arc<[u8]>>>,
    /// Where those of them are in the lower directory that the version does not have itself.
    below: RefCell<HashMap<InodeId, Arc<[u8]>>>,
    /// Files with several names, and all that are shown; known when it was asked for.
    linked: OnceCell<HashMap<InodeId, Vec<Place>>>,
}

impl Sight {
    /// A version, which may lie over a lower directory.
    pub fn new(version: Version, lower: Option<&Arc<Lower>>) -> Sight {
        let since = version.lower().map(|origin| origin.since);
        let lower = lower.cloned().zip(since);
        let root: (InodeId, Arc<[u8]>) = (InodeId::ROOT, Arc::from([]));
        let paths = RefCell::new(HashMap::from([root]));
        Sight { version, lower, paths, below: RefCell::default(), linked: OnceCell::new() }
    }

    /// The lower directory, where the version lies over it.
    pub fn lower(&self) -> Option<&Arc<Lower>> {
        self.lower.as_ref().map(|(lower, _)| lower)
    }

    /// What a tree shows now.
    ///
    /// # Errors
    /// As [`Tree::read`].
    pub fn of(tree: &Tree, lower: Option<&Arc<Lower>>) -> Result<Sight> {
        Ok(Sight::new(tree.read(Version::clone)?, lower))
    }

    /// What a name in a directory leads to. `from` is where the directory is below, for one that the version does not have
    /// itself and that was not come by.
    ///
    /// # Errors
    /// What the host answers.
    pub fn entry(&self, dir: InodeId, from: Option<&Arc<[u8]>>, name: &Name) -> Result<Option<Entry>> {
        let own = self.version.get(dir);
        if let Some(inode) = own {
            let Some(directory) = inode.directory() else { return Ok(None) };
            if let Some(entry) = directory.get_any(name) {
                return Ok((!entry.is_whiteout()).then_some(entry));
            }
        }
        let Some(below) = self.beneath(dir).or_else(|| from.filter(|_| own.is_none()).cloned()) else {
            return Ok(None);
        };
        let Some((lower, _)) = &self.lower else { return Ok(None) };
        let Some((ino, stat)) = lower.find(&join(&below, name))? else { return Ok(None) };
        // The version has it itself, and elsewhere: a directory has one place.
        let is_elsewhere = stat.kind == FileKind::Directory && self.version.get(ino).is_some();
        Ok((!is_elsewhere).then(|| Entry::new(ino, stat.kind)))
    }

    /// Where a directory is below, as far as that is known.
    pub fn beneath(&self, dir: InodeId) -> Option<Arc<[u8]>> {
        match self.version.get(dir) {
            Some(inode) => inode.lower.as_ref().map(|origin| origin.path.clone()),
            None => self.below.borrow().get(&dir).cloned(),
        }
    }

    /// All names of a directory, and what they lead to.
    ///
    /// # Errors
    /// What the host answers.
    pub fn entries(&self, dir: InodeId) -> Result<Vec<(Name, Entry)>> {
        let below = self.beneath(dir);
        let listed = match (&self.lower, &below) {
            (Some((lower, _)), Some(path)) => Some(lower.list(path)?),
            _ => None,
        };
        let own = self.version.get(dir).and_then(|inode| inode.directory());
        let shown = match (own, listed) {
            (Some(own), Some(listed)) => own.over(&listed),
            (Some(own), None) => own.clone(),
            (None, Some(listed)) => listed,
            (None, None) => return Ok(Vec::new()),
        };
        // A directory that the version has itself has one place.
        let is_here = |name: &Name, entry: Entry| {
            entry.kind() != FileKind::Directory
                || own.is_some_and(|own| own.get_any(name).is_some())
                || self.version.get(entry.ino()).is_none()
        };
        let shown = shown.iter().filter(|(name, entry)| is_here(name, *entry));
        let shown: Vec<(Name, Entry)> = shown.map(|(name, entry)| (name.clone(), entry)).collect();
        if let Some(below) = below {
            for (name, entry) in &shown {
                self.come_by(*entry, &(dir, name.clone()), &below)?;
            }
        }
        Ok(shown)
    }

    /// Remembers where a directory is that the version does not have itself: under a name in one that is there below.
    fn come_by(&self, entry: Entry, place: &Place, below: &Arc<[u8]>) -> Result<()> {
        let ino = entry.ino();
        if entry.kind() == FileKind::Directory && self.version.get(ino).is_none() {
            let path = self.path_at(place)?;
            self.paths.borrow_mut().insert(ino, path);
            self.below.borrow_mut().insert(ino, join(below, &place.1));
        }
        Ok(())
    }

    /// A file, if the version shows it. `from` is where it is below, for one that the version does not have itself.
    ///
    /// # Errors
    /// What the host answers; `Changed` when the version relies on what it was.
    pub fn node(&self, ino: InodeId, from: Option<&Arc<[u8]>>) -> Result<Option<Node>> {
        if let Some(inode) = self.version.get(ino) {
            let places = self.all_places(ino, inode, self.version.places(ino))?;
            return Ok(Some(Node { ino, inode: inode.clone(), places }));
        }
        let (Some((lower, since)), Some(path)) = (&self.lower, from) else { return Ok(None) };
        let Some((found, stat)) = lower.find(path)?.filter(|(found, _)| *found == ino) else {
            return Ok(None);
        };
        let place = self.locate(path)?;
        let mut inode = lower.face(path, &stat, place.as_ref().map_or(InodeId::ROOT, |place| place.0))?;
        let places = self.all_places(found, &inode, place.into_iter().collect())?;
        if places.is_empty() {
            return Ok(None);
        }
        check_lower(path, &stat, *since)?;
        lower.dress(&mut inode, path);
        Ok(Some(Node { ino, inode: Arc::new(inode), places }))
    }

    /// All names of a file of which some may be in the lower directory only: these cannot be told but by looking everywhere.
    fn all_places(&self, ino: InodeId, inode: &Inode, known: Vec<Place>) -> Result<Vec<Place>> {
        let is_lower = ino.is_lower() && self.lower.is_some() && inode.directory().is_none();
        // One name that is not there any more is one of a file that is not there; of one that the version has, it is another.
        let least = usize::from(self.version.get(ino).is_none());
        if !is_lower || inode.meta.nlink as usize <= known.len().max(least) {
            return Ok(known);
        }
        if self.linked.get().is_none() {
            let linked = self.look_everywhere()?;
            let _ = self.linked.set(linked);
        }
        let found = self.linked.get().and_then(|linked| linked.get(&ino)).cloned();
        Ok(found.unwrap_or(known))
    }

    fn look_everywhere(&self) -> Result<HashMap<InodeId, Vec<Place>>> {
        let (mut found, mut open) = (HashMap::<InodeId, Vec<Place>>::new(), vec![InodeId::ROOT]);
        while let Some(dir) = open.pop() {
            for (name, entry) in self.entries(dir)? {
                match entry.kind() {
                    FileKind::Directory => open.push(entry.ino()),
                    _ => found.entry(entry.ino()).or_default().push((dir, name)),
                }
            }
        }
        let has_name = |ino: InodeId| self.version.get(ino).is_none() || !self.version.places(ino).is_empty();
        found.retain(|ino, places| places.len() > 1 || !has_name(*ino));
        Ok(found)
    }

    /// The name under which the version shows what is at a path of the lower directory, wherever it moved what is above.
    fn locate(&self, path: &Arc<[u8]>) -> Result<Option<Place>> {
        let Some((lower, _)) = &self.lower else { return Ok(None) };
        let (mut at, mut so_far, mut place): (_, Arc<[u8]>, _) = (InodeId::ROOT, Arc::from([]), None);
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            let name = Name::new(part)?;
            let next = join(&so_far, &name);
            let Some((ino, _)) = lower.find(&next)? else { return Ok(None) };
            if self.version.get(ino).is_some() {
                place = self.version.places(ino).into_iter().next();
            } else {
                let Some(entry) = self.entry(at, Some(&so_far), &name)?.filter(|entry| entry.ino() == ino)
                else {
                    return Ok(None);
                };
                let here = (at, name);
                self.come_by(entry, &here, &so_far)?;
                place = Some(here);
            }
            (at, so_far) = (ino, next);
        }
        Ok(place)
    }

    /// Where a path leads to, and under which name in which directory.
    ///
    /// # Errors
    /// What the host answers.
    pub fn walk(&self, path: &Arc<[u8]>) -> Result<Option<(Place, InodeId)>> {
        let (mut at, mut place) = (InodeId::ROOT, None);
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            let here = (at, Name::new(part)?);
            let Some(entry) = self.entry(at, None, &here.1)? else { return Ok(None) };
            if let Some(below) = self.beneath(at) {
                self.come_by(entry, &here, &below)?;
            }
            (at, place) = (entry.ino(), Some(here));
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

    /// Where a file in a directory is below, if it is there.
    pub fn below(&self, dir: InodeId, name: &Name) -> Option<Arc<[u8]>> {
        self.beneath(dir).map(|below| join(&below, name))
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
        let Some((place, ino)) = self.walk(path)? else {
            return if split(path).is_none() { self.node(InodeId::ROOT, None) } else { Ok(None) };
        };
        self.node(ino, self.below(place.0, &place.1).as_ref())
    }
}
