//! Where records go.

use parking_lot::Mutex;

use super::Record;
use crate::error::Result;

/// Takes each record before the change it speaks of is made; refusing it refuses the change.
pub trait Journal: Send + Sync {
    /// Takes a record.
    ///
    /// # Errors
    /// When it could not be kept: the change must then not be made.
    fn append(&self, record: &Record) -> Result<()>;
}

/// Keeps nothing: for volumes that end with their daemon.
pub struct Unrecorded;

impl Journal for Unrecorded {
    fn append(&self, _record: &Record) -> Result<()> {
        Ok(())
    }
}

/// Keeps all records in memory, to be looked at and repeated.
#[derive(Default)]
pub struct Recorder {
    records: Mutex<Vec<Record>>,
}

impl Recorder {
    /// All records until now, oldest first.
    pub fn records(&self) -> Vec<Record> {
        self.records.lock().clone()
    }
}

impl Journal for Recorder {
    fn append(&self, record: &Record) -> Result<()> {
        self.records.lock().push(record.clone());
        Ok(())
    }
}
