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

/// What lies at a path of the directory that a volume lies over, after an `apply`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct WrittenEntry {
    /// The path there.
    pub path: Vec<u8>,
    /// `removed`, `directory` or `file`.
    pub kind: Vec<u8>,
    /// Whether it was put there; else it was there, and is as it is to be.
    pub is_new: bool,
    /// The inode number that it has in the branch, without the number of the view.
    pub inode: u64,
    /// The change token of a file: see [`crate::change_token`].
    pub token: u64,
    /// When the file had been changed last in the branch; `None` when it may have been changed since at the same time.
    pub changed: Option<Time>,
}

/// A time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Time {
    /// Unix seconds, as the bits of an `i64`.
    pub secs: u64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// A file of the directory that a volume lies over whose change token is another.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TokenEntry {
    /// The path there.
    pub path: Vec<u8>,
    /// The token that it had.
    pub before: u64,
    /// The token that it has.
    pub now: u64,
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
