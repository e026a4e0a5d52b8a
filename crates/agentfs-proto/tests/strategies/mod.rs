//! Arbitrary messages, of every selector.
#![allow(dead_code)] // each test file uses its share

use std::fmt::Debug;

use agentfs_proto::record::{
    BranchEntry, BranchRecord, EventEntry, ProcessEntry, RequestCount, Setting, SnapshotEntry, SnapshotRecord,
};
use agentfs_proto::request::*;
use agentfs_proto::response::*;
use agentfs_proto::result::{ConflictRecord, DiffEntry, DiffResult, Face, MergeResult, StepRecord};
use agentfs_proto::{ErrorReply, Page, PageEntry};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

fn maybe() -> impl Strategy<Value = Option<Vec<u8>>> {
    option::of(text())
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    prop_oneof![old_request(), new_request()]
}

fn old_request() -> impl Strategy<Value = Request> {
    let pid = || option::of(any::<u32>());
    prop_oneof![
        maybe().prop_map(|name| SnapshotCreate { name }.into()),
        Just(Request::SnapshotList),
        text().prop_map(|snapshot| SnapshotExport { snapshot }.into()),
        text().prop_map(|cleanup_token| SnapshotExportRelease { cleanup_token }.into()),
        (text(), maybe()).prop_map(|(from, name)| BranchCreate { from, name }.into()),
        (text(), pid()).prop_map(|(branch, pid)| BranchBind { branch, pid }.into()),
        pid().prop_map(|pid| BranchUnbind { pid }.into()),
        (text(), any::<bool>()).prop_map(|(branch, force)| BranchDelete { branch, force }.into()),
    ]
}

fn new_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        maybe().prop_map(|after| BranchList { after }.into()),
        maybe().prop_map(|after| SnapshotPage { after }.into()),
        text().prop_map(|snapshot| SnapshotDelete { snapshot }.into()),
        (text(), text()).prop_map(|(snapshot, name)| SnapshotRename { snapshot, name }.into()),
        (text(), text()).prop_map(|(branch, name)| BranchRename { branch, name }.into()),
        Just(Request::Status),
        maybe().prop_map(|after| RequestCounts { after }.into()),
        (text(), maybe()).prop_map(|(branch, name)| BranchSnapshot { branch, name }.into()),
        (text(), maybe()).prop_map(|(branch, name)| SyncedSnapshot { branch, name }.into()),
        (text(), maybe()).prop_map(|(branch, name)| FuzzySnapshot { branch, name }.into()),
        option::of(any::<u32>()).prop_map(|pid| Whoami { pid }.into()),
        text().prop_map(|branch| BranchEnter { branch }.into()),
        maybe().prop_map(|after| ProcessList { after }.into()),
        text().prop_map(|branch| BranchUsage { branch }.into()),
        text().prop_map(|how| Stop { how }.into()),
        job_request(),
    ]
}

fn job_request() -> impl Strategy<Value = Request> {
    let merge = (text(), maybe(), text(), any::<[bool; 3]>()).prop_map(
        |(source, into, conflicts, [dry_run, with_git, all])| {
            MergeStart { source, into, conflicts, dry_run, with_git, all }.into()
        },
    );
    prop_oneof![
        (text(), text(), any::<[bool; 2]>()).prop_map(|(a, b, [with_git, all])| DiffStart {
            a,
            b,
            with_git,
            all
        }
        .into()),
        merge,
        (text(), text(), vec(text(), 0..4), any::<bool>())
            .prop_map(|(branch, from, paths, dry_run)| RestoreStart { branch, from, paths, dry_run }.into()),
        Just(Request::UndoStart),
        any::<u64>().prop_map(|job| JobPoll { job }.into()),
        any::<[u64; 2]>().prop_map(|[job, offset]| JobRead { job, offset }.into()),
        any::<u64>().prop_map(|job| JobEnd { job }.into()),
        maybe().prop_map(|after| Events { after }.into()),
        (text(), any::<bool>()).prop_map(|(branch, force)| BranchDiscard { branch, force }.into()),
    ]
}

pub(crate) fn response() -> impl Strategy<Value = Response> {
    prop_oneof![old_response(), new_response()]
}

fn old_response() -> impl Strategy<Value = Response> {
    let snapshots = vec(snapshot_record(), 0..5);
    prop_oneof![
        snapshot_reply().prop_map(Response::SnapshotCreate),
        snapshots.prop_map(|snapshots| Response::SnapshotList(SnapshotListReply { snapshots })),
        (text(), text())
            .prop_map(|(path, cleanup_token)| Response::SnapshotExport(ExportReply { path, cleanup_token })),
        text()
            .prop_map(|cleanup_token| Response::SnapshotExportRelease(ExportReleaseReply { cleanup_token })),
        branch_reply().prop_map(Response::BranchCreate),
        (text(), any::<u32>()).prop_map(|(branch, pid)| Response::BranchBind(BindReply { branch, pid })),
        (any::<u32>(), text())
            .prop_map(|(pid, previous_branch)| Response::BranchUnbind(UnbindReply { pid, previous_branch })),
        (text(), any::<u64>()).prop_map(|(branch, bytes_reclaimed)| Response::BranchDelete(
            BranchDeleteReply { branch, bytes_reclaimed }
        )),
        (text(), option::of(any::<u32>()))
            .prop_map(|(error, code)| Response::Error(ErrorReply { error, code })),
    ]
}

fn new_response() -> impl Strategy<Value = Response> {
    prop_oneof![
        page(branch_entry()).prop_map(Response::BranchList),
        page(snapshot_entry()).prop_map(Response::SnapshotPage),
        (text(), any::<u64>()).prop_map(|(snapshot, bytes_reclaimed)| Response::SnapshotDelete(
            SnapshotDeleteReply { snapshot, bytes_reclaimed }
        )),
        snapshot_reply().prop_map(Response::SnapshotRename),
        branch_reply().prop_map(Response::BranchRename),
        status_reply().prop_map(Response::Status),
        page(request_count()).prop_map(Response::RequestCounts),
        snapshot_reply().prop_map(Response::BranchSnapshot),
        snapshot_reply().prop_map(Response::SyncedSnapshot),
        snapshot_reply().prop_map(Response::FuzzySnapshot),
        page(process_entry()).prop_map(Response::ProcessList),
        (text(), maybe(), any::<u32>(), text(), option::of(any::<u32>())).prop_map(
            |(branch, name, pid, reason, of)| Response::Whoami(WhoamiReply { branch, name, pid, reason, of })
        ),
        (text(), text())
            .prop_map(|(branch, directory)| Response::BranchEnter(EnterReply { branch, directory })),
        (text(), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
            |(branch, inodes, private_bytes, shared_bytes)| {
                Response::BranchUsage(UsageReply { branch, inodes, private_bytes, shared_bytes })
            }
        ),
        any::<u32>().prop_map(|pid| Response::Stop(StopReply { pid })),
        job_response(),
    ]
}

fn job_response() -> impl Strategy<Value = Response> {
    let event = (any::<[u64; 2]>(), [text(), text(), text()], [maybe(), maybe(), maybe()], any::<bool>())
        .prop_map(|([key, when_ms], [deed, branch, source], [name, source_name, kept], is_undone)| {
            EventEntry {
                key: key.to_string().into(),
                deed,
                when_ms,
                branch,
                name,
                source,
                source_name,
                kept,
                is_undone,
            }
        });
    prop_oneof![
        any::<u64>().prop_map(|job| Response::MergeStart(JobReply { job })),
        (any::<bool>(), any::<[u64; 2]>())
            .prop_map(|(is_done, [seen, length])| Response::JobPoll(PollReply { is_done, seen, length })),
        text().prop_map(|bytes| Response::JobRead(ReadReply { bytes })),
        page(event).prop_map(Response::Events),
        (text(), snapshot_record(), any::<u64>()).prop_map(|(branch, snapshot, bytes_reclaimed)| {
            Response::BranchDiscard(DiscardReply { branch, snapshot, bytes_reclaimed })
        }),
    ]
}

fn face() -> impl Strategy<Value = Option<Face>> {
    let face = (any::<[u32; 4]>(), any::<u64>()).prop_map(|([mode, uid, gid, links], size)| Face {
        mode,
        uid,
        gid,
        size,
        links,
    });
    option::of(face)
}

pub(crate) fn diff_result() -> impl Strategy<Value = DiffResult> {
    let entry = (text(), maybe(), any::<u8>(), face(), face(), any::<[bool; 2]>()).prop_map(
        |(path, from, status, old, new, [content, xattrs])| DiffEntry {
            path,
            from,
            status,
            old,
            new,
            content,
            xattrs,
        },
    );
    (vec(entry, 0..5), vec(text(), 0..3), any::<u64>()).prop_map(|(entries, left_git, left_out)| DiffResult {
        entries,
        left_git,
        left_out,
    })
}

pub(crate) fn merge_result() -> impl Strategy<Value = MergeResult> {
    let step = (text(), text()).prop_map(|(verb, path)| StepRecord { verb, path });
    let conflict =
        (text(), text(), maybe()).prop_map(|(kind, path, other)| ConflictRecord { kind, path, other });
    let names = ([text(), text(), text()], maybe(), option::of(snapshot_record()));
    (names, vec(step, 0..4), vec(conflict, 0..4), vec(text(), 0..3)).prop_map(
        |(([deed, branch, source], name, kept), steps, conflicts, left_git)| MergeResult {
            deed,
            branch,
            name,
            source,
            kept,
            steps,
            conflicts,
            left_git,
        },
    )
}

fn process_entry() -> impl Strategy<Value = ProcessEntry> {
    (text(), any::<u32>(), text(), text(), text(), any::<u64>()).prop_map(
        |(key, pid, command, branch, reason, since_ms)| ProcessEntry {
            key,
            pid,
            command,
            branch,
            reason,
            since_ms,
        },
    )
}

fn page<T: PageEntry + Debug>(entry: impl Strategy<Value = T>) -> impl Strategy<Value = Page<T>> {
    (vec(entry, 0..5), maybe()).prop_map(|(entries, next)| Page { entries, next })
}

fn snapshot_record() -> impl Strategy<Value = SnapshotRecord> {
    (text(), maybe()).prop_map(|(id, name)| SnapshotRecord { id, name })
}

fn snapshot_reply() -> impl Strategy<Value = SnapshotReply> {
    snapshot_record().prop_map(|snapshot| SnapshotReply { snapshot })
}

fn branch_reply() -> impl Strategy<Value = BranchReply> {
    (text(), maybe(), text())
        .prop_map(|(id, name, parent)| BranchReply { branch: BranchRecord { id, name, parent } })
}

pub(crate) fn branch_entry() -> impl Strategy<Value = BranchEntry> {
    (text(), maybe(), maybe(), any::<u64>(), any::<u32>()).prop_map(
        |(id, name, parent, created_ms, open_files)| BranchEntry { id, name, parent, created_ms, open_files },
    )
}

fn snapshot_entry() -> impl Strategy<Value = SnapshotEntry> {
    (text(), maybe(), text(), any::<u64>(), any::<u32>()).prop_map(
        |(id, name, branch, created_ms, children)| SnapshotEntry { id, name, branch, created_ms, children },
    )
}

fn request_count() -> impl Strategy<Value = RequestCount> {
    (text(), any::<u64>(), any::<u64>()).prop_map(|(operation, count, total_ns)| RequestCount {
        operation,
        count,
        total_ns,
    })
}

fn status_reply() -> impl Strategy<Value = StatusReply> {
    let settings = vec((text(), text()).prop_map(|(key, value)| Setting { key, value }), 0..4);
    (text(), text(), any::<[u32; 4]>(), any::<[u64; 3]>(), any::<bool>(), settings).prop_map(
        |(version, store, [owner_uid, branches, snapshots, open_handles], longs, reflink, settings)| {
            let [uptime_ms, known_inodes, inodes] = longs;
            StatusReply {
                version,
                store,
                owner_uid,
                uptime_ms,
                branches,
                snapshots,
                open_handles,
                known_inodes,
                inodes,
                reflink,
                settings,
            }
        },
    )
}
