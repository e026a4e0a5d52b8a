//! Requests of the control protocol, carried out: one arm a message.

use std::path::PathBuf;
use std::sync::Arc;

use agentfs_core::{BranchId, BranchInfo, FsCore, FsError, Origin, Result, SnapshotInfo, Timestamp, ViewId};
use agentfs_proto::ids::format_id;
use agentfs_proto::page::Page;
use agentfs_proto::record::{
    BranchEntry, BranchRecord, RequestCount, Setting, SnapshotEntry, SnapshotRecord,
};
use agentfs_proto::request::BranchDelete;
use agentfs_proto::response::{
    BranchDeleteReply, BranchReply, ImportReply, SnapshotDeleteReply, SnapshotListReply, SnapshotReply,
    StatusReply, UsageReply,
};
use agentfs_proto::{Request, Response};
use rustix::io::Errno;

use super::jobs::Jobs;
use super::{Asker, Identity, text};
use crate::adapter::errno;
use crate::flusher::{Flusher, Unwritten};
use crate::metrics::Metrics;
use crate::processes::Bindings;
use crate::views::{Caching, Node, NodeId, PidView, Special};

/// More entries than fit a frame.
const PAGE: usize = 128;

/// Of which moment a frozen version has what is written meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exactness {
    OneMoment,
    Any,
}

pub(super) struct Dispatcher {
    pub(super) core: Arc<FsCore>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) bindings: Arc<Bindings>,
    pub(super) caching: Arc<Caching>,
    pub(super) pid_view: Arc<PidView>,
    pub(super) flusher: Arc<Flusher>,
    pub(super) identity: Identity,
    pub(super) jobs: Jobs,
}

impl Dispatcher {
    /// Carries a request out.
    pub(super) fn respond(self: &Arc<Self>, asker: Asker, request: Request) -> Response {
        self.dispatch(asker, request)
            .unwrap_or_else(|error| Response::error(&error.to_string(), errno(&error).code() as u32))
    }

    fn dispatch(self: &Arc<Self>, asker: Asker, request: Request) -> Result<Response> {
        let core = &self.core;
        Ok(match request {
            Request::SnapshotCreate(r) => {
                Response::SnapshotCreate(self.take_snapshot(asker, &[], &r.name)?)
            }
            Request::BranchSnapshot(r) => {
                Response::BranchSnapshot(self.take_snapshot(asker, &r.branch, &r.name)?)
            }
            Request::SyncedSnapshot(r) => {
                let taken = self.take_snapshot(asker, &r.branch, &r.name)?;
                core.sync_content()?;
                Response::SyncedSnapshot(taken)
            }
            Request::FuzzySnapshot(r) => {
                let branch = self.to_be_frozen(asker, &r.branch, Exactness::Any)?;
                Response::FuzzySnapshot(snapshot_reply(&core.create_fuzzy_snapshot(&branch, name(&r.name)?)?))
            }
            Request::SnapshotList => Response::SnapshotList(SnapshotListReply {
                snapshots: core.list_snapshots(None, PAGE).iter().map(snapshot_record).collect(),
            }),
            Request::SnapshotPage(r) => Response::SnapshotPage(self.snapshot_page(r.after.as_deref())?),
            Request::SnapshotDelete(r) => {
                let (id, bytes_reclaimed) = core.delete_snapshot(text(&r.snapshot)?)?;
                self.prune(&id.to_string());
                Response::SnapshotDelete(SnapshotDeleteReply {
                    snapshot: id.to_string().into(),
                    bytes_reclaimed,
                })
            }
            Request::SnapshotRename(r) => {
                let info = core.rename_snapshot(text(&r.snapshot)?, text(&r.name)?)?;
                Response::SnapshotRename(snapshot_reply(&info))
            }
            Request::BranchCreate(r) => {
                let from = text(&r.from)?;
                if core.find_branch(from).is_ok() {
                    self.write_mapped(from, Exactness::OneMoment)?;
                }
                Response::BranchCreate(branch_reply(&core.create_branch(from, name(&r.name)?)?))
            }
            Request::BranchList(r) => Response::BranchList(self.branch_page(r.after.as_deref())?),
            Request::BranchDelete(r) => Response::BranchDelete(self.delete_branch(asker, &r)?),
            Request::BranchRename(r) => {
                let info = core.rename_branch(text(&r.branch)?, text(&r.name)?)?;
                Response::BranchRename(branch_reply(&info))
            }
            Request::Status => Response::Status(self.status()?),
            Request::RequestCounts(r) => Response::RequestCounts(self.request_counts(r.after.as_deref())),
            Request::BranchBind(r) => Response::BranchBind(self.bind(asker, text(&r.branch)?, r.pid)?),
            Request::BranchUnbind(r) => Response::BranchUnbind(self.unbind(asker, r.pid)?),
            Request::BranchEnter(r) => Response::BranchEnter(self.enter(asker, text(&r.branch)?)?),
            Request::Whoami(r) => Response::Whoami(self.whoami(asker, r.pid)?),
            Request::ProcessList(r) => Response::ProcessList(self.process_page(r.after.as_deref())?),
            Request::BranchUsage(r) => Response::BranchUsage(self.usage(text(&r.branch)?)?),
            Request::Stop(r) => Response::Stop(self.stop(asker, &r.how)?),
            Request::KeepLower(r) => Response::KeepLower(self.keep_lower(&r)?),
            Request::ApplyStart(r) => Response::ApplyStart(self.collect_changes(&r)?),
            Request::ApplyNote(r) => Response::ApplyNote(self.note_applied(r)?),
            Request::ApplyGate(r) => Response::ApplyGate(self.gate(asker, r.is_closed)?),
            Request::ImportBegin(r) => Response::ImportBegin(self.begin_import(text(&r.branch)?)?),
            Request::Lower => Response::Lower(self.lower()?),
            Request::DiffStart(r) => Response::DiffStart(self.diff(r)?),
            Request::MergeStart(r) => Response::MergeStart(self.merge(r)?),
            Request::RestoreStart(r) => Response::RestoreStart(self.restore(r)?),
            Request::UndoStart => Response::UndoStart(self.undo()?),
            Request::JobPoll(r) => Response::JobPoll(self.jobs.poll(r.job)?),
            Request::JobRead(r) => Response::JobRead(self.jobs.read(r.job, r.offset)?),
            Request::JobEnd(r) => Response::JobEnd(self.jobs.end(r.job)?),
            Request::Events(r) => Response::Events(self.events(r.after.as_deref())),
            Request::BranchDiscard(r) => Response::BranchDiscard(self.discard(asker, &r)?),
            Request::SnapshotExport(_) | Request::SnapshotExportRelease(_) => {
                return Err(FsError::Unsupported(
                    "exporting is not supported; read the snapshot under .agentfs/snapshots/<name> instead",
                ));
            }
        })
    }

    fn delete_branch(&self, asker: Asker, asked: &BranchDelete) -> Result<BranchDeleteReply> {
        let branch = text(&asked.branch)?;
        let (id, bytes_reclaimed) =
            self.retire(asker, branch, || self.core.delete_branch(branch, asked.force))?;
        Ok(BranchDeleteReply { branch: id.to_string().into(), bytes_reclaimed })
    }

    /// Has a branch that nobody is in deleted, which `delete` does, and forgotten by all that know it.
    pub(super) fn retire<T>(
        &self,
        asker: Asker,
        branch: &str,
        delete: impl FnOnce() -> Result<(BranchId, T)>,
    ) -> Result<(BranchId, T)> {
        let deleted = {
            let _changing = self.bindings.change();
            let view = self.check_left(asker, branch)?.view;
            let deleted = delete()?;
            self.bindings.branch_gone(deleted.0);
            self.pid_view.forget_branch(view);
            deleted
        };
        self.prune(&deleted.0.to_string());
        Ok(deleted)
    }

    /// Keeps the state of a branch before files are copied into it.
    fn begin_import(&self, branch: &str) -> Result<ImportReply> {
        self.write_mapped(branch, Exactness::OneMoment)?;
        let (info, kept) = self.core.begin_import(branch)?;
        Ok(ImportReply { branch: info.id.to_string().into(), kept: snapshot_record(&kept) })
    }

    /// Takes a snapshot of the branch that was named, or of the one whose control file was asked.
    fn take_snapshot(&self, asker: Asker, branch: &[u8], called: &Option<Vec<u8>>) -> Result<SnapshotReply> {
        let branch = self.to_be_frozen(asker, branch, Exactness::OneMoment)?;
        Ok(snapshot_reply(&self.core.create_snapshot(&branch, name(called)?)?))
    }

    /// The branch of which a snapshot is to be taken; all is written out that the kernel keeps of it.
    fn to_be_frozen(&self, asker: Asker, branch: &[u8], exactness: Exactness) -> Result<String> {
        let branch = match branch {
            [] => self.own_branch(asker)?,
            named => text(named)?.to_owned(),
        };
        self.write_mapped(&branch, exactness)?;
        Ok(branch)
    }

    /// Has the kernel write out what was changed through `mmap` in a branch, or what it keeps, and waits until that is done.
    ///
    /// # Errors
    /// `Unwritten` when that failed, `Busy` when it cannot be asked for; what is told the kernel instead then, where that
    /// may be, can leave it with pages of before a write that is under way.
    pub(super) fn write_mapped(&self, branch: &str, exactness: Exactness) -> Result<()> {
        let view = self.core.find_branch(branch)?.view;
        let written = self.core.written_files(view).into_iter();
        // What is written past the daemon the kernel does not keep.
        let kept = written.filter(|ino| !self.core.is_written_directly(view, *ino));
        let nodes: Vec<_> = kept.map(|ino| NodeId::of(view, ino)).collect();
        let unwritten = self.flusher.flush(&nodes).map_err(|error| {
            FsError::Busy(format!(
                "the process that has files written out does not answer: {error}; try again"
            ))
        })?;
        for (node, why) in unwritten {
            let name = match node.node() {
                Node::Tree(view, ino) => self.core.name_of(view, ino),
                Node::Private(..) | Node::Shared(_) | Node::Special(..) => String::new(),
            };
            match (why, exactness) {
                (Unwritten::Failed(error), _) => return Err(FsError::Unwritten(name, error.into())),
                (Unwritten::Unopened(error), Exactness::Any) => {
                    tracing::warn!(name, %error, "a file cannot be opened to have it written out");
                    self.caching.notices().map_or(Ok(()), |notices| notices.drop_cached(node))?;
                }
                (Unwritten::Unopened(error), Exactness::OneMoment) => return Err(unopened(&name, error)),
            }
        }
        Ok(())
    }

    /// Has the kernel forget the nodes of what was deleted: they cost memory here, too.
    fn prune(&self, id: &str) {
        let by_id = NodeId::special(ViewId::MAIN, Special::ById);
        if let Some(Err(error)) = self.caching.notices().map(|notices| notices.prune(by_id, id.as_bytes())) {
            tracing::debug!(%error, "a notice was not taken");
        }
    }

    fn usage(&self, branch: &str) -> Result<UsageReply> {
        let usage = self.core.usage(branch)?;
        Ok(UsageReply {
            branch: usage.branch.to_string().into(),
            inodes: usage.inodes,
            private_bytes: usage.private_bytes,
            shared_bytes: usage.shared_bytes,
        })
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
            ("unknown_callers", self.bindings.unknown_callers()),
            ("merge_points", status.merge_points as u64),
            ("snapshots_on_disk", status.snapshots_on_disk as u64),
        ];
        let charged = self.core.charged(None)?;
        let charged = charged.map(|held| [("charged_bytes", held.bytes), ("charged_inodes", held.inodes)]);
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
                .chain(
                    store
                        .iter()
                        .chain(charged.iter().flatten())
                        .map(|(key, value)| Setting::new(key, value.to_string())),
                )
                .chain(lower_settings(status.lower))
                .chain(self.stranded())
                .collect(),
        })
    }
}

/// What is still kept of a file that is open to be written cannot be had.
fn unopened(name: &str, error: Errno) -> FsError {
    let remedy = match error {
        Errno::ACCESS => "let the daemon's user read or write it, close it",
        Errno::XDEV => "remove what is mounted over the volume or in its .agentfs, close the file",
        _ => "close it",
    };
    FsError::Busy(format!(
        "{name:?} is open to be written, and the daemon cannot have it written out: {error}; {remedy}, or take the \
         snapshot with --allow-fuzzy"
    ))
}

fn lower_settings(lower: Option<(PathBuf, usize)>) -> impl Iterator<Item = Setting> {
    let settings = |(place, known): (PathBuf, usize)| {
        // A frame holds but so much.
        let place: String = place.display().to_string().chars().take(1024).collect();
        [Setting::new("lower", place), Setting::new("lower_known", known)]
    };
    lower.map(settings).into_iter().flatten()
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

pub(super) fn unix_ms(time: Timestamp) -> u64 {
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

pub(super) fn snapshot_record(info: &SnapshotInfo) -> SnapshotRecord {
    SnapshotRecord::new(info.id.0, info.name.as_deref())
}

fn snapshot_reply(info: &SnapshotInfo) -> SnapshotReply {
    SnapshotReply { snapshot: snapshot_record(info) }
}
