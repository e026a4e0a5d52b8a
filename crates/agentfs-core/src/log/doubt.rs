//! The note that something may not be durable that was to be: for the next mount on the same boot of the host, to which the
//! host says of what it forgot that it is written.

use std::io;

use tracing::warn;

use crate::store::{Device, FileId};

/// Leaves the note; false when that fails.
pub fn note_doubt(device: &dyn Device) -> bool {
    let noted = match device.create(FileId::Doubt) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|_| device.sync_names()),
    };
    noted.inspect_err(|error| warn!(%error, "the next mount will not know that a sync failed")).is_ok()
}

/// Is there a note?
///
/// # Errors
/// What the device answers.
pub fn is_doubtful(device: &dyn Device) -> io::Result<bool> {
    match device.open(FileId::Doubt) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        opened => opened.map(|_| true),
    }
}

/// Takes away the note that something may not be durable, if there is one.
///
/// # Errors
/// What the device answers.
pub fn forget_doubt(device: &dyn Device) -> io::Result<()> {
    match device.remove(FileId::Doubt) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
