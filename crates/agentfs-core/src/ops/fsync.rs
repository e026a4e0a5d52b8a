//! `fsync`.

use std::sync::Arc;

use crate::branch::Branch;
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::handle::{OpenFile, Source};
use crate::types::{HandleId, InodeId};

impl FsCore {
    /// Makes what was written to the file durable in the store.
    ///
    /// # Errors
    /// `BadHandle`, and what the store answers.
    pub fn fsync(&self, handle: HandleId, data_only: bool) -> Result<()> {
        let handle = self.handles.get(handle)?;
        // The object is taken out of the lock: others may read and write while the disk works.
        let object = match &*self.source_to_read(&handle.file)? {
            Source::Object(_, object) => Some(object.clone()),
            // Small content is synced with the log.
            Source::Hole | Source::Small(_) | Source::Unknown => None,
        };
        if let Some(object) = object {
            object.sync(data_only)?;
        }
        self.journal.sync_inode(handle.file.ino)?;
        self.try_given_up(&handle.file)
    }

    /// The host may have forgotten what it could not write of a file, and say nothing of it any more.
    fn try_given_up(&self, file: &OpenFile) -> Result<()> {
        let is_given_up = |source: &Source| match source {
            Source::Object(object, _) if self.journal.has_given_up(Some(object.id)) => Some(object.id),
            _ => None,
        };
        if is_given_up(&file.source.read()).is_none() {
            return Ok(());
        }
        // Nobody writes meanwhile.
        let source = file.source.write();
        is_given_up(&source).map_or(Ok(()), |id| self.journal.try_given_up(Some(id)))
    }

    /// Makes all that was answered until now durable in the log, as happens by itself every few seconds.
    ///
    /// # Errors
    /// What the store answers.
    pub fn sync(&self) -> Result<()> {
        self.journal.sync()
    }

    /// Makes all content durable that was written until now, in all branches, and the log.
    ///
    /// # Errors
    /// What the store answers.
    pub fn sync_content(&self) -> Result<()> {
        self.store.device().sync_all()?;
        self.journal.sync()?;
        self.try_all_given_up()
    }

    /// Tries once more to make durable what could not be.
    pub(super) fn try_all_given_up(&self) -> Result<()> {
        if !self.journal.has_given_up(None) {
            return Ok(());
        }
        let branches: Vec<Arc<Branch>> = self.catalog.read().all_branches().map(|(_, b)| b.clone()).collect();
        let _writers_are_out: Vec<_> = branches.iter().map(|branch| branch.keep_writers_out()).collect();
        self.journal.try_given_up(None)
    }

    /// Waits until the data writes are done that are under way in any branch.
    pub(super) fn drain_writers(&self) {
        let branches: Vec<Arc<Branch>> = self.catalog.read().all_branches().map(|(_, b)| b.clone()).collect();
        branches.iter().for_each(|branch| drop(branch.keep_writers_out()));
    }

    /// Makes the names of a directory durable.
    ///
    /// # Errors
    /// What the store answers.
    pub fn fsync_directory(&self, dir: InodeId) -> Result<()> {
        self.journal.sync_inode(dir)
    }
}
