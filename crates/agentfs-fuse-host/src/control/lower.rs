//! Requests about the directory that a volume lies over.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use agentfs_core::{
    ChangeKind, Changes, CopySource, FsError, InodeId, Reliance, Result, Timestamp, Written, WrittenPath,
};
use agentfs_proto::Request;
use agentfs_proto::record::WrittenEntry;
use agentfs_proto::request::{ApplyNote, ApplyStart, KeepLower};
use agentfs_proto::response::{GateReply, JobReply, KeptReply, LowerReply, NotedReply};
use agentfs_proto::result::{ApplyResult, ChangeRecord, RelianceRecord};

use super::dispatch::Dispatcher;
use super::{Asker, text};
use crate::processes;

impl Dispatcher {
    pub(super) fn collect_changes(self: &Arc<Self>, asked: &ApplyStart) -> Result<JobReply> {
        let (of, its) = (text(&asked.of)?.to_owned(), self.clone());
        self.jobs.start("apply", move |_| Ok(apply_result(its.core.changes(&of)?).encode()))
    }

    pub(super) fn keep_lower(&self, asked: &KeepLower) -> Result<KeptReply> {
        Ok(KeptReply { files: self.core.keep_lower(&asked.paths, asked.deep)? })
    }

    pub(super) fn note_applied(&self, asked: ApplyNote) -> Result<NotedReply> {
        let count = (asked.written.len() + asked.tokens.len()) as u64;
        if !asked.branch.is_empty() {
            let written = asked.written.into_iter().map(written).collect::<Result<Vec<_>>>()?;
            self.core.note_written(text(&asked.branch)?, &written)?;
        }
        let tokens: Vec<_> =
            asked.tokens.into_iter().map(|entry| (entry.path, entry.before, entry.now)).collect();
        if !tokens.is_empty() {
            self.core.note_tokens(&tokens)?;
        }
        Ok(NotedReply { count })
    }

    /// Returns whether a request waits until files below are replaced.
    pub(super) fn is_to_wait(&self, request: &Request) -> bool {
        let is_freezing = matches!(
            request,
            Request::SnapshotCreate(_)
                | Request::BranchSnapshot(_)
                | Request::SyncedSnapshot(_)
                | Request::FuzzySnapshot(_)
                | Request::BranchCreate(_)
                | Request::BranchDiscard(_)
                | Request::ImportBegin(_)
        );
        is_freezing && self.core.is_replacing()
    }

    pub(super) fn gate(&self, asker: Asker, is_closed: bool) -> Result<GateReply> {
        if !is_closed {
            self.core.end_replacing();
            return Ok(GateReply { is_closed });
        }
        let is_alive = processes::watch(asker.tid).ok_or(FsError::UnknownCaller)?;
        self.core.begin_replacing(is_alive);
        Ok(GateReply { is_closed })
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

fn apply_result(found: Changes) -> ApplyResult {
    let change = |(path, kind): (Arc<[u8]>, ChangeKind)| {
        let (kind, from, is_as_relied_on): (&[u8], _, _) = match kind {
            ChangeKind::Put { from, is_copied: false } => (b"put", from, true),
            ChangeKind::Put { from, is_copied: true } => (b"copied", from, true),
            ChangeKind::Tree { from } => (b"tree", from, true),
            ChangeKind::Attributes { is_as_relied_on } => (b"attributes", None, is_as_relied_on),
            ChangeKind::Gone => (b"gone", None, true),
        };
        let from = from.map(|from| from.to_vec());
        ChangeRecord { path: path.to_vec(), kind: kind.into(), from, is_as_relied_on }
    };
    let reliance = |(path, reliance): (Arc<[u8]>, Reliance)| {
        let (kind, token, until_ns): (&[u8], _, _) = match reliance {
            Reliance::Absent => (b"absent", 0, 0),
            Reliance::Directory => (b"directory", 0, 0),
            Reliance::File(token) => (b"file", token, 0),
            Reliance::Until(token, until) => (b"until", token, unix_ns(until)),
        };
        RelianceRecord { path: path.to_vec(), kind: kind.into(), token, until_ns }
    };
    ApplyResult {
        changes: found.changes.into_iter().map(change).collect(),
        relies_on: found.relies_on.into_iter().map(reliance).collect(),
        shown: found.shown.iter().map(|path| path.to_vec()).collect(),
        linked: found.linked.iter().map(|ino| ino.0).collect(),
        since_ns: unix_ns(found.since),
    }
}

fn written(entry: WrittenEntry) -> Result<WrittenPath> {
    if entry.inode >= InodeId::LIMIT {
        return Err(FsError::InvalidArgument("an inode number is out of range"));
    }
    let ino = InodeId(entry.inode);
    let written = match entry.kind.as_slice() {
        b"removed" => Written::Removed,
        b"directory" => Written::Directory(ino),
        b"file" => {
            let copy_of = entry.changed.map(|time| {
                let changed = Timestamp { secs: time.secs as i64, nanos: time.nanos.min(999_999_999) };
                CopySource { ino, changed }
            });
            Written::File { token: entry.token, copy_of }
        }
        _ => {
            return Err(FsError::InvalidArgument(
                "what was written is neither a file, a directory nor removed",
            ));
        }
    };
    Ok(WrittenPath { path: entry.path, written, is_new: entry.is_new })
}

fn unix_ns(time: Timestamp) -> u64 {
    u64::try_from(time.secs).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(u64::from(time.nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_and_protocol_have_the_same_name_of_the_control_directory() {
        assert_eq!(crate::views::DOT_AGENTFS, agentfs_proto::names::CONTROL_DIRECTORY.as_bytes());
    }

    #[test]
    fn core_and_protocol_have_the_same_change_tokens() {
        for (inode, secs, nanos) in
            [(1, 0, 0), (5_000_000_000, 1_700_000_000, 999_999_999), (u64::MAX, 4_000_000_000, 1)]
        {
            let time = Timestamp { secs, nanos };
            assert_eq!(
                agentfs_core::change_token(inode, time),
                agentfs_proto::change_token(inode, unix_ns(time))
            );
        }
    }
}
