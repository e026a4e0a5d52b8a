//! The operation model shared by the property, crash, concurrency and mounted tests.
//!
//! An [`Op`] is one call on a volume. [`Model`] says in plain maps what it must do; a [`Driver`] does it on
//! something real: [`CoreDriver`] on the core, others on a mount. [`Trial`] runs both and compares every answer
//! and, when asked, every tree. Drivers act as the superuser, with umask 0.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test support: what goes wrong here must stop the test at once, with its place"
)]

mod cases;
mod compare;
mod core_driver;
mod core_dump;
mod core_tree;
mod crash;
mod direct;
mod dump;
mod errno;
mod log_edit;
mod merging;
mod model;
mod op;
mod plant;
mod strategy;
mod threads;

pub use cases::{caught, random_cases, shortest};
pub use compare::{Answer, Driver, Mismatch, Outcome, Stat, Trial};
pub use core_driver::{CoreDriver, config};
pub use core_dump::dump;
pub use crash::{CrashDevice, Cut, Disk, Fault, Io};
pub use direct::direct_ops;
pub use dump::{Bytes, Dump, Node, Pairing};
pub use errno::errno;
pub use log_edit::{append_extent, rewrite_log, rewrite_payloads};
pub use merging::{merge, sound};
pub use model::Model;
pub use op::{
    FileOp, KeptOp, MAX_BRANCHES, MAX_SNAPSHOTS, NAMES, Op, Path, Place, ROOT_MODE, SLOTS, TARGETS, VolumeOp,
    XATTRS, pattern, pick,
};
pub use plant::plant;
pub use proptest;
pub use rustix::io::Errno;
pub use strategy::{file_ops, op, ops};
pub use threads::{Chance, Stop, within};
