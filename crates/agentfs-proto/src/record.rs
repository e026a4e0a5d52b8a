//! The things that responses tell of: snapshots, branches, settings and counts.

use ssz_derive::{Decode, Encode};

use crate::ids::format_id;
use crate::page::PageEntry;

/// A snapshot, as all clients know it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotRecord {
    /// Its id.
    pub id: Vec<u8>,
    /// Its name.
    pub name: Option<Vec<u8>>,
}

/// A branch, as all clients know it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchRecord {
    /// Its id.
    pub id: Vec<u8>,
    /// Its name.
    pub name: Option<Vec<u8>>,
    /// The id of the snapshot or branch it grew from; empty for main.
    pub parent: Vec<u8>,
}

/// A branch in a list.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchEntry {
    /// Its id.
    pub id: Vec<u8>,
    /// Its name.
    pub name: Option<Vec<u8>>,
    /// The id of the snapshot or branch it grew from; None for main.
    pub parent: Option<Vec<u8>>,
    /// When it was made, in Unix milliseconds.
    pub created_ms: u64,
    /// How many files are open in it.
    pub open_files: u32,
}

/// A snapshot in a list.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotEntry {
    /// Its id.
    pub id: Vec<u8>,
    /// Its name.
    pub name: Option<Vec<u8>>,
    /// The id of the branch it was made of.
    pub branch: Vec<u8>,
    /// When it was made, in Unix milliseconds.
    pub created_ms: u64,
    /// How many branches grew from it.
    pub children: u32,
}

/// How often the kernel asked for an operation.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RequestCount {
    /// The operation's name, as `lookup`.
    pub operation: Vec<u8>,
    /// How many requests were answered.
    pub count: u64,
    /// How long they took together, in nanoseconds.
    pub total_ns: u64,
}

/// A process that sees another branch than main, or lives in one.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ProcessEntry {
    /// Its number in the daemon's pid namespace, with leading zeros.
    pub key: Vec<u8>,
    /// Its number in the daemon's pid namespace.
    pub pid: u32,
    /// What it runs; cut off where it is long.
    pub command: Vec<u8>,
    /// The id of its branch.
    pub branch: Vec<u8>,
    /// Why: `bound`, `inherited` or `exec`.
    pub reason: Vec<u8>,
    /// Since when, in Unix milliseconds.
    pub since_ms: u64,
}

/// A path at which a snapshot differs from the directory that the volume lies over. Times are Unix nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ChangeEntry {
    /// The path, from the root on.
    pub path: Vec<u8>,
    /// `put`, `tree`, `inner`, `attributes` or `gone`.
    pub kind: Vec<u8>,
    /// What stands for the file of the directory that is relied on there: see [`crate::stamp`].
    pub seen: Option<u64>,
    /// What was changed there later the snapshot does not know of.
    pub not_after_ns: u64,
}

/// Something that was merged, restored, deleted or undone.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct EventEntry {
    /// Its number, with leading zeros.
    pub key: Vec<u8>,
    /// `merge`, `restore`, `delete` or `undo`.
    pub deed: Vec<u8>,
    /// When, in Unix milliseconds.
    pub when_ms: u64,
    /// The id of the branch that it was done to.
    pub branch: Vec<u8>,
    /// What that was called then.
    pub name: Option<Vec<u8>>,
    /// The id of what was merged or gone back to.
    pub source: Vec<u8>,
    /// What that was called then.
    pub source_name: Option<Vec<u8>>,
    /// The id of the snapshot of the state before.
    pub kept: Option<Vec<u8>>,
    /// Was it undone?
    pub is_undone: bool,
}

impl PageEntry for EventEntry {
    fn key(&self) -> &[u8] {
        &self.key
    }
}

impl PageEntry for ChangeEntry {
    fn key(&self) -> &[u8] {
        &self.path
    }
}

impl PageEntry for ProcessEntry {
    fn key(&self) -> &[u8] {
        &self.key
    }
}

impl PageEntry for BranchEntry {
    fn key(&self) -> &[u8] {
        &self.id
    }
}

impl PageEntry for SnapshotEntry {
    fn key(&self) -> &[u8] {
        &self.id
    }
}

impl PageEntry for RequestCount {
    fn key(&self) -> &[u8] {
        &self.operation
    }
}

/// One thing that was negotiated with the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Setting {
    /// What it is about.
    pub key: Vec<u8>,
    /// What was agreed.
    pub value: Vec<u8>,
}

impl SnapshotRecord {
    /// A snapshot by its id and name.
    pub fn new(id: u128, name: Option<&str>) -> Self {
        Self { id: wire_id(id), name: name.map(Into::into) }
    }
}

impl BranchRecord {
    /// A branch by its id, name and the id it grew from.
    pub fn new(id: u128, name: Option<&str>, parent: Option<u128>) -> Self {
        Self { id: wire_id(id), name: name.map(Into::into), parent: parent.map(wire_id).unwrap_or_default() }
    }
}

impl Setting {
    /// A setting and its value as they are shown.
    pub fn new(key: &str, value: impl ToString) -> Self {
        Self { key: key.into(), value: value.to_string().into_bytes() }
    }
}

fn wire_id(id: u128) -> Vec<u8> {
    format_id(id).into_bytes()
}
