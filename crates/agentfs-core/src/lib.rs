//! The AgentFS core: a branching filesystem without a kernel.
//!
//! A *version* is an immutable tree in persistent maps; a *branch* has one that changes, a *snapshot* one that
//! does not. Operations ([`FsCore`]'s methods, one file a verb in `ops/`) take a view and an inode, plan their
//! edits on the branch's state, hand them to the journal and apply them. Bytes live in objects of a store;
//! content made in a branch's present epoch is written in place, any other is copied first.
//!
//! Lock order, lowest first; none but the content lock is held over I/O on content:
//! 0 control (changes of the catalogue) · then the gate of files open past the daemon · 1 content lock of an open file · 2 epoch gate of a branch ·
//! 3 state of a branch · 4 catalogue, views · shards of the open-file, handle and lookup tables.

#![forbid(unsafe_code)]

mod branch;
mod compare;
mod config;
mod error;
mod fs_core;
mod handle;
mod log;
mod merge;
mod ops;
mod patience;
mod progress;
mod store;
mod tree;
mod types;

#[cfg(feature = "testing")]
pub mod testing;

pub use branch::{BranchInfo, Origin, SnapshotInfo, check_name};
pub use config::{Config, Materialization};
pub use error::{FsError, Result};
pub use fs_core::FsCore;
pub use log::{Damage, Journal, NewBranch, NewSnapshot, Record, Recorder, RootAttributes, Unrecorded};
pub use merge::{Conflict, ConflictKind, Policy, Step, Verb};
pub use ops::{
    ChangeKind, Changes, CreateMode, DiffStatus, Difference, DirEntry, Face, Finding, LOWER, MergeWish,
    Merged, OpenMode, Pages, Recovered, Reliance, RenameMode, Repaired, Report, Shown, Status, Strip, Undone,
    Usage, Writing, Written, WrittenPath, XattrMode, check_store, git_root, is_acl, repair_store,
};
pub use progress::Progress;
pub use store::{
    Device, FallocateFlags, FileId, FileStat, Folder, HostFs, Identity, LowerTree, Memory, ObjectFile,
    PackLimits, PackUse, Quota, Seek, Space, StoreError, change_token,
};
pub use tree::{Aside, CopySource, Edit, Entry, Fault, Inode, Version, check};
pub use types::{
    Attr, BranchId, Caller, Deed, Epoch, Event, FileKind, HandleId, InodeId, MAX_NAME_LEN, Name, ObjectId,
    PackId, ParseIdError, SetAttr, SetTime, SnapshotId, Timestamp, ViewId, kernel_stamps_are_possible,
    kernel_stamps_begin,
};
