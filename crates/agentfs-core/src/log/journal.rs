//! Where records go.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Record;
use crate::error::Result;
use crate::store::Durability;
use crate::types::{InodeId, ObjectId};

/// Takes each record before the change it speaks of is made; refusing it refuses the change.
pub trait Journal: Send + Sync {
    /// Takes a record. Before it is made durable, the objects are that it says were to be before.
    ///
    /// # Errors
    /// When it could not be kept: the change must then not be made.
    fn append(&self, record: &Record) -> Result<()>;

    /// Takes several records at once: all of them or none.
    ///
    /// # Errors
    /// As [`Journal::append`].
    fn append_all(&self, records: &[Record]) -> Result<()> {
        records.iter().try_for_each(|record| self.append(record))
    }

    /// Makes all records until now durable.
    ///
    /// # Errors
    /// When the store fails.
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// Makes all records durable, and notes that the volume was closed. The caller has made all content durable.
    ///
    /// # Errors
    /// When the store fails.
    fn close(&self) -> Result<()> {
        self.sync()
    }

    /// Makes the records until now durable, if any of them speaks of `ino`.
    ///
    /// # Errors
    /// When the store fails.
    fn sync_inode(&self, _ino: InodeId) -> Result<()> {
        Ok(())
    }

    /// Could this object, or any, not be made durable that was to be before a record?
    fn has_given_up(&self, _object: Option<ObjectId>) -> bool {
        false
    }

    /// Tries that once more. Nobody writes to the object meanwhile.
    ///
    /// # Errors
    /// When the store still cannot.
    fn try_given_up(&self, _object: Option<ObjectId>) -> Result<()> {
        Ok(())
    }

    /// This object could not be made durable: that is remembered until it can, by the next mount too.
    fn give_up(&self, _object: ObjectId) {}

    /// Nothing that was noted to be in doubt is so, unless something else is.
    fn end_doubt(&self) {}

    /// Of nothing until now, and of none of these objects, is it known whether it is durable: as after a failed sync.
    fn doubt(&self, _objects: Vec<ObjectId>) {}

    /// The position behind the last record.
    fn position(&self) -> u64 {
        0
    }

    /// The position before which all is durable.
    fn durable(&self) -> u64 {
        0
    }

    /// Makes room for a checkpoint: what is appended from now on follows it. Returns the number of the checkpoint's
    /// piece; `None` when nothing is kept.
    ///
    /// # Errors
    /// When the store fails.
    fn begin_checkpoint(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Makes content durable that must be before the records that name it. Nobody writes to objects meanwhile.
    ///
    /// # Errors
    /// When the store fails.
    fn sync_content(&self) -> Result<()> {
        Ok(())
    }

    /// The checkpoint that was begun is durable, with the content it names; it is `len` bytes long.
    fn end_checkpoint(&self, _len: u64) {}

    /// Bytes since the last checkpoint, and of that one.
    fn lengths(&self) -> (u64, u64) {
        (0, 0)
    }

    /// The bytes that are left for records that give space back, when the host is full.
    fn spare(&self) -> Option<u64> {
        None
    }

    /// Did a sync fail? Then nothing is taken until there is a new checkpoint.
    fn is_poisoned(&self) -> bool {
        false
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
