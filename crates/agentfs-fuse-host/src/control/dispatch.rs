//! Requests of the control protocol, carried out: one arm a message.

use std::sync::Arc;

use agentfs_core::Caller;
use agentfs_core::{BranchInfo, FsCore, FsError, Origin, Result, SnapshotInfo, Timestamp, ViewId};
use agentfs_proto::ids::format_id;
use agentfs_proto::page::Page;
use agentfs_proto::record::{
    BranchEntry, BranchRecord, RequestCount, Setting, SnapshotEntry, SnapshotRecord,
};
use agentfs_proto::response::{
    BranchDeleteReply, BranchReply, SnapshotDeleteReply, SnapshotListReply, SnapshotReply, StatusReply,
};
use agentfs_proto::{Request, Response};

use super::Identity;
use super::authorize::authorize;
use crate::adapter::errno;
use crate::metrics::Metrics;
use crate::views::{NodeId, Special};

/// More entries than fit a frame.
const PAGE: usize = 128;

pub(super) struct Dispatcher {
    pub(super) core: Arc<FsCore>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) identity: Identity,
}

impl Dispatcher {
    /// Carries a request out. `view` is the one whose control file was asked.
    pub(super) fn respond(&self, view: ViewId, caller: Caller, request: Request) -> Response {
        let result = authorize(caller, self.identity.owner).and_then(|()| self.dispatch(view, request));
        result.unwrap_or_else(|error| Response::error(&error.to_string(), errno(&error).code() as u32))
    }

    fn dispatch(&self, view: ViewId, request: Request) -> Result<Response> {
        let core = &self.core;
        Ok(match request {
            Request::SnapshotCreate(r) => Response::SnapshotCreate(self.take_snapshot(view, &[], &r.name)?),
            Request::BranchSnapshot(r) => {
                Response::BranchSnapshot(self.take_snapshot(view, &r.branch, &r.name)?)
            }
            Request::SyncedSnapshot(r) => {
                let taken = self.take_snapshot(view, &r.branch, &r.name)?;
                core.sync_content()?;
                Response::SyncedSnapshot(taken)
            }
            Request::SnapshotList => Response::SnapshotList(SnapshotListReply {
                snapshots: core.list_snapshots(None, usize::MAX).iter().map(snapshot_record).collect(),
            }),
            Request::SnapshotPage(r) => Response::SnapshotPage(self.snapshot_page(r.after.as_deref())?),
            Request::SnapshotDelete(r) => {
                let (id, bytes_reclaimed) = core.delete_snapshot(text(&r.snapshot)?)?;
                Response::SnapshotDelete(SnapshotDeleteReply {
                    snapshot: id.to_string().into(),
                    bytes_reclaimed,
                })
            }
            Request::SnapshotRename(r) => {
                let info = core.rename_snapshot(text(&r.snapshot)?, text(&r.name)?)?;
                core.snapshot_view(&info).into_iter().for_each(|view| self.refresh_link(view));
                Response::SnapshotRename(snapshot_reply(&info))
            }
            Request::BranchCreate(r) => {
                Response::BranchCreate(branch_reply(&core.create_branch(text(&r.from)?, name(&r.name)?)?))
            }
            Request::BranchList(r) => Response::BranchList(self.branch_page(r.after.as_deref())?),
            Request::BranchDelete(r) => {
                let (id, bytes_reclaimed) = core.delete_branch(text(&r.branch)?, r.force)?;
                Response::BranchDelete(BranchDeleteReply { branch: id.to_string().into(), bytes_reclaimed })
            }
            Request::BranchRename(r) => {
                let info = core.rename_branch(text(&r.branch)?, text(&r.name)?)?;
                self.refresh_link(info.view);
                Response::BranchRename(branch_reply(&info))
            }
            Request::Status => Response::Status(self.status()?),
            Request::RequestCounts(r) => Response::RequestCounts(self.request_counts(r.after.as_deref())),
            // A binding without effect would send clients to main.
            Request::BranchBind(_) | Request::BranchUnbind(_) => {
                return Err(FsError::Unsupported(
                    "binding processes is not supported yet; work under .agentfs/branches/<name> instead",
                ));
            }
            Request::SnapshotExport(_) | Request::SnapshotExportRelease(_) => {
                return Err(FsError::Unsupported(
                    "exporting is not supported; read the snapshot under .agentfs/snapshots/<name> instead",
                ));
            }
        })
    }

    /// The kernel keeps the targets of links; that in `by-id` leads to a name that has changed. This waits at most for
    /// a `readlink` that a thread of the kernel's is answering.
    fn refresh_link(&self, view: ViewId) {
        let node = NodeId::special(view, Special::IdLink);
        let told = self.identity.notifier.get().map(|notifier| notifier.inval_inode(node.into(), 0, 0));
        if let Some(Err(error)) = told {
            tracing::warn!(%error, "a link in by-id may lead to its old name for a while");
        }
    }

    /// Takes a snapshot of the branch that was named, or of the one whose control file was asked.
    fn take_snapshot(&self, view: ViewId, branch: &[u8], called: &Option<Vec<u8>>) -> Result<SnapshotReply> {
        let branch = self.branch_or_own(view, branch)?;
        Ok(snapshot_reply(&self.core.create_snapshot(&branch, name(called)?)?))
    }

    /// The branch that was named, or the one whose control file was asked.
    fn branch_or_own(&self, view: ViewId, branch: &[u8]) -> Result<String> {
        if branch.is_empty() {
            return Ok(self.core.branch_of(view)?.to_string());
        }
        Ok(text(branch)?.to_owned())
    }

    fn branch_page(&self, after: Option<&[u8]>) -> Result<Page<BranchEntry>> {
        let branches = self.core.list_branches(parse(after)?, PAGE);
        Ok(Page::fill(branches.iter().map(|info| BranchEntry {
            id: info.id.to_string().into(),
            name: bytes(info.name.as_deref()),
            parent: parent(info).map(|id| format_id(id).into()),
            created_ms: unix_ms(info.created),
            open_files: self.core.open_files_of(info) as u32,
        })))
    }

    fn snapshot_page(&self, after: Option<&[u8]>) -> Result<Page<SnapshotEntry>> {
        let snapshots = self.core.list_snapshots(parse(after)?, PAGE);
        Ok(Page::fill(snapshots.iter().map(|info| SnapshotEntry {
            id: info.id.to_string().into(),
            name: bytes(info.name.as_deref()),
            branch: info.branch.to_string().into(),
            created_ms: unix_ms(info.created),
            children: self.core.children_of(info) as u32,
        })))
    }

    fn request_counts(&self, after: Option<&[u8]>) -> Page<RequestCount> {
        let later = |name: &&'static str| after.is_none_or(|after| name.as_bytes() > after);
        Page::fill(
            self.metrics
                .counts()
                .filter(|(name, ..)| later(name))
                .map(|(name, count, total_ns)| RequestCount { operation: name.into(), count, total_ns }),
        )
    }

    fn status(&self) -> Result<StatusReply> {
        let status = self.core.status()?;
        let granted = self.identity.granted.get().into_iter().flatten();
        let store = [
            ("packs", status.packs.packs as u64),
            ("pack_bytes", status.packs.bytes),
            ("pack_live_bytes", status.packs.live),
            ("log_bytes", status.log.0),
            ("checkpoint_bytes", status.log.1),
        ];
        Ok(StatusReply {
            version: env!("CARGO_PKG_VERSION").into(),
            store: self.identity.store.clone().into(),
            owner_uid: self.identity.owner,
            uptime_ms: self.metrics.uptime().as_millis() as u64,
            branches: status.branches as u32,
            snapshots: status.snapshots as u32,
            open_handles: status.open_handles as u32,
            known_inodes: status.known_inodes as u64,
            inodes: status.main_inodes as u64,
            reflink: status.reflinks,
            settings: granted
                .map(|(key, value)| Setting::new(key, value))
                .chain(store.iter().map(|(key, value)| Setting::new(key, value.to_string())))
                .collect(),
        })
    }
}

/// Ids and names are text.
fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| FsError::BadName("an id or a name is UTF-8".into()))
}

fn name(name: &Option<Vec<u8>>) -> Result<Option<&str>> {
    name.as_deref().map(text).transpose()
}

/// Where a page begins.
fn parse<T: std::str::FromStr>(after: Option<&[u8]>) -> Result<Option<T>> {
    let wrong = |_| FsError::BadName("a list goes on after an id".into());
    after.map(|after| text(after)?.parse().map_err(wrong)).transpose()
}

fn bytes(name: Option<&str>) -> Option<Vec<u8>> {
    name.map(|name| name.as_bytes().to_vec())
}

fn unix_ms(time: Timestamp) -> u64 {
    u64::try_from(time.secs).unwrap_or(0) * 1000 + u64::from(time.nanos / 1_000_000)
}

fn parent(info: &BranchInfo) -> Option<u128> {
    match info.origin {
        Origin::Empty => None,
        Origin::Snapshot(id) => Some(id.0),
        Origin::Branch(id) => Some(id.0),
    }
}

fn branch_reply(info: &BranchInfo) -> BranchReply {
    BranchReply { branch: BranchRecord::new(info.id.0, info.name.as_deref(), parent(info)) }
}

fn snapshot_record(info: &SnapshotInfo) -> SnapshotRecord {
    SnapshotRecord::new(info.id.0, info.name.as_deref())
}

fn snapshot_reply(info: &SnapshotInfo) -> SnapshotReply {
    SnapshotReply { snapshot: snapshot_record(info) }
}
