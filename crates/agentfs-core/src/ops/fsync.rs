//! `fsync`.

use crate::error::Result;
use crate::fs_core::FsCore;
use crate::handle::Source;
use crate::types::HandleId;

impl FsCore {
    /// Makes what was written to the file durable in the store.
    ///
    /// # Errors
    /// `BadHandle`, and what the store answers.
    pub fn fsync(&self, handle: HandleId, data_only: bool) -> Result<()> {
        let handle = self.handles.get(handle)?;
        // The object is taken out of the lock: others may read and write while the disk works.
        let object = match &*handle.file.source.read() {
            Source::Object(_, object) => object.clone(),
            Source::Hole | Source::Unknown => return Ok(()),
        };
        Ok(object.sync(data_only)?)
    }
}
