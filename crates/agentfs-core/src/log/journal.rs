//! Where records go.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Record;
use crate::error::Result;
use crate::store::Durability;
use crate::types::{InodeId, ObjectId};

/// Takes each record before the change it speaks of is made; refusing it refuses the change.
pub trait Journal: Send + Sync {
    /// Takes a record. Before it is made durable, the objects in `first` are.
    ///
    /// # Errors
    /// When it could not be kept: the change must then not be made.
    fn append(&self, record: &Record, first: &[ObjectId]) -> Result<()>;

    /// Makes all records until now durable.
    ///
    /// # Errors
    /// When the store fails.
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// Makes the records until now durable, if any of them speaks of `ino`.
    ///
    /// # Errors
    /// When the store fails.
    fn sync_inode(&self, _ino: InodeId) -> Result<()> {
        Ok(())
    }

    /// The position behind the last record.
    fn position(&self) -> u64 {
        0
    }

    /// The position before which all is durable.
    fn durable(&self) -> u64 {
        0
    }
}

impl Durability for Arc<dyn Journal> {
    fn position(&self) -> u64 {
        (**self).position()
    }
    fn durable(&self) -> u64 {
        (**self).durable()
    }
}

/// Keeps nothing: for volumes that end with their daemon.
pub struct Unrecorded;

impl Journal for Unrecorded {
    fn append(&self, _record: &Record, _first: &[ObjectId]) -> Result<()> {
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
    fn append(&self, record: &Record, _first: &[ObjectId]) -> Result<()> {
        self.records.lock().push(record.clone());
        Ok(())
    }
}
