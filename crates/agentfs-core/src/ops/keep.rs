//! Before files of the lower directory are changed by us: branches and snapshots that rely on them come to have them
//! themselves, all of them one copy.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::changes::not_layered;
use super::lower::Layer;
use crate::branch::Tree;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::Source;
use crate::store::{Content, LowerFile, LowerStat, ObjectFile, join, split};
use crate::tree::{Entry, Inode, Version};
use crate::types::{FileKind, InodeId, Name};

impl FsCore {
    /// Has all branches and snapshots keep what is at these paths of the lower directory, and, if it is `deep`, below them, as
    /// far as they show it; `main` only what it has itself. It is durable then. Returns how many files they have more.
    ///
    /// # Errors
    /// `Refused` when the volume lies over no directory; what the host answers.
    pub fn keep_lower(&self, paths: &[Vec<u8>], deep: bool) -> Result<u64> {
        if self.lower.is_none() {
            return Err(not_layered());
        }
        // None comes meanwhile that would not know.
        let control = self.control.lock();
        let trees = self.all_trees();
        let mut kept = 0;
        self.part_from_nothing(&trees, paths)?;
        for path in paths {
            kept += self.keep_path(&trees, &path.as_slice().into(), deep)?;
        }
        drop(control);
        if kept > 0 {
            self.sync_content()?;
        } else {
            self.journal.sync()?;
        }
        Ok(kept)
    }

    /// Files of the lower directory are about to be replaced: what is frozen waits until they are, or until `is_alive` says
    /// that whoever does it has ended.
    pub fn begin_replacing(&self, is_alive: impl Fn() -> bool + Send + 'static) {
        // What is being frozen now is kept.
        let _control = self.control.lock();
        *self.replacing.lock() = Some(Box::new(is_alive));
    }

    /// They are.
    pub fn end_replacing(&self) {
        *self.replacing.lock() = None;
    }

    /// Returns whether files of the lower directory are being replaced.
    pub fn is_replacing(&self) -> bool {
        let mut replacing = self.replacing.lock();
        let lives = replacing.as_ref().is_some_and(|is_alive| is_alive());
        if !lives {
            *replacing = None;
        }
        lives
    }

    /// Keeps others from freezing trees, at a moment when none would rely on files that are being replaced.
    pub(super) fn await_replaced(&self) -> MutexGuard<'_, ()> {
        loop {
            let control = self.control.lock();
            if !self.is_replacing() {
                return control;
            }
            drop(control);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// All branches and snapshots, hidden ones too. The caller keeps them from coming and going.
    pub(super) fn all_trees(&self) -> Vec<Tree> {
        let catalog = self.catalog.read();
        let branches = catalog.all_branches().map(|(_, branch)| Tree::Branch(branch.clone()));
        let snapshots = catalog.all_snapshots().chain(catalog.all_points());
        branches.chain(snapshots.map(|(_, snapshot)| Tree::Snapshot(snapshot.clone()))).collect()
    }

    fn keep_path(&self, trees: &[Tree], path: &Arc<[u8]>, deep: bool) -> Result<u64> {
        let Some(lower) = &self.lower else { return Ok(0) };
        let Some((ino, stat)) = lower.find(path)? else {
            return self.keep_nothing(trees, path).map(|()| 0);
        };
        let (mut kept, mut copy) = (0, None);
        for tree in trees {
            kept += u64::from(self.keep_in(tree, (path, ino, &stat), &mut copy)?);
        }
        if stat.kind == FileKind::Directory && deep {
            for (name, _) in lower.list(path)?.iter() {
                kept += self.keep_path(trees, &join(path, name), deep)?;
            }
        }
        Ok(kept)
    }

    /// A directory of a branch's own that lay over one that is there no more lies over nothing, whatever comes there.
    fn part_from_nothing(&self, trees: &[Tree], paths: &[Vec<u8>]) -> Result<()> {
        let Some(lower) = &self.lower else { return Ok(()) };
        let mut absent = HashSet::new();
        for path in paths {
            if lower.find(&path.as_slice().into())?.is_none() {
                absent.insert(path.as_slice());
            }
        }
        if absent.is_empty() {
            return Ok(());
        }
        let is_below_absent = |mut path: &[u8]| loop {
            if absent.contains(path) {
                return true;
            }
            match split(path) {
                Some((above, _)) => path = above,
                None => return false,
            }
        };
        for tree in trees.iter().filter(|tree| tree.lower().is_some_and(|(_, since)| since.is_some())) {
            let directories = |version: &Version| {
                let lies = |inode: &Inode| {
                    inode.lower.as_ref().is_some_and(|origin| is_below_absent(&origin.path))
                        && inode.directory().is_some()
                };
                version.iter().filter(|(_, inode)| lies(inode)).map(|(ino, _)| ino).collect::<Vec<_>>()
            };
            let parted = tree.read(directories)?;
            if !parted.is_empty() {
                self.change_tree(tree, |draft| {
                    parted.iter().for_each(|dir| draft.set_origin(*dir, None));
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// Where there is nothing yet, there is nothing for branches later.
    fn keep_nothing(&self, trees: &[Tree], path: &Arc<[u8]>) -> Result<()> {
        let Some((above, name)) = split(path) else { return Ok(()) };
        for tree in trees {
            let Some(layer) = tree.lower().filter(|(_, since)| since.is_some()) else { continue };
            let hidden = self.copy_up_path(tree, layer, &above.into()).and_then(|dir| {
                self.change_tree(tree, |draft| {
                    let directory = draft.inode(dir)?.directory().ok_or(FsError::NotDirectory)?;
                    if directory.get_any(&name).is_none() {
                        draft.add_name(dir, &name, Entry::WHITEOUT);
                    }
                    Ok(())
                })
            });
            match hidden {
                // There is no such directory below, or the tree does not show it.
                Ok(()) | Err(FsError::Stale | FsError::NotDirectory) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn keep_in(
        &self,
        tree: &Tree,
        (path, ino, stat): (&Arc<[u8]>, InodeId, &LowerStat),
        copy: &mut Option<Content>,
    ) -> Result<bool> {
        let Some(layer) = tree.lower() else { return Ok(false) };
        let is_relied_on =
            stat.kind == FileKind::Directory || layer.1.is_some_and(|since| stat.ctime <= since);
        let is_moved = layer.1.is_none() && self.shows_elsewhere(tree, layer, path)?;
        if layer.1.is_some() && is_relied_on || is_moved {
            match self.copy_up_name_at(tree, layer, path) {
                // It shows something else there; it may have this one elsewhere.
                Ok(()) | Err(FsError::Stale) => {}
                Err(error) => return Err(error),
            }
        }
        let Some((inode, _)) = tree.own_inode(ino) else { return Ok(false) };
        let Some(Content::Lower(file)) = inode.content() else { return Ok(false) };
        if !file.stat.is_the_same_as(&stat.content()) {
            return Ok(false);
        }
        match self.own_content(tree, (ino, file), copy) {
            Err(FsError::Stale) => Ok(false), // deleted meanwhile
            kept => kept,
        }
    }

    /// Does `main` show what is at a path under another, because it moved a directory on the way?
    fn shows_elsewhere(&self, tree: &Tree, layer: Layer<'_>, path: &[u8]) -> Result<bool> {
        let mut at = path;
        while let Some((above, _)) = split(at) {
            let above: Arc<[u8]> = above.into();
            let own = layer.0.find(&above)?.filter(|(ino, _)| tree.own_inode(*ino).is_some());
            if let Some((ino, _)) = own {
                return Ok(leads_to(tree, &above) != Some(ino));
            }
            at = match path.get(..above.len()) {
                Some(above) if !above.is_empty() => above,
                _ => return Ok(false),
            };
        }
        Ok(false)
    }

    /// Gives a file of a tree, which has it from the lower directory without bytes, its bytes: those of `copy`, if there is
    /// one. False when it has others meanwhile.
    pub(super) fn own_content(
        &self,
        tree: &Tree,
        (ino, file): (InodeId, &Arc<LowerFile>),
        copy: &mut Option<Content>,
    ) -> Result<bool> {
        let content = match copy {
            Some(content) => content.clone(),
            None => copy.insert(self.copy_lower(file)?).clone(),
        };
        let own = |tree: &Tree| {
            self.change_tree(tree, |draft| {
                let now = draft.inode(ino)?.content();
                let is_it = now.is_some_and(|now| now.same(&Content::Lower(file.clone())));
                if is_it {
                    if let Content::Whole(object) = &content {
                        draft.is_to_be_durable(object.id);
                    }
                    draft.set_content(ino, content.clone());
                }
                Ok(is_it)
            })
        };
        let view = match tree {
            Tree::Branch(branch) => Some(branch.view),
            Tree::Snapshot(snapshot) => self.views.of_snapshot(snapshot.id),
        };
        let Some(view) = view else { return own(tree) };
        let open = self.open_files.acquire(tree, view, ino);
        let mut source = open.source.write();
        let changed = own(tree);
        if matches!(changed, Ok(true)) {
            *source = Source::Unknown;
        }
        drop(source);
        self.let_go(&open);
        changed
    }

    /// What a file of the lower directory holds, in the store; nobody writes it in place.
    pub(super) fn copy_lower(&self, file: &LowerFile) -> Result<Content> {
        let open: Arc<dyn ObjectFile> = self.open_lower(file)?;
        let size = file.stat.len;
        if size == 0 {
            return Ok(Content::Hole);
        }
        if size <= u64::from(self.config.small_file) {
            let bytes = self.read_lower(file, &*open)?;
            let reserved = self.reserve_shared(size)?;
            let extent = self.with_room(|| self.store.packs.append(&bytes))?;
            self.charge_shared(&extent, reserved.as_ref());
            return Ok(Content::Packed(extent));
        }
        let reserved = self.reserve_shared(file.stat.blocks * 512)?;
        let (id, copy) = self.with_room(|| self.store.import(&*open, size))?;
        super::content::check_same(file, &*open).inspect_err(|_| self.store.discard(id))?;
        Ok(Content::Whole(self.adopt_shared(id, &*copy, reserved.as_ref())?))
    }
}

/// The inode that a path leads to by what a tree has itself.
fn leads_to(tree: &Tree, path: &[u8]) -> Option<InodeId> {
    if path.is_empty() {
        return Some(InodeId::ROOT);
    }
    let found = tree.read(|version| {
        path.split(|byte| *byte == b'/').try_fold(InodeId::ROOT, |dir, name| {
            let entry = version.entry(dir, &Name::new(name).ok()?).ok().flatten()?;
            Some(entry.ino())
        })
    });
    found.ok()?
}
