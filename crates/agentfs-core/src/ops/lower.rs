//! Copy-up: a version comes to have itself what it changes of the lower directory. A file's attributes come first, its
//! content with its first write; a directory goes on to show what is below. What leads there is held with it, so that it
//! stays when others change the lower directory.

use std::sync::Arc;

use crate::branch::{Cover, Draft, Since, Tree, check_lower};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::Source;
use crate::store::{LowerStat, await_coarse_clock, join, split};
use crate::tree::{Directory, Entry, Inode, Version};
use crate::types::{FileKind, InodeId, Name, Timestamp, ViewId};

/// A file of the lower directory, found: where, and which.
type Below<'a> = (&'a Arc<[u8]>, InodeId, &'a LowerStat);

/// A name in a directory.
type Named<'a> = (InodeId, &'a Name);

/// What a version lies over, and the moment that it relies on.
pub(super) type Layer<'a> = (&'a crate::branch::Lower, Since);

impl FsCore {
    /// Has a branch have a file itself. What is gone is not held: whoever changes it is told.
    pub(super) fn copy_up(&self, view: ViewId, ino: InodeId) -> Result<()> {
        if self.lower.is_none() {
            return Ok(());
        }
        let tree = self.views.get(view)?;
        tree.branch()?;
        let Some(layer) = tree.lower().filter(|_| tree.own_inode(ino).is_none()) else { return Ok(()) };
        let Some(path) = layer.0.path_of(ino) else { return Ok(()) };
        self.copy_up_known(&tree, layer, (ino, &path))?;
        // Who has it open reads what the version has, from now on.
        if let Some(open) = self.open_files.get(view, ino) {
            *open.source.write() = Source::Unknown;
        }
        Ok(())
    }

    /// As [`FsCore::copy_up`], where it was last seen: what leads there is what the version has, whatever others have done.
    fn copy_up_known(&self, tree: &Tree, layer: Layer<'_>, (ino, path): (InodeId, &Arc<[u8]>)) -> Result<()> {
        let (parent, name, _) = layer.0.place_of(ino).ok_or(FsError::Stale)?;
        if tree.own_inode(parent).is_none() {
            let path = layer.0.path_of(parent).ok_or(FsError::Stale)?;
            self.copy_up_known(tree, layer, (parent, &path))?;
        }
        match layer.0.find(path)? {
            Some((found, stat)) if found == ino => {
                self.take(tree, layer, (parent, &name), (path, ino, &stat)).map(drop)
            }
            _ => Err(FsError::Stale),
        }
    }

    pub(super) fn copy_up_path(&self, tree: &Tree, layer: Layer<'_>, path: &Arc<[u8]>) -> Result<InodeId> {
        let Some((parent, name)) = split(path) else { return Ok(InodeId::ROOT) };
        let (ino, stat) = layer.0.find(path)?.ok_or(FsError::Stale)?;
        if tree.own_inode(ino).is_some() {
            return Ok(ino);
        }
        let parent = self.copy_up_path(tree, layer, &parent.into())?;
        self.take(tree, layer, (parent, &name), (path, ino, &stat))
    }

    /// As [`FsCore::copy_up`] of what is at a path, with the name that it has there.
    pub(super) fn copy_up_name_at(&self, tree: &Tree, layer: Layer<'_>, path: &Arc<[u8]>) -> Result<()> {
        let Some((above, name)) = split(path) else { return Ok(()) };
        let (ino, stat) = layer.0.find(path)?.ok_or(FsError::Stale)?;
        let parent = self.copy_up_path(tree, layer, &above.into())?;
        self.take(tree, layer, (parent, &name), (path, ino, &stat)).map(drop)
    }

    /// Puts what was found below into a version, under its name.
    pub(super) fn take(
        &self,
        tree: &Tree,
        (lower, since): Layer<'_>,
        (dir, name): Named<'_>,
        (path, ino, stat): Below<'_>,
    ) -> Result<InodeId> {
        // What it says of the name itself, it says whatever is below now.
        let known = tree.own_inode(dir).and_then(|(inode, _)| inode.directory()?.get_any(name));
        match known {
            Some(known) if known != Entry::new(ino, stat.kind) => return Err(FsError::Stale),
            Some(_) if tree.own_inode(ino).is_some() => return Ok(ino),
            _ => {}
        }
        check_lower(path, stat, since)?;
        let mut inode = lower.face(path, stat, dir)?;
        lower.dress(&mut inode, path);
        lower.record(ino, stat.identity);
        self.change_tree(tree, |draft| draft.pin((dir, name), ino, inode))?;
        Ok(ino)
    }

    /// Changes a branch; has a snapshot have more itself of what it shows.
    pub(super) fn change_tree<T>(
        &self,
        tree: &Tree,
        plan: impl FnOnce(&mut Draft<'_>) -> Result<T>,
    ) -> Result<T> {
        match tree {
            Tree::Branch(branch) => self.change_branch(branch, plan),
            Tree::Snapshot(snapshot) => snapshot.keep(&*self.journal, plan),
        }
    }

    /// Has a branch have a directory itself, and what a name in it leads to. What is below under that name?
    fn copy_up_name(&self, view: ViewId, (dir, name): Named<'_>) -> Result<Option<Cover>> {
        self.copy_up(view, dir)?;
        let tree = self.views.get(view)?;
        tree.branch()?;
        let Some(layer) = tree.lower() else { return Ok(None) };
        let Some((inode, false)) = tree.own_inode(dir) else { return Ok(None) };
        let (Some(origin), Some(directory)) = (&inode.lower, inode.directory()) else { return Ok(None) };
        let path = join(&origin.path, name);
        let Some((ino, stat)) = layer.0.find(&path)? else { return Ok(None) };
        if directory.get_any(name).is_none() {
            self.take(&tree, layer, (dir, name), (&path, ino, &stat))?;
        }
        Ok(Some(Cover { dir, name: name.clone() }))
    }

    /// Carries out an operation on names in directories, which the branch comes to have itself. The last of them may lead to
    /// something that is to be removed.
    pub(super) fn change_names<T>(
        &self,
        view: ViewId,
        names: &[Named<'_>],
        plan: impl FnOnce(&mut Draft<'_>) -> Result<T>,
    ) -> Result<T> {
        if self.lower.is_none() {
            return self.change(view, plan);
        }
        let mut covering = Vec::new();
        for name in names {
            covering.extend(self.copy_up_name(view, *name)?);
        }
        let full = names.last().map(|name| self.is_full_below(view, *name)).transpose()?.flatten();
        self.change(view, |draft| {
            draft.cover(covering, full);
            plan(draft)
        })
    }

    /// Is a name that of a directory that shows something from below? Then it is not to be removed or replaced.
    fn is_full_below(&self, view: ViewId, (dir, name): Named<'_>) -> Result<Option<InodeId>> {
        let tree = self.views.get(view)?;
        let entry = tree.read(|version| version.entry(dir, name))?.ok().flatten();
        let Some(entry) = entry.filter(|entry| entry.kind() == FileKind::Directory) else { return Ok(None) };
        let (is_over, shown) = self.shown_in(view, entry.ino())?;
        Ok((is_over && !shown.is_empty()).then_some(entry.ino()))
    }

    /// What a directory of a version that lies over the lower one shows; and does it show anything from there?
    pub(super) fn shown_in(&self, view: ViewId, dir: InodeId) -> Result<(bool, Directory)> {
        let tree = self.views.get(view)?;
        let own = tree.own_inode(dir);
        let Some((lower, _)) = tree.lower().filter(|_| !matches!(own, Some((_, true)))) else {
            let (inode, _) = own.ok_or(FsError::Stale)?;
            return Ok((false, inode.directory().ok_or(FsError::NotDirectory)?.clone()));
        };
        match own {
            Some((inode, _)) => {
                let directory = inode.directory().ok_or(FsError::NotDirectory)?;
                match &inode.lower {
                    Some(origin) => Ok((true, directory.over(&lower.list(&origin.path)?))),
                    None => Ok((false, directory.clone())),
                }
            }
            None => Ok((true, lower.list(&lower.directory(dir)?)?)),
        }
    }

    /// Where the directory `dir` of a version shows what is below, and what it says itself of a name in it.
    pub(super) fn name_in_layers(&self, view: ViewId, dir: InodeId, name: &Name) -> Result<Found> {
        let tree = self.views.get(view)?;
        let Some((lower, since)) = tree.lower() else { return Ok(Found::Own) };
        let path = match tree.own_inode(dir) {
            Some((_, true)) => return Ok(Found::Own),
            Some((inode, false)) => {
                let directory = inode.directory().ok_or(FsError::NotDirectory)?;
                match (&inode.lower, directory.get_any(name)) {
                    (Some(origin), None) => origin.path.clone(),
                    _ => return Ok(Found::Own),
                }
            }
            None => lower.directory(dir)?,
        };
        let path = join(&path, name);
        let Some((ino, stat)) = lower.find(&path)? else { return Ok(Found::Nothing) };
        if let Some((inode, is_orphan)) = tree.own_inode(ino) {
            let is_elsewhere = |origin: &Arc<crate::tree::Origin>| origin.path != path;
            let is_moved = inode.directory().is_some() && inode.lower.as_ref().is_some_and(is_elsewhere);
            // Others gave a name to what has none here any more, or moved a directory: it has one place.
            if is_orphan || is_moved {
                return Err(crate::branch::changed(&path));
            }
            return Ok(Found::Held(ino)); // it was changed under another name
        }
        check_lower(&path, &stat, since)?;
        self.check_not_moved(lower, (&path, &stat), since)?;
        lower.note(ino, &path, &stat, dir);
        Ok(Found::Below(ino, lower.face(&path, &stat, dir)?))
    }

    /// A directory that others moved has another time of change than of content, and so has the one that it was moved to.
    fn check_not_moved(
        &self,
        lower: &crate::branch::Lower,
        (path, stat): (&Arc<[u8]>, &LowerStat),
        since: Since,
    ) -> Result<()> {
        let is_suspect = |since: &Timestamp| {
            stat.kind == FileKind::Directory && stat.ctime > *since && stat.ctime != stat.mtime
        };
        let (Some(since), Some((above, _))) = (since.filter(is_suspect), split(path)) else { return Ok(()) };
        match lower.find(&above.into())? {
            Some((_, above)) if above.mtime > since => Err(crate::branch::changed(path)),
            _ => Ok(()),
        }
    }

    /// A file is opened: what may the kernel keep of what it reads?
    pub fn pages(&self, view: ViewId, ino: InodeId) -> Pages {
        let Some(lower) = self.lower.as_ref().filter(|_| view == ViewId::MAIN && ino.is_lower()) else {
            return Pages::Kept;
        };
        if self.is_live(view, ino) {
            Pages::None
        } else if lower.was_dropped(ino) {
            Pages::Kept
        } else {
            Pages::Dropped
        }
    }

    /// Is it as the lower directory has it now, whoever changes that?
    pub fn is_live(&self, view: ViewId, ino: InodeId) -> bool {
        self.lower.is_some()
            && view == ViewId::MAIN
            && self.views.get(view).is_ok_and(|tree| match tree.own_inode(ino) {
                None => ino.is_lower(),
                Some((inode, _)) => inode.directory().is_some() && inode.lower.is_some(),
            })
    }

    /// May this volume, of which `main` is that and `is_plain` when there is nothing yet, be opened over this directory?
    pub(super) fn check_lower(&self, main: Option<&Version>, is_plain: bool) -> Result<()> {
        let origin = main.and_then(Version::lower);
        let refused = match (&self.lower, origin) {
            (None, None) => return Ok(()),
            (Some(_), None) if is_plain => return Ok(()),
            (None, Some(_)) => "this volume lies over a directory: name it with --lower",
            (Some(_), None) => {
                "this volume has files and lies over no directory: mount it without --lower, or name an empty store"
            }
            (Some(lower), Some(origin)) => match lower.find(&origin.path)? {
                Some((_, stat)) if stat.identity == origin.identity => return Ok(()),
                _ => "this volume lies over another directory than the one that --lower names",
            },
        };
        Err(FsError::Refused(refused.into()))
    }

    /// What is changed in the lower directory from now on has a later time than the one that a version relies on.
    pub(super) fn await_lower(&self, version: &Version) {
        let since = version.lower().and_then(|origin| origin.since);
        if let Some(since) = since.filter(|_| self.lower.is_some()) {
            await_coarse_clock(since);
        }
    }

    /// The volume's main branch shows the lower directory from now on, if it does not already.
    pub(super) fn lie_over_lower(&self) -> Result<()> {
        let (Some(lower), Tree::Branch(main)) = (&self.lower, self.views.get(ViewId::MAIN)?) else {
            return Ok(());
        };
        let origin = main.read(|version| version.lower().cloned());
        if origin.is_some_and(|origin| origin.since.is_none()) {
            return Ok(());
        }
        let path = Arc::from([]);
        let (_, stat) = lower.find(&path)?.ok_or(FsError::Stale)?;
        let mut root = lower.face(&path, &stat, InodeId::ROOT)?;
        lower.dress(&mut root, &path);
        self.change_branch(&main, |draft| {
            draft.set_origin(InodeId::ROOT, root.lower);
            if draft.version().lower().is_none() {
                *draft.meta(InodeId::ROOT)? = root.meta;
                draft.set_xattrs(InodeId::ROOT, root.xattrs.as_deref().cloned().unwrap_or_default());
            }
            Ok(())
        })?;
        self.journal.sync()
    }
}

/// What the kernel may keep of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// All that it reads: it sees all changes.
    Kept,
    /// What it reads from now on.
    Dropped,
    /// Nothing: others change it.
    None,
}

/// What a name leads to.
pub(super) enum Found {
    /// What the version itself says.
    Own,
    /// A file that the version has itself, under another name.
    Held(InodeId),
    /// A file of the lower directory, without its extended attributes.
    Below(InodeId, Inode),
    /// Nothing.
    Nothing,
}

impl Draft<'_> {
    /// Puts a file of the lower directory into the version, under its name there. That changes nothing that shows.
    ///
    /// # Errors
    /// `Stale` when the directory is gone, or has another under that name.
    pub(super) fn pin(&mut self, (dir, name): (InodeId, &Name), ino: InodeId, inode: Inode) -> Result<()> {
        let entry = Entry::new(ino, inode.kind());
        let directory = self.version().get(dir).and_then(|inode| inode.directory()).ok_or(FsError::Stale)?;
        let known = directory.get_any(name);
        if known.is_some_and(|known| known != entry) {
            return Err(FsError::Stale);
        }
        let relied = inode.lower.as_ref().map(|origin| origin.path.clone());
        let relied = relied.and_then(|path| Some((inode.lower_entry(ino, &path)?, path)));
        match self.inode(ino) {
            // It has lost its names here, and is open still.
            Ok(_) if self.version().get(ino).is_none() => return Err(FsError::Stale),
            Ok(_) if known.is_none() && inode.directory().is_none() => {
                // Others have given it this name in the lower directory since it was copied up.
                let names = self.version().places(ino).len() as u32 + 1;
                if self.inode(ino)?.meta.nlink < names {
                    self.meta(ino)?.nlink = names;
                }
            }
            Ok(_) => {}
            Err(_) => self.put(ino, inode),
        }
        if known.is_none() {
            self.add_name(dir, name, entry);
            if let Some((entry, path)) = relied {
                self.set_lower_entry(path, entry);
            }
        }
        Ok(())
    }
}
