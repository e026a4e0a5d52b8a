//! Requests about the directory that a volume lies over.

use std::os::fd::AsRawFd;

use agentfs_core::{Change, ChangeKind, FsError, Result, Timestamp};
use agentfs_proto::page::Page;
use agentfs_proto::record::ChangeEntry;
use agentfs_proto::request::{Applied, Changes, KeepLower};
use agentfs_proto::response::{AppliedReply, KeptReply, LowerReply};

use super::dispatch::Dispatcher;
use super::text;

impl Dispatcher {
    pub(super) fn changes(&self, asked: &Changes) -> Result<Page<ChangeEntry>> {
        let changes = self.core.changes(text(&asked.of)?)?;
        let is_later = |change: &&Change| asked.after.as_ref().is_none_or(|after| change.path > *after);
        Ok(Page::fill(changes.iter().filter(is_later).map(entry)))
    }

    pub(super) fn keep_lower(&self, asked: &KeepLower) -> Result<KeptReply> {
        Ok(KeptReply { files: self.core.keep_lower(&asked.paths, asked.deep)? })
    }

    pub(super) fn applied(&self, asked: Applied) -> Result<AppliedReply> {
        self.core.note_applied(text(&asked.branch)?, text(&asked.frozen)?, &asked.paths)?;
        Ok(AppliedReply { branch: asked.branch })
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
        ChangeKind::Inner => b"inner",
        ChangeKind::Attributes => b"attributes",
        ChangeKind::Gone => b"gone",
    };
    let (path, not_after_ns) = (change.path.clone(), unix_ns(change.not_after));
    ChangeEntry { path, kind: kind.into(), seen: change.seen, not_after_ns }
}

fn unix_ns(time: Timestamp) -> u64 {
    u64::try_from(time.secs).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(u64::from(time.nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_and_protocol_stamp_alike() {
        for (inode, secs, nanos) in
            [(1, 0, 0), (5_000_000_000, 1_700_000_000, 999_999_999), (u64::MAX, 4_000_000_000, 1)]
        {
            let time = Timestamp { secs, nanos };
            assert_eq!(agentfs_core::stamp(inode, time), agentfs_proto::stamp(inode, unix_ns(time)));
        }
    }
}
