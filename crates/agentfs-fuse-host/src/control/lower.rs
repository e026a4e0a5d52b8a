//! Requests about the directory that a volume lies over.

use std::os::fd::AsRawFd;

use agentfs_core::{Change, ChangeKind, FsError, Result, Timestamp};
use agentfs_proto::page::Page;
use agentfs_proto::record::{ChangeEntry, SeenFile};
use agentfs_proto::request::Changes;
use agentfs_proto::response::LowerReply;

use super::dispatch::Dispatcher;
use super::text;

impl Dispatcher {
    pub(super) fn changes(&self, asked: &Changes) -> Result<Page<ChangeEntry>> {
        let changes = self.core.changes(text(&asked.snapshot)?)?;
        let is_later = |change: &&Change| asked.after.as_ref().is_none_or(|after| change.path > *after);
        Ok(Page::fill(changes.iter().filter(is_later).map(entry)))
    }

    pub(super) fn lower(&self) -> Result<LowerReply> {
        let none = || FsError::Refused("this volume lies over no directory".into());
        let directory = self.core.lower_descriptor().ok_or_else(none)?;
        let stat = rustix::fs::fstat(directory)?;
        Ok(LowerReply {
            pid: std::process::id(),
            descriptor: directory.as_raw_fd().unsigned_abs(),
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }
}

fn entry(change: &Change) -> ChangeEntry {
    let kind: &[u8] = match change.kind {
        ChangeKind::Put => b"put",
        ChangeKind::Tree => b"tree",
        ChangeKind::Attributes => b"attributes",
        ChangeKind::Gone => b"gone",
    };
    let seen = change.seen.map(|(identity, changed)| SeenFile {
        inode: identity.ino,
        born_ns: unix_ns(identity.born),
        changed_ns: unix_ns(changed),
    });
    ChangeEntry {
        path: change.path.clone(),
        kind: kind.into(),
        seen,
        not_after_ns: unix_ns(change.not_after),
    }
}

fn unix_ns(time: Timestamp) -> u64 {
    u64::try_from(time.secs).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(u64::from(time.nanos))
}
