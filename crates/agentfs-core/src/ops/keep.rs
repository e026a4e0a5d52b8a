//! Before files of the lower directory are changed by us: branches that rely on them come to have them themselves, all of
//! them one copy.

use std::sync::Arc;

use crate::branch::{Branch, Tree};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::Source;
use crate::store::{Content, LowerFile, LowerStat, ObjectFile, join, split};
use crate::tree::Entry;
use crate::types::{FileKind, InodeId};

impl FsCore {
    /// Has all branches keep what is at these paths of the lower directory, and below them, as far as they show it; `main`
    /// only what it has itself. It is durable then. Returns how many files a branch has more.
    ///
    /// # Errors
    /// `Refused` when the volume lies over no directory; what the host answers.
    pub fn keep_lower(&self, paths: &[Vec<u8>]) -> Result<u64> {
        if self.lower.is_none() {
            return Err(FsError::Refused("this volume lies over no directory".into()));
        }
        let trees: Vec<Tree> = {
            let catalog = self.catalog.read();
            catalog.all_branches().map(|(_, branch)| Tree::Branch(branch.clone())).collect()
        };
        let mut kept = 0;
        for path in paths {
            kept += self.keep_path(&trees, &path.as_slice().into())?;
        }
        if kept > 0 {
            self.sync_content()?;
        }
        Ok(kept)
    }

    fn keep_path(&self, trees: &[Tree], path: &Arc<[u8]>) -> Result<u64> {
        let Some(lower) = &self.lower else { return Ok(0) };
        let Some((ino, stat)) = lower.find(path)? else {
            return self.keep_nothing(trees, path).map(|()| 0);
        };
        let mut kept = 0;
        if stat.kind == FileKind::Directory {
            for (name, _) in lower.list(path)?.iter() {
                kept += self.keep_path(trees, &join(path, name))?;
            }
            return Ok(kept);
        }
        let mut copy = None;
        for tree in trees {
            let is_kept = self.keep_in(tree.branch()?, tree, (path, ino, &stat), &mut copy);
            kept += u64::from(match is_kept {
                // It shows something else there, or is deleted meanwhile.
                Err(FsError::Stale) => false,
                kept => kept?,
            });
        }
        Ok(kept)
    }

    /// Where there is nothing yet, there is nothing for branches later.
    fn keep_nothing(&self, trees: &[Tree], path: &Arc<[u8]>) -> Result<()> {
        let Some((above, name)) = split(path) else { return Ok(()) };
        for tree in trees {
            let (branch, Some(layer)) = (tree.branch()?, tree.lower()) else { continue };
            if layer.1.is_none() {
                continue;
            }
            let hidden = self.copy_up_path(branch, layer, &above.into()).and_then(|dir| {
                self.change_branch(branch, |draft| {
                    let directory = draft.inode(dir)?.directory().ok_or(FsError::NotDirectory)?;
                    if directory.get_any(&name).is_none() {
                        draft.add_name(dir, &name, Entry::WHITEOUT);
                    }
                    Ok(())
                })
            });
            match hidden {
                // There is no such directory below, or the branch does not show it.
                Ok(()) | Err(FsError::Stale) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn keep_in(
        &self,
        branch: &Branch,
        tree: &Tree,
        (path, ino, stat): (&Arc<[u8]>, InodeId, &LowerStat),
        copy: &mut Option<Content>,
    ) -> Result<bool> {
        let Some(layer) = tree.lower() else { return Ok(false) };
        match layer.1 {
            Some(since) if stat.ctime <= since => self.copy_up_name_at(branch, layer, path)?,
            // It shows what is there then, or does not show this any more.
            _ if branch.own_inode(ino).is_none() => return Ok(false),
            _ => {}
        }
        let Ok(Content::Lower(file)) = branch.content(ino) else { return Ok(false) };
        if file.stat != stat.content() {
            return Ok(false);
        }
        self.own_content(branch, tree, (ino, &file), copy)
    }

    /// Gives a file of a branch, which has it from the lower directory without bytes, its bytes: those of `copy`, if there is
    /// one. False when it has others meanwhile.
    pub(super) fn own_content(
        &self,
        branch: &Branch,
        tree: &Tree,
        (ino, file): (InodeId, &Arc<LowerFile>),
        copy: &mut Option<Content>,
    ) -> Result<bool> {
        let content = match copy {
            Some(content) => content.clone(),
            None => copy.insert(self.copy_lower(file)?).clone(),
        };
        let open = self.open_files.acquire(tree, branch.view, ino);
        let mut source = open.source.write();
        let changed = self.change_branch(branch, |draft| {
            let is_it = draft.inode(ino)?.content().is_some_and(|now| now.same(&Content::Lower(file.clone())));
            if is_it {
                if let Content::Whole(object) = &content {
                    draft.is_to_be_durable(object.id);
                }
                draft.set_content(ino, content.clone());
            }
            Ok(is_it)
        });
        if matches!(changed, Ok(true)) {
            *source = Source::Unknown;
        }
        drop(source);
        self.let_go(&open);
        changed
    }

    /// What a file of the lower directory holds, in the store; nobody writes it in place.
    fn copy_lower(&self, file: &LowerFile) -> Result<Content> {
        let open: Arc<dyn ObjectFile> = self.open_lower(file)?;
        let size = file.stat.len;
        if size == 0 {
            return Ok(Content::Hole);
        }
        if size <= u64::from(self.config.small_file) {
            let bytes = self.read_lower(file, &*open)?;
            return Ok(Content::Packed(self.with_room(|| self.store.packs.append(&bytes))?));
        }
        let (id, _) = self.with_room(|| self.store.import(&*open, size))?;
        super::content::check_same(file, &*open).inspect_err(|_| self.store.discard(id))?;
        Ok(Content::Whole(self.store.adopt(id, self.fresh_epoch())))
    }
}
