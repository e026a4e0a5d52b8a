//! An operation being planned: it reads the state of a branch and collects the edits that will change it.

use std::sync::Arc;

use super::branch::State;
use crate::error::{FsError, Result};
use crate::store::{Change, Content, join};
use crate::tree::{Edit, Entry, Inode, LowerEntry, Meta, Origin, Replaces, Version, Xattrs};
use crate::types::{FileKind, InodeId, Name, ObjectId, Timestamp};

/// Edits collected from the present state. Reading through it shows the state before them,
/// but for attributes, which it keeps as changed.
pub struct Draft<'a> {
    state: &'a State,
    recorded: Vec<Edit>,
    unrecorded: Vec<Edit>,
    metas: Vec<(InodeId, Meta, Durability)>,
    dropped: Vec<InodeId>,
    first: Vec<ObjectId>,
    /// Names under which there is something in the lower directory.
    covering: Vec<Cover>,
    /// A directory that shows something from there.
    full: Option<InodeId>,
}

/// A version with edits that nobody records.
///
/// # Errors
/// What `plan` answers.
pub fn draft_on(version: &Version, plan: impl FnOnce(&mut Draft<'_>) -> Result<()>) -> Result<Version> {
    let mut state = State::of(version.clone());
    let mut draft = Draft::new(&state);
    plan(&mut draft)?;
    let edits = draft.finish();
    edits.recorded.into_iter().for_each(|edit| edit.apply(&mut state.version, &mut state.aside));
    Ok(state.version)
}

/// A name in a directory under which there is something in the lower directory.
pub struct Cover {
    /// The directory.
    pub dir: InodeId,
    /// The name.
    pub name: Name,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Durability {
    Recorded,
    Unrecorded,
}

/// A finished draft.
pub(super) struct Edits {
    pub(super) recorded: Vec<Edit>,
    pub(super) unrecorded: Vec<Edit>,
    pub(super) dropped: Vec<InodeId>,
    /// Objects to be durable before the records are.
    pub(super) first: Vec<ObjectId>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(state: &'a State) -> Draft<'a> {
        let (recorded, unrecorded, metas) = (Vec::new(), Vec::new(), Vec::new());
        let (dropped, first, covering, full) = (Vec::new(), Vec::new(), Vec::new(), None);
        Draft { state, recorded, unrecorded, metas, dropped, first, covering, full }
    }

    /// The version before the edits.
    pub fn version(&self) -> &'a Version {
        &self.state.version
    }

    /// An inode before the edits, an orphan too.
    ///
    /// # Errors
    /// `Stale` when there is none.
    pub fn inode(&self, ino: InodeId) -> Result<&'a Arc<Inode>> {
        self.state.inode(ino).ok_or(FsError::Stale)
    }

    /// The entry of `name` in a directory that is still in the tree.
    ///
    /// # Errors
    /// `NotFound` when the directory was removed, `Stale` when it never was, `NotDirectory`.
    pub fn entry(&self, dir: InodeId, name: &Name) -> Result<Option<Entry>> {
        if self.state.aside.orphans.contains_key(&dir) {
            return Err(FsError::NotFound);
        }
        self.version().entry(dir, name)
    }

    /// The entry of a name that must be there.
    ///
    /// # Errors
    /// `NotFound`, and those of [`Draft::entry`].
    pub fn existing(&self, dir: InodeId, name: &Name) -> Result<Entry> {
        self.entry(dir, name)?.ok_or(FsError::NotFound)
    }

    /// The attributes of `ino`, to be changed.
    ///
    /// # Errors
    /// `Stale` when there is no such inode.
    pub fn meta(&mut self, ino: InodeId) -> Result<&mut Meta> {
        self.meta_with(ino, Durability::Recorded)
    }

    /// The attributes of `ino`, to be changed without a record: what a write changes is recorded when
    /// the file is closed.
    ///
    /// # Errors
    /// `Stale` when there is no such inode.
    pub fn touch(&mut self, ino: InodeId) -> Result<&mut Meta> {
        self.meta_with(ino, Durability::Unrecorded)
    }

    fn meta_with(&mut self, ino: InodeId, durability: Durability) -> Result<&mut Meta> {
        let at = match self.metas.iter().position(|(known, ..)| *known == ino) {
            Some(at) => at,
            None => {
                self.metas.push((ino, self.inode(ino)?.meta, Durability::Unrecorded));
                self.metas.len() - 1
            }
        };
        let (_, meta, kept) = self.metas.get_mut(at).ok_or(FsError::Stale)?;
        if durability == Durability::Recorded {
            *kept = Durability::Recorded;
        }
        Ok(meta)
    }

    fn push(&mut self, ino: InodeId, edit: Edit) {
        if self.state.aside.orphans.contains_key(&ino) {
            self.unrecorded.push(edit);
        } else {
            self.recorded.push(edit);
        }
    }

    /// Adds a new inode.
    pub fn put(&mut self, ino: InodeId, inode: Inode) {
        self.push(ino, Edit::Put(ino, Arc::new(inode)));
    }

    /// Gives a regular file other bytes.
    pub fn set_content(&mut self, ino: InodeId, content: Content) {
        self.push(ino, Edit::Content(ino, content));
    }

    /// Changes content that is in layers.
    pub fn set_layers(&mut self, ino: InodeId, changes: Vec<Change>) {
        self.push(ino, Edit::Layers(ino, changes));
    }

    /// A file continues these from now on.
    pub fn set_replaces(&mut self, ino: InodeId, replaces: Replaces) {
        self.push(ino, Edit::Replaces(ino, replaces));
    }

    /// The extended attributes of a file, as changed so far.
    ///
    /// # Errors
    /// `Stale` when there is no such inode.
    pub fn xattrs(&self, ino: InodeId) -> Result<Xattrs> {
        let changed = self.recorded.iter().chain(&self.unrecorded).rev().find_map(|edit| match edit {
            Edit::Xattrs(known, xattrs) if *known == ino => Some(xattrs.as_deref()),
            _ => None,
        });
        Ok(changed.unwrap_or(self.inode(ino)?.xattrs.as_deref()).cloned().unwrap_or_default())
    }

    /// Gives a file other extended attributes.
    pub fn set_xattrs(&mut self, ino: InodeId, xattrs: Xattrs) {
        self.push(ino, Edit::Xattrs(ino, (!xattrs.is_empty()).then(|| Arc::new(xattrs))));
    }

    /// Under these names there is something in the lower directory: where one is removed, it is hidden. `full` is a directory that
    /// shows something from there.
    pub fn cover(&mut self, names: Vec<Cover>, full: Option<InodeId>) {
        (self.covering, self.full) = (names, full);
    }

    /// Returns whether a name that is removed has to be hidden: something is in the lower directory under it, or was when
    /// the version took it over.
    fn is_covering(&self, dir: InodeId, name: &Name) -> bool {
        let is_there = self.covering.iter().any(|cover| cover.dir == dir && cover.name == *name);
        let known = || self.version().lower_entry(&self.lower_path(dir, name)?);
        is_there || known().is_some_and(LowerEntry::is_present)
    }

    /// The path in the lower directory that a name in a directory lies over, if that shows what is there.
    fn lower_path(&self, dir: InodeId, name: &Name) -> Option<Arc<[u8]>> {
        let above = self.state.inode(dir)?.lower.as_ref()?;
        Some(join(&above.path, name))
    }

    /// Says what the version relies on at a path of the lower directory.
    pub fn set_lower_entry(&mut self, path: Arc<[u8]>, entry: LowerEntry) {
        self.recorded.push(Edit::LowerEntry(path, Some(entry)));
    }

    /// What a directory itself says of a name, which may be that it is hidden.
    pub fn entry_or_whiteout(&self, dir: InodeId, name: &Name) -> Option<Entry> {
        self.state.inode(dir)?.directory()?.get_any(name)
    }

    /// Takes a whiteout away: what is in the lower directory under the name shows again.
    pub fn show_name(&mut self, dir: InodeId, name: &Name) {
        self.push(dir, Edit::Unlink(dir, name.clone()));
    }

    /// Until format 6 of the store, what a version relies on was said by the inode under a name, or by its whiteout: before
    /// that changes, it is said by the path.
    fn keep_lower_entry(&mut self, dir: InodeId, name: &Name) {
        let Some(path) = self.lower_path(dir, name) else { return };
        if self.version().lower_entry(&path).is_some() {
            return;
        }
        let Some(entry) = self.state.inode(dir).and_then(|inode| inode.directory()?.get_any(name)) else {
            return;
        };
        let known = match entry.is_whiteout() {
            true => entry.stamp().map(|token| LowerEntry::File { token, copy_of: None }),
            false => self.state.inode(entry.ino()).and_then(|inode| inode.lower_entry(entry.ino(), &path)),
        };
        if let Some(known) = known {
            self.set_lower_entry(path, known);
        }
    }

    /// Does a directory show something from below?
    pub fn is_full_below(&self, ino: InodeId) -> bool {
        self.full == Some(ino)
    }

    /// Adds a name that shows already.
    pub fn add_name(&mut self, dir: InodeId, name: &Name, child: Entry) {
        self.push(dir, Edit::Link(dir, name.clone(), child));
    }

    /// Adds a name, and the changes of its directory that come with it. The link count of `child` is the caller's.
    ///
    /// # Errors
    /// `Stale` when there is no such directory.
    pub fn link(&mut self, dir: InodeId, name: &Name, child: Entry, now: Timestamp) -> Result<()> {
        self.keep_lower_entry(dir, name);
        self.push(dir, Edit::Link(dir, name.clone(), child));
        let parent = self.meta(dir)?;
        parent.nlink += u32::from(child.kind() == FileKind::Directory);
        (parent.times.mtime, parent.times.ctime) = (now, now);
        Ok(())
    }

    /// Removes a name, and makes the changes of its directory that come with it.
    ///
    /// # Errors
    /// `Stale` when there is no such directory.
    pub fn unlink(&mut self, dir: InodeId, name: &Name, child: Entry, now: Timestamp) -> Result<()> {
        self.keep_lower_entry(dir, name);
        self.push(
            dir,
            match self.is_covering(dir, name) {
                true => Edit::Link(dir, name.clone(), Entry::WHITEOUT),
                false => Edit::Unlink(dir, name.clone()),
            },
        );
        let parent = self.meta(dir)?;
        // Of a directory that shows what is below, not all were counted.
        let is_directory = child.kind() == FileKind::Directory;
        parent.nlink = parent.nlink.saturating_sub(u32::from(is_directory)).max(2);
        (parent.times.mtime, parent.times.ctime) = (now, now);
        Ok(())
    }

    /// Takes one name off a file, or all there is off a directory; without names it leaves the tree.
    ///
    /// # Errors
    /// `Stale` when there is no such inode.
    pub fn release(&mut self, child: Entry, now: Timestamp) -> Result<()> {
        let is_directory = child.kind() == FileKind::Directory;
        let left = if is_directory { 0 } else { self.meta(child.ino())?.nlink.saturating_sub(1) };
        // Others may have given it more names in the lower directory since it was copied up.
        let is_to_go = left == 0 && child.ino().is_lower();
        let others = if is_to_go { self.other_names(child.ino()) } else { 0 };
        let meta = self.meta(child.ino())?;
        meta.nlink = match others {
            0 => left,
            _ if is_directory => 2,
            others => others,
        };
        meta.times.ctime = now;
        if meta.nlink == 0 {
            self.dropped.push(child.ino());
        }
        Ok(())
    }

    /// Names that an inode has when what is drafted is done. Searches: for rare questions.
    fn other_names(&self, ino: InodeId) -> u32 {
        let is_changed = |dir: InodeId, name: &Name| {
            self.recorded.iter().any(|edit| match edit {
                Edit::Link(known, known_name, _) | Edit::Unlink(known, known_name) => {
                    *known == dir && known_name == name
                }
                _ => false,
            })
        };
        let directories = self.version().iter().filter_map(|(dir, inode)| Some((dir, inode.directory()?)));
        let names = directories.flat_map(|(dir, directory)| {
            let its = directory.iter().filter(move |(_, entry)| entry.ino() == ino);
            its.map(move |(name, _)| (dir, name))
        });
        names.filter(|(dir, name)| !is_changed(*dir, name)).count() as u32
    }

    /// The object of a file is about to be written in place, or nobody is left who may: while it is dirty, its size and
    /// times are not recorded.
    pub fn set_dirty(&mut self, ino: InodeId, dirty: bool) {
        if self.state.aside.dirty.contains(&ino) != dirty {
            self.push(ino, if dirty { Edit::Dirty(ino) } else { Edit::Clean(ino) });
        }
    }

    /// Is the file written in place, as far as records say?
    pub fn is_dirty(&self, ino: InodeId) -> bool {
        self.state.aside.dirty.contains(&ino)
    }

    /// A file takes the place of another: its bytes are to be durable before its new name is, as on ext4.
    pub fn replaces(&mut self, moved: InodeId) {
        let content = self.state.inode(moved).and_then(|inode| inode.content());
        self.first.extend(content.into_iter().flat_map(Content::unsynced));
    }

    /// This object is to be durable before the records are.
    pub fn is_to_be_durable(&mut self, object: ObjectId) {
        self.first.push(object);
    }

    /// Tells a file where it came from in the lower directory.
    pub fn set_origin(&mut self, ino: InodeId, origin: Option<Arc<Origin>>) {
        self.push(ino, Edit::Origin(ino, origin));
    }

    /// Tells a directory where it lies now.
    pub fn set_parent(&mut self, dir: InodeId, parent: InodeId) {
        self.push(dir, Edit::Parent(dir, parent));
    }

    pub(super) fn finish(self) -> Edits {
        let Draft { state, mut recorded, mut unrecorded, metas, dropped, first, .. } = self;
        for (ino, meta, durability) in metas {
            let orphan = state.aside.orphans.contains_key(&ino);
            let list =
                if orphan || durability == Durability::Unrecorded { &mut unrecorded } else { &mut recorded };
            list.push(Edit::Meta(ino, meta));
        }
        recorded.extend(dropped.iter().map(|ino| Edit::Drop(*ino)));
        Edits { recorded, unrecorded, dropped, first }
    }
}
