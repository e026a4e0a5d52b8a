//! `undo`, and deleting a branch in a way that can be undone.

use super::merge::Merged;
use crate::branch::{BranchInfo, SnapshotInfo};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::log::Record;
use crate::progress::Progress;
use crate::types::{BranchId, Deed, Event, Timestamp};

/// What was undone.
pub enum Undone {
    /// A merge, a restore or an import: the branch is what it was before.
    Restored(Deed, Box<Merged>),
    /// The deletion of a branch: this is it.
    Revived(BranchInfo),
}

impl FsCore {
    /// Deletes a branch, and keeps its last state as a snapshot until the next is deleted so. Returns its id, the snapshot, and
    /// the bytes that came back.
    ///
    /// # Errors
    /// As [`FsCore::delete_branch`] and [`FsCore::create_snapshot`].
    pub fn discard_branch(&self, branch: &str, force: bool) -> Result<(BranchId, SnapshotInfo, u64)> {
        let info = self.check_deletable(branch, force)?;
        let kept = self.keep_before(&info, Deed::Deleted)?;
        let (id, mut bytes) =
            self.delete_branch(&info.id.to_string(), true).inspect_err(|_| self.forget_kept(Some(&kept)))?;
        let earlier: Vec<Event> = {
            let catalog = self.catalog.read();
            let deleted = catalog.ancestry.events().iter().filter(|event| event.deed == Deed::Deleted);
            deleted.cloned().collect()
        };
        self.note(Event {
            deed: Deed::Deleted,
            when: Timestamp::now(),
            branch: id,
            name: info.name.clone(),
            source: id.0,
            source_name: info.name,
            kept: Some(kept.id),
            is_undone: false,
        })?;
        for kept in earlier.iter().filter_map(|event| event.kept) {
            // Somebody may have grown a branch from it, or given it a name of his own.
            let name = self.find_snapshot(&kept.to_string()).ok().and_then(|info| info.name);
            if name.is_some_and(|name| name.starts_with("before-delete-")) {
                bytes += self.delete_snapshot(&kept.to_string()).map_or(0, |(_, bytes)| bytes);
            }
        }
        Ok((id, kept, bytes))
    }

    /// Keeps the state of a branch as a snapshot, before files from elsewhere are copied into it: that can be undone then.
    ///
    /// # Errors
    /// `UnknownVersion`; as [`FsCore::create_snapshot`].
    pub fn begin_import(&self, branch: &str) -> Result<(BranchInfo, SnapshotInfo)> {
        let info = self.find_branch(branch)?;
        let kept = self.keep_before(&info, Deed::Imported)?;
        let noted = self.note(Event {
            deed: Deed::Imported,
            when: Timestamp::now(),
            branch: info.id,
            name: info.name.clone(),
            source: info.id.0,
            source_name: None,
            kept: Some(kept.id),
            is_undone: false,
        });
        noted.inspect_err(|_| self.forget_kept(Some(&kept)))?;
        Ok((info, kept))
    }

    /// Undoes what was done last of merges, restores and deletions. The state before that is kept as a snapshot, too.
    ///
    /// # Errors
    /// `Refused` when there is nothing to undo, or its snapshot is gone; as [`FsCore::restore`] and
    /// [`FsCore::create_branch`].
    pub fn undo(&self, progress: &Progress) -> Result<Undone> {
        let nothing = || FsError::Refused("there is nothing to undo".into());
        let event = self.to_undo().ok_or_else(nothing)?;
        let before = event.kept.ok_or_else(nothing)?;
        let (kept, source) = (before.to_string(), before.0);
        self.find_snapshot(&kept).map_err(|_| {
            FsError::Refused(format!("the snapshot {kept} of the state before is gone: it cannot be undone"))
        })?;
        if event.deed == Deed::Deleted {
            let revived = self.create_branch(&kept, event.name.as_deref())?;
            self.note(Event {
                deed: Deed::Undone,
                when: Timestamp::now(),
                branch: revived.id,
                source,
                ..event
            })?;
            return Ok(Undone::Revived(revived));
        }
        let branch = event.branch.to_string();
        let merged = self.insist(|is_urgent| {
            self.restore_once(&branch, &kept, &[], (false, is_urgent, Some(event.deed)), progress)
        })?;
        if !merged.is_noted {
            // It is as it was before already: that is noted all the same.
            let now = Timestamp::now();
            self.note(Event { deed: Deed::Undone, when: now, kept: None, source, ..event.clone() })?;
        }
        Ok(Undone::Restored(event.deed, Box::new(merged)))
    }

    /// What [`FsCore::undo`] would undo.
    pub fn to_undo(&self) -> Option<Event> {
        self.catalog.read().ancestry.to_undo().cloned()
    }

    /// What was done, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.catalog.read().ancestry.events().to_vec()
    }

    fn note(&self, event: Event) -> Result<()> {
        let control = self.control.lock();
        self.journal.append(&Record::Happened(event.clone()))?;
        self.catalog.write().ancestry.note(event);
        drop(control);
        self.journal.sync()
    }
}
