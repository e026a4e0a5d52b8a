//! The bytes that existing clients send and expect. They never change: a failure here is a break.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use agentfs_proto::record::{BranchRecord, SnapshotRecord};
use agentfs_proto::request::{BranchBind, BranchCreate, BranchDelete, BranchUnbind, SnapshotCreate};
use agentfs_proto::response::{
    BindReply, BranchDeleteReply, BranchReply, SnapshotListReply, SnapshotReply, UnbindReply,
};
use agentfs_proto::{ErrorReply, Request, Response};

const LOW: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
const HIGH: u128 = 0xfedc_ba98_7654_3210_fedc_ba98_7654_3210;

fn low() -> Vec<u8> {
    b"0123456789abcdef0123456789abcdef".to_vec()
}

fn named(name: &str) -> Option<Vec<u8>> {
    Some(name.as_bytes().to_vec())
}

fn requests() -> Vec<(&'static str, Request)> {
    vec![
        ("request_snapshot_create_unnamed", SnapshotCreate { name: None }.into()),
        ("request_snapshot_create_named", SnapshotCreate { name: named("demo") }.into()),
        ("request_snapshot_list", Request::SnapshotList),
        ("request_branch_create_named", BranchCreate { from: low(), name: named("feature") }.into()),
        ("request_branch_create_unnamed", BranchCreate { from: low(), name: None }.into()),
        ("request_branch_bind_pid", BranchBind { branch: low(), pid: Some(4242) }.into()),
        ("request_branch_bind_self", BranchBind { branch: low(), pid: None }.into()),
        ("request_branch_unbind_pid", BranchUnbind { pid: Some(4242) }.into()),
        ("request_branch_unbind_self", BranchUnbind { pid: None }.into()),
        ("request_branch_delete_force", BranchDelete { branch: low(), force: true }.into()),
    ]
}

fn snapshot(name: Option<&str>) -> Response {
    Response::SnapshotCreate(SnapshotReply { snapshot: SnapshotRecord::new(LOW, name) })
}

fn snapshot_list(snapshots: Vec<SnapshotRecord>) -> Response {
    Response::SnapshotList(SnapshotListReply { snapshots })
}

fn responses() -> Vec<(&'static str, Response)> {
    let two = vec![SnapshotRecord::new(LOW, Some("demo")), SnapshotRecord::new(HIGH, None)];
    let branch = BranchRecord::new(LOW, Some("feature"), Some(HIGH));
    let deleted = BranchDeleteReply { branch: low(), bytes_reclaimed: 65536 };
    vec![
        ("response_snapshot_create_named", snapshot(Some("demo"))),
        ("response_snapshot_create_unnamed", snapshot(None)),
        ("response_snapshot_list_two", snapshot_list(two)),
        ("response_snapshot_list_empty", snapshot_list(Vec::new())),
        ("response_branch_create", Response::BranchCreate(BranchReply { branch })),
        ("response_branch_bind", Response::BranchBind(BindReply { branch: low(), pid: 4242 })),
        ("response_branch_unbind", Response::BranchUnbind(UnbindReply { pid: 4242, previous_branch: low() })),
        ("response_branch_delete", Response::BranchDelete(deleted)),
        ("response_error_enoent", Response::error("not found", 2)),
        ("response_error_nocode", Response::Error(ErrorReply::new("bad", None))),
    ]
}

/// The frozen bytes of the message of that name.
fn golden(name: &str) -> Vec<u8> {
    let messages: serde_json::Value = serde_json::from_str(include_str!("golden.json")).unwrap();
    let message = messages.as_array().unwrap().iter().find(|message| message["name"] == name).unwrap();
    let hex = message["ssz_hex"].as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn requests_have_their_frozen_bytes() {
    for (name, request) in requests() {
        assert_eq!(request.encode(), golden(name), "{name} encodes");
        assert_eq!(Request::decode(&golden(name)), Ok(request), "{name} decodes");
    }
}

#[test]
fn responses_have_their_frozen_bytes() {
    for (name, response) in responses() {
        assert_eq!(response.encode(), golden(name), "{name} encodes");
        assert_eq!(Response::decode(&golden(name)), Ok(response), "{name} decodes");
    }
}

#[test]
fn every_frozen_message_is_tested() {
    let messages: Vec<serde_json::Value> = serde_json::from_str(include_str!("golden.json")).unwrap();
    let mut frozen: Vec<&str> = messages.iter().map(|message| message["name"].as_str().unwrap()).collect();
    let mut tested: Vec<&str> = requests().iter().map(|(name, _)| *name).collect();
    tested.extend(responses().iter().map(|(name, _)| *name));
    frozen.sort_unstable();
    tested.sort_unstable();
    assert_eq!(tested, frozen);
}
