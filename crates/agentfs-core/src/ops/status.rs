//! Figures about a volume.

use std::path::PathBuf;

use crate::error::Result;
use crate::fs_core::FsCore;
use crate::store::PackUse;
use crate::types::ViewId;

/// What a volume holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Branches.
    pub branches: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// Of them, and of the hidden states, so many are on disk alone.
    pub snapshots_on_disk: usize,
    /// Hidden states that merges may begin from.
    pub merge_points: usize,
    /// Open files, counted by handle.
    pub open_handles: usize,
    /// Inodes the kernel remembers.
    pub known_inodes: usize,
    /// Files and directories in `main`.
    pub main_inodes: usize,
    /// What the packs of small files hold.
    pub packs: PackUse,
    /// Bytes of the log since its last checkpoint, and of that.
    pub log: (u64, u64),
    /// Does the host share blocks when content is copied?
    pub reflinks: bool,
    /// The directory that the volume lies over, and how many files of it the kernel knows.
    pub lower: Option<(PathBuf, usize)>,
}

impl FsCore {
    /// Does the host copy content by sharing blocks, all of it at one moment?
    pub fn copies_at_once(&self) -> bool {
        self.store.device().reflinks()
    }

    /// What the volume holds now.
    ///
    /// # Errors
    /// `Stale` if there were no `main`.
    pub fn status(&self) -> Result<Status> {
        let (branches, snapshots, merge_points) = {
            let catalog = self.catalog.read();
            (catalog.branch_count(), catalog.snapshot_count(), catalog.all_points().count())
        };
        Ok(Status {
            branches,
            snapshots,
            snapshots_on_disk: self.pager.as_ref().map_or(0, |pager| pager.on_disk()),
            merge_points,
            open_handles: self.handles.len(),
            known_inodes: self.lookups.len(),
            main_inodes: self.views.get(ViewId::MAIN)?.read(|version| version.len())?,
            packs: self.store.packs.usage(),
            log: self.journal.lengths(),
            reflinks: self.copies_at_once(),
            lower: self.lower.as_ref().map(|lower| (lower.place().to_owned(), lower.known())),
        })
    }
}
