//! What a version changes of the directory that it lies over: what `apply` is to write, and what it may rely on there.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::branch::{Lower, Tree};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::store::{Content, join, split};
use crate::tree::{CopySource, Directory, DirectoryCopy, Entry, Inode, LowerEntry, Version};
use crate::types::{FileKind, InodeId, Name, Timestamp};

/// How a path differs from the lower directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// There is a file, a link or something special that is not what is below.
    Put {
        /// The path below of a file that is the same, bytes and attributes: it was only moved or linked.
        from: Option<Arc<[u8]>>,
        /// It was written out as it is now; it is told because a directory above it is to be written out.
        is_copied: bool,
    },
    /// There is a directory that is not the one below, and all in it.
    Tree {
        /// The directory below of which it shows what it does not have itself.
        from: Option<Arc<[u8]>>,
    },
    /// There is the directory that is below, with other attributes.
    Attributes {
        /// The one below still has those that the version relies on.
        is_as_relied_on: bool,
    },
    /// There is nothing.
    Gone,
}

/// What lies below at a path, as far as the version relies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reliance {
    /// Nothing.
    Absent,
    /// A directory.
    Directory,
    /// Something else, with this change token.
    File(u64),
    /// Something with this change token or, of a directory, all that was changed last by then. Only in stores that were
    /// made before format 6.
    Until(u64, Timestamp),
}

/// What `apply` has to know of a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Where it differs from the lower directory, by its own paths.
    pub changes: BTreeMap<Arc<[u8]>, ChangeKind>,
    /// What it relies on, by the paths of the lower directory.
    pub relies_on: BTreeMap<Arc<[u8]>, Reliance>,
    /// Directories of the lower one that it shows, wherever. What lies in one and is not in `relies_on` shows as it is.
    pub shown: Vec<Arc<[u8]>>,
    /// Files from there that the version has changed and of which it does not have all names itself.
    pub linked: Vec<InodeId>,
    /// What lies there and is shown as it is, it knows as it was at this moment.
    pub since: Timestamp,
}

struct Walk<'a> {
    version: &'a Version,
    lower: &'a Lower,
    found: Changes,
}

impl FsCore {
    /// All changes of a branch or a snapshot, by id or name. Looks at all that it has itself: for rare questions.
    ///
    /// # Errors
    /// `UnknownVersion`, `Refused` when the volume lies over no directory; what the host answers.
    pub fn changes(&self, of: &str) -> Result<Changes> {
        let tree = {
            let catalog = self.catalog.read();
            match catalog.branch(of) {
                Ok((_, branch)) => Tree::Branch(branch.clone()),
                Err(FsError::UnknownVersion(_)) => Tree::Snapshot(catalog.snapshot(of)?.1.clone()),
                Err(error) => return Err(error),
            }
        };
        let version = tree.read(Version::clone)?;
        let (Some(origin), Some(lower)) = (version.lower(), &self.lower) else {
            return Err(FsError::Refused(
                "it lies over no directory, or has all of it itself (eager): use export to write it elsewhere".into(),
            ));
        };
        let since = origin.since.unwrap_or_else(Timestamp::now);
        let found = Changes { since, ..Changes::default() };
        let mut walk = Walk { version: &version, lower, found };
        let root = version.get(InodeId::ROOT).ok_or(FsError::Stale)?;
        let relied_on = match (version.lower_entry(&[]), &root.lower) {
            (Some(LowerEntry::Directory { copy_of: Some(copy) }), _) => Some(copy.attributes),
            (_, origin) => origin.as_ref().map(|origin| origin.base),
        };
        walk.note_attributes(root, &Arc::from([]), relied_on)?;
        walk.in_place(root, &Arc::from([]))?;
        walk.note_reliances();
        Ok(walk.found)
    }

    /// The directory that the volume lies over, as a descriptor of this process.
    pub fn lower_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.lower.as_ref().map(|lower| lower.descriptor())
    }
}

impl Walk<'_> {
    /// A directory that is below at the same path.
    fn in_place(&mut self, inode: &Inode, path: &Arc<[u8]>) -> Result<()> {
        let directory = inode.directory().ok_or(FsError::NotDirectory)?;
        for (name, entry) in directory.iter_any() {
            self.entry(entry, inode, &join(path, name))?;
        }
        if inode.lower.as_ref().is_some_and(|origin| origin.path == *path) {
            return Ok(());
        }
        // It does not show what is below: nothing hides what was written out and removed since.
        let version = self.version;
        for (name, known) in version.lower_names(path) {
            if known.is_present() && directory.get_any(&name).is_none() {
                self.found.changes.insert(join(path, &name), ChangeKind::Gone);
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry, above: &Inode, path: &Arc<[u8]>) -> Result<()> {
        let known = self.known(entry, path);
        if entry.is_whiteout() {
            let is_legacy = known.is_none() && entry.stamp().is_some();
            if known.is_some_and(LowerEntry::is_present) || is_legacy {
                self.found.changes.insert(path.clone(), ChangeKind::Gone);
            }
            if let (true, Some(token)) = (is_legacy, entry.stamp()) {
                // What it has itself was made before it was changed last.
                let until = self.found.since.min(above.meta.times.ctime);
                self.found.relies_on.insert(path.clone(), Reliance::Until(token, until));
            }
            return Ok(());
        }
        let Some(inode) = self.version.get(entry.ino()) else { return Ok(()) };
        if inode.directory().is_none() {
            let is_copied = is_copied(known, entry.ino(), inode);
            if !is_copied {
                let from = self.same_below(entry.ino(), inode)?;
                self.found.changes.insert(path.clone(), ChangeKind::Put { from, is_copied });
            }
            return Ok(());
        }
        let origin = inode.lower.as_deref().filter(|origin| *origin.path == **path);
        let copy = match known {
            Some(LowerEntry::Directory { copy_of }) => copy_of,
            _ => None,
        };
        match (origin, copy) {
            (Some(origin), copy) => {
                // What was written out last, by whatever directory was there then.
                self.note_attributes(inode, path, Some(copy.map_or(origin.base, |copy| copy.attributes)))?;
                self.in_place(inode, path)
            }
            (None, Some(copy)) if copy.ino == entry.ino() => {
                self.note_attributes(inode, path, Some(copy.attributes))?;
                self.in_place(inode, path)
            }
            (None, _) => self.tree(inode, path),
        }
    }

    /// A directory of which nothing is below at this path, and all that it has itself.
    fn tree(&mut self, inode: &Inode, path: &Arc<[u8]>) -> Result<()> {
        let from = inode.lower.as_ref().map(|origin| origin.path.clone());
        self.found.changes.insert(path.clone(), ChangeKind::Tree { from });
        for (name, entry) in inode.directory().into_iter().flat_map(Directory::iter) {
            let (path, Some(inner)) = (join(path, name), self.version.get(entry.ino())) else { continue };
            if inner.directory().is_some() {
                self.tree(inner, &path)?;
            } else {
                let known = self.known(entry, &path);
                let (from, is_copied) =
                    (self.same_below(entry.ino(), inner)?, is_copied(known, entry.ino(), inner));
                self.found.changes.insert(path, ChangeKind::Put { from, is_copied });
            }
        }
        Ok(())
    }

    /// What is relied on at a path of the lower directory under a name that the version has itself.
    fn known(&self, entry: Entry, path: &[u8]) -> Option<LowerEntry> {
        let own = || self.version.get(entry.ino())?.lower_entry(entry.ino(), path);
        self.version.lower_entry(path).or_else(|| if entry.is_whiteout() { None } else { own() })
    }

    /// Notes other attributes of a directory than those that were written out, or were below when it was taken over.
    fn note_attributes(&mut self, inode: &Inode, path: &Arc<[u8]>, relied_on: Option<u64>) -> Result<()> {
        if relied_on == Some(inode.attributes()) {
            return Ok(());
        }
        let below = match self.lower.find(path)? {
            Some((_, stat)) if stat.kind == FileKind::Directory => {
                let mut below = self.lower.face(path, &stat, InodeId::ROOT)?;
                self.lower.dress(&mut below, path);
                Some(below.attributes())
            }
            _ => None,
        };
        if below != Some(inode.attributes()) {
            let is_as_relied_on = below.is_some() && below == relied_on;
            self.found.changes.insert(path.clone(), ChangeKind::Attributes { is_as_relied_on });
        }
        Ok(())
    }

    /// The path below of the very file that an inode shows, with the attributes that it has there.
    fn same_below(&self, ino: InodeId, inode: &Inode) -> Result<Option<Arc<[u8]>>> {
        let Some(Content::Lower(file)) = inode.content() else { return Ok(None) };
        let Some((found, stat)) = self.lower.find(&file.path)? else { return Ok(None) };
        // A copy that shares its content is another file.
        let is_it =
            found == ino && stat.identity == file.identity && stat.content().is_the_same_as(&file.stat);
        let (own, below) = (inode.meta, &stat);
        let has_attributes = (own.mode, own.uid, own.gid) == (below.mode, below.uid, below.gid)
            && own.times.mtime == below.mtime
            && own.size == below.size;
        if !is_it || !has_attributes {
            return Ok(None);
        }
        let mut face = self.lower.face(&file.path, &stat, InodeId::ROOT)?;
        self.lower.dress(&mut face, &file.path);
        Ok((face.xattrs == inode.xattrs).then(|| file.path.clone()))
    }

    /// All that the version relies on, and the directories below that it shows.
    fn note_reliances(&mut self) {
        let version = self.version;
        // That there was nothing tells of names that the version has itself, and of no others.
        for (path, known) in version.lower_entries().filter(|(_, known)| known.is_present()) {
            self.found.relies_on.insert(path.clone(), reliance(known));
        }
        for (ino, inode) in version.iter() {
            let Some(origin) = &inode.lower else { continue };
            let Some(directory) = inode.directory() else {
                let is_changed = origin.since != Some(inode.meta.times.ctime);
                if ino.is_lower() && is_changed && version.places(ino).len() < inode.meta.nlink as usize {
                    self.found.linked.push(ino);
                }
                continue;
            };
            self.found.shown.push(origin.path.clone());
            for (name, entry) in directory.iter_any() {
                self.note_taken_over(entry, name, &origin.path);
            }
        }
    }

    /// A name that the version has itself hides what is below, whatever that is.
    fn note_taken_over(&mut self, entry: Entry, name: &Name, above: &[u8]) {
        let path = join(above, name);
        if !self.found.relies_on.contains_key(&path) {
            let known = self.known(entry, &path).map_or(Reliance::Absent, reliance);
            self.found.relies_on.insert(path, known);
        }
    }
}

fn reliance(known: LowerEntry) -> Reliance {
    match known {
        LowerEntry::Absent => Reliance::Absent,
        LowerEntry::Directory { .. } => Reliance::Directory,
        LowerEntry::File { token, .. } => Reliance::File(token),
    }
}

/// Returns whether what is below is a copy of a file as it is now.
fn is_copied(known: Option<LowerEntry>, ino: InodeId, inode: &Inode) -> bool {
    let now = CopySource { ino, changed: inode.meta.times.ctime };
    matches!(known, Some(LowerEntry::File { copy_of: Some(copy), .. }) if copy == now)
}

/// What is to be noted of a path of the lower directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenPath {
    /// The path.
    pub path: Vec<u8>,
    /// What is there.
    pub written: Written,
    /// It was put there.
    pub is_new: bool,
}

/// What was written out, to be noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing is there any more.
    Removed,
    /// A directory, of this inode.
    Directory(InodeId),
    /// Something else.
    File {
        /// The change token that the file has below.
        token: u64,
        /// Of what it is a copy; `None` when that may have been changed since at the same time.
        copy_of: Option<CopySource>,
    },
}

impl FsCore {
    /// What a branch has was written to the lower directory at these paths, or removed there: it relies on that from now on.
    ///
    /// # Errors
    /// `UnknownVersion`, `Refused` when the volume lies over no directory; what the host answers.
    pub fn note_written(&self, branch: &str, written: &[WrittenPath]) -> Result<()> {
        let tree = Tree::Branch(self.catalog.read().branch(branch)?.1.clone());
        let (lower, _) = tree.lower().ok_or_else(not_layered)?;
        let mut over_directory = tree.read(directories_over_lower)?;
        for WrittenPath { path, written, is_new } in written {
            let path: Arc<[u8]> = path.as_slice().into();
            let attributes = match written {
                Written::Directory(_) => match lower.find(&path)? {
                    Some((_, stat)) => {
                        let mut below = lower.face(&path, &stat, InodeId::ROOT)?;
                        lower.dress(&mut below, &path);
                        below.attributes()
                    }
                    None => continue, // others were faster
                },
                Written::Removed | Written::File { .. } => 0,
            };
            let over = match split(&path) {
                Some((above, name)) => directory_over(&tree, lower, &above.into())?.zip(Some(name)),
                None => None,
            };
            let gone = if *written == Written::Removed { over_directory.remove(&path) } else { None };
            let noted = Noted { path: &path, written: *written, is_new: *is_new, attributes, over, gone };
            self.note_written_at(&tree, noted)?;
        }
        self.journal.sync()
    }

    fn note_written_at(&self, tree: &Tree, noted: Noted<'_>) -> Result<()> {
        let Noted { path, written, is_new, attributes, over, gone } = noted;
        let is_live = matches!(tree.lower(), Some((_, None)));
        self.change_tree(tree, |draft| {
            let entry = match written {
                Written::Removed => {
                    draft.set_lower_entry(path.clone(), LowerEntry::Absent);
                    // A directory that was moved away from there shows nothing of it any more.
                    gone.iter().for_each(|dir| draft.set_origin(*dir, None));
                    // `main` shows what others put there from now on.
                    if let Some((dir, name)) = over.filter(|_| is_live)
                        && draft.entry_or_whiteout(dir, &name).is_some_and(Entry::is_whiteout)
                    {
                        draft.show_name(dir, &name);
                    }
                    return Ok(());
                }
                Written::Directory(ino) => {
                    LowerEntry::Directory { copy_of: Some(DirectoryCopy { ino, attributes }) }
                }
                Written::File { token, copy_of } => LowerEntry::File { token, copy_of },
            };
            draft.set_lower_entry(path.clone(), entry);
            // What was removed or moved meanwhile is not to show again.
            if let Some((dir, name)) = over.filter(|_| is_new)
                && draft.entry_or_whiteout(dir, &name).is_none()
            {
                draft.add_name(dir, &name, Entry::WHITEOUT);
            }
            Ok(())
        })
    }

    /// Files of the lower directory have other change tokens, though nobody changed them: names of theirs came or went. Who
    /// relied on what they were relies on what they are. Each is a path, the token before and the token now.
    ///
    /// # Errors
    /// `Refused` when the volume lies over no directory; what the journal answers.
    pub fn note_tokens(&self, moved: &[(Vec<u8>, u64, u64)]) -> Result<()> {
        if self.lower.is_none() {
            return Err(not_layered());
        }
        let control = self.control.lock();
        let trees = self.all_trees();
        for (path, before, now) in moved {
            let path: Arc<[u8]> = path.as_slice().into();
            for tree in &trees {
                let known = tree.read(|version| version.lower_entry(&path))?;
                let Some(LowerEntry::File { token, copy_of }) = known.filter(|_| tree.lower().is_some())
                else {
                    continue;
                };
                if token == *before {
                    self.change_tree(tree, |draft| {
                        draft.set_lower_entry(path.clone(), LowerEntry::File { token: *now, copy_of });
                        Ok(())
                    })?;
                }
            }
        }
        drop(control);
        self.journal.sync()
    }
}

/// What is noted of a path.
struct Noted<'a> {
    path: &'a Arc<[u8]>,
    written: Written,
    is_new: bool,
    /// Of a directory, those that it has below.
    attributes: u64,
    /// The directory of the version that shows what is below there, and the name in it.
    over: Option<(InodeId, Name)>,
    /// The directory of the version that showed what was there, where that was one and was removed.
    gone: Option<InodeId>,
}

/// The directories of a version that show one below, by its path.
pub(super) fn directories_over_lower(version: &Version) -> HashMap<Arc<[u8]>, InodeId> {
    let over = version.iter().filter(|(ino, inode)| inode.directory().is_some() && *ino != InodeId::ROOT);
    over.filter_map(|(ino, inode)| Some((inode.lower.as_ref()?.path.clone(), ino))).collect()
}

/// The directory of a version that shows the one at a path below.
fn directory_over(tree: &Tree, lower: &Lower, path: &Arc<[u8]>) -> Result<Option<InodeId>> {
    let Some((ino, _)) = lower.find(path)? else { return Ok(None) };
    let Some((inode, false)) = tree.own_inode(ino) else { return Ok(None) };
    Ok(inode.lower.as_ref().is_some_and(|origin| origin.path == *path).then_some(ino))
}

pub(super) fn not_layered() -> FsError {
    FsError::Refused("this volume lies over no directory".into())
}
