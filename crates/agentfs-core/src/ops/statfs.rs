//! `statfs`.

use crate::error::Result;
use crate::fs_core::FsCore;
use crate::store::Space;

impl FsCore {
    /// The room in the filesystem that holds the store.
    ///
    /// # Errors
    /// What the store answers.
    pub fn statfs(&self) -> Result<Space> {
        Ok(self.store.device().space()?)
    }
}
