//! `fsync`.

use std::io;
use std::sync::Arc;

use crate::branch::Branch;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::{OpenFile, Source};
use crate::log;
use crate::store::{Backing, FileId, Folder, ObjectFile};
use crate::types::{HandleId, InodeId, ObjectId};

/// What the host may have forgotten is written anew when nobody else writes to it.
pub(super) fn waits_for_direct_writers() -> FsError {
    let words = "the host could not write some content: that is tried again when files that are written past the daemon are closed";
    FsError::Io(io::Error::other(words))
}

/// An object to be synced; and its file, when that notes what is durable.
type Unsynced = (ObjectId, Arc<dyn ObjectFile>, Option<Arc<Backing>>);

impl FsCore {
    /// Makes what was written to the file durable in the store.
    ///
    /// # Errors
    /// `BadHandle`, and what the store answers.
    pub fn fsync(&self, handle: HandleId, data_only: bool) -> Result<()> {
        let handle = self.handles.get(handle)?;
        // Objects are taken out of the lock: others may read and write while the disk works.
        let objects = self.unsynced_objects(&*self.source_to_read(&handle.file)?, &handle.file)?;
        for (id, object, backing) in objects {
            let changes = backing.as_ref().map(|backing| backing.changes());
            // The host tells of it once.
            object.sync(data_only).inspect_err(|_| self.journal.give_up(id))?;
            backing.iter().zip(changes).for_each(|(backing, changes)| backing.is_synced_to(changes));
        }
        self.journal.sync_inode(handle.file.ino)?;
        self.try_given_up(&handle.file)
    }

    /// The objects that hold what was written to a file and is not known to be durable.
    fn unsynced_objects(&self, source: &Source, file: &OpenFile) -> Result<Vec<Unsynced>> {
        Ok(match source {
            Source::Object(object, open) => vec![(object.id, open.clone(), None)],
            Source::Layered(layered) => {
                let layers = self.layered_file(file, layered)?.layers;
                let unsynced =
                    layers.owners().map(|owner| &owner.backing).filter(|backing| !backing.is_synced());
                let opened = |backing: &Arc<Backing>| {
                    Ok((backing.id, layered.opens.get(backing.id)?, Some(backing.clone())))
                };
                unsynced.map(opened).collect::<io::Result<_>>()?
            }
            // Small content is synced with the log.
            Source::Hole | Source::Small(_) | Source::Unknown | Source::Lower(..) => Vec::new(),
        })
    }

    /// The host may have forgotten what it could not write of a file, and say nothing of it any more.
    fn try_given_up(&self, file: &OpenFile) -> Result<()> {
        let given_up = |source: &Source| -> Vec<ObjectId> {
            let objects = match source {
                Source::Object(object, _) => vec![object.id],
                Source::Layered(layered) => self
                    .layered_file(file, layered)
                    .map_or(Vec::new(), |file| file.layers.owners().map(|owner| owner.backing.id).collect()),
                _ => Vec::new(),
            };
            objects.into_iter().filter(|id| self.journal.has_given_up(Some(*id))).collect()
        };
        if !self.journal.has_given_up(None) || given_up(&file.source.read()).is_empty() {
            return Ok(());
        }
        // Nobody writes meanwhile.
        let _gate = self.direct.gate.write();
        if file.is_written_directly() {
            return Err(waits_for_direct_writers());
        }
        let source = file.source.write();
        given_up(&source).into_iter().try_for_each(|id| self.journal.try_given_up(Some(id)))
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
        self.sync_all()?;
        self.journal.sync()?;
        self.try_all_given_up()
    }

    /// Makes all files of the store durable, written by whomever.
    ///
    /// # Errors
    /// What the store answers; what could not be written is then remembered, and written anew by and by.
    pub(crate) fn sync_all(&self) -> Result<()> {
        let Err(error) = self.store.device().sync_all() else { return Ok(()) };
        let failed = self.sync_each(&error)?;
        if failed.is_empty() {
            // Of what the host has evicted since it says no more; it may also be another program's.
            self.journal.end_doubt();
            return Err(error.into());
        }
        if failed.iter().any(|id| !matches!(id, FileId::Object(_))) {
            self.store.packs.doubt();
        }
        let object = |id: &FileId| if let FileId::Object(id) = id { Some(*id) } else { None };
        self.journal.doubt(failed.iter().filter_map(object).collect());
        Err(io::Error::other("some content could not be made durable, and is written anew").into())
    }

    /// The host says once that it could not write something, and not what. Asked file by file, it does. Returns the files
    /// that are not durable.
    pub(super) fn sync_each(&self, error: &io::Error) -> io::Result<Vec<FileId>> {
        let device = self.store.device();
        // What is told now is not told again: a mount after a kill in between is to know.
        log::note_doubt(device);
        tracing::warn!(%error, "the host could not write everything: all files are synced one by one");
        let mut files = self.store.files()?;
        files.extend(device.list(Folder::Log)?.into_iter().filter(|id| matches!(id, FileId::Log(_))));
        files.retain(|id| match device.open(*id).and_then(|file| file.sync(true)) {
            Err(e) => e.kind() != io::ErrorKind::NotFound,
            Ok(()) => false,
        });
        Ok(files)
    }

    /// Tries once more to make durable what could not be.
    pub(super) fn try_all_given_up(&self) -> Result<()> {
        if !self.journal.has_given_up(None) {
            return Ok(());
        }
        let _gate = self.direct.gate.write();
        if self.direct.any_writers() {
            return Err(waits_for_direct_writers());
        }
        let branches = self.all_branches();
        let _writers_are_out: Vec<_> = branches.iter().map(|branch| branch.keep_writers_out()).collect();
        self.journal.try_given_up(None)
    }

    /// Waits until the data writes are done that are under way in any branch.
    pub(super) fn drain_writers(&self) {
        self.all_branches().iter().for_each(|branch| drop(branch.keep_writers_out()));
    }

    /// In the order of their ids.
    pub(super) fn all_branches(&self) -> Vec<Arc<Branch>> {
        self.catalog.read().all_branches().map(|(_, branch)| branch.clone()).collect()
    }

    /// Makes the names of a directory durable.
    ///
    /// # Errors
    /// What the store answers.
    pub fn fsync_directory(&self, dir: InodeId) -> Result<()> {
        self.journal.sync_inode(dir)
    }
}
