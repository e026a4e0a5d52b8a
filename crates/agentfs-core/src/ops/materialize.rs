//! Copying all of the lower directory into a branch, so that it relies on nothing that others can change.

use std::sync::Arc;

use super::lower::Layer;
use crate::branch::{Branch, Tree};
use crate::config::Materialization;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::store::{Content, join};
use crate::tree::Directory;
use crate::types::{BranchId, InodeId, ViewId};

impl FsCore {
    /// Is what is frozen of a branch to be copied, all of it?
    pub(super) fn is_to_be_materialized(&self, branch: &Branch) -> bool {
        self.config.materialization == Materialization::Eager
            && branch.view == ViewId::MAIN
            && branch.read(|version| version.lower().is_some())
    }

    /// Makes a branch that was just grown from `main` one that has all that it shows itself. When that fails it goes again.
    pub(super) fn materialize(&self, id: BranchId) -> Result<()> {
        let branch = self.catalog.read().branch(&id.to_string())?.1.clone();
        let tree = Tree::Branch(branch);
        let done = match tree.lower() {
            Some(layer) => self.materialize_below(&tree, layer, InodeId::ROOT),
            None => Ok(()),
        };
        done.inspect_err(|_| {
            if let Err(error) = self.delete_branch(&id.to_string(), true) {
                tracing::warn!(%error, %id, "a branch that could not be made stays");
            }
        })
    }

    /// A directory of the branch comes to have all that it shows, and shows nothing from below any more.
    fn materialize_below(&self, tree: &Tree, layer: Layer<'_>, dir: InodeId) -> Result<()> {
        let own = |ino: InodeId| tree.own_inode(ino).map(|(inode, _)| inode).ok_or(FsError::Stale);
        let origin = own(dir)?.lower.clone();
        if let Some(origin) = &origin {
            for (name, _) in layer.0.list(&origin.path)?.iter() {
                let inode = own(dir)?;
                let has_own = inode.directory().is_some_and(|directory| directory.get_any(name).is_some());
                if !has_own {
                    self.copy_up_name_in(tree, layer, (dir, name), &join(&origin.path, name))?;
                }
            }
        }
        let inode = own(dir)?;
        for (_, entry) in inode.directory().into_iter().flat_map(Directory::iter) {
            let inner = own(entry.ino())?;
            if inner.directory().is_some() {
                self.materialize_below(tree, layer, entry.ino())?;
            } else if let Some(Content::Lower(file)) = inner.content() {
                self.own_content(tree, (entry.ino(), file), &mut None)?;
            }
        }
        if origin.is_some() {
            self.change_tree(tree, |draft| {
                draft.set_origin(dir, None);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// As [`FsCore::copy_up`] of what is at a path, under a name in a directory that the branch has itself.
    fn copy_up_name_in(
        &self,
        tree: &Tree,
        layer: Layer<'_>,
        place: (InodeId, &crate::types::Name),
        path: &Arc<[u8]>,
    ) -> Result<()> {
        match layer.0.find(path)? {
            Some((ino, stat)) => self.take(tree, layer, place, (path, ino, &stat)).map(drop),
            // It went meanwhile: that shows in the directory's time.
            None => Err(FsError::Changed(String::from_utf8_lossy(path).into_owned())),
        }
    }
}
