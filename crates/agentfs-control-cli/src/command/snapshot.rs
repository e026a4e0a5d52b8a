//! The commands about snapshots.

use agentfs_proto::Response;
use agentfs_proto::record::SnapshotEntry;
use agentfs_proto::request::{
    BranchSnapshot, FuzzySnapshot, SnapshotCreate, SnapshotDelete, SnapshotPage, SnapshotRename,
    SyncedSnapshot,
};

use crate::client::{Client, all_pages, unexpected};
use crate::failure::Failure;
use crate::output::{self, Output};

/// What a snapshot is to be.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Of one moment.
    Plain,
    /// Durable with all its content.
    Synced,
    /// Taken, whatever is being written.
    Fuzzy,
}

/// Without a branch it is the request that every daemon knows.
pub(super) fn create(
    client: &Client,
    name: Option<&str>,
    branch: Option<&str>,
    kind: Kind,
) -> Result<Output, Failure> {
    let name = name.map(Into::into);
    let response = match (kind, branch) {
        (Kind::Synced, branch) => {
            client.call(SyncedSnapshot { branch: branch.unwrap_or_default().into(), name })?
        }
        (Kind::Fuzzy, branch) => {
            client.call(FuzzySnapshot { branch: branch.unwrap_or_default().into(), name })?
        }
        (Kind::Plain, None) => client.call(SnapshotCreate { name })?,
        (Kind::Plain, Some(branch)) => client.call(BranchSnapshot { branch: branch.into(), name })?,
    };
    match response {
        Response::SnapshotCreate(reply)
        | Response::BranchSnapshot(reply)
        | Response::SyncedSnapshot(reply)
        | Response::FuzzySnapshot(reply) => Ok(output::snapshot_created(&reply.snapshot)),
        _ => Err(unexpected()),
    }
}

pub(super) fn list(client: &Client) -> Result<Output, Failure> {
    Ok(output::snapshot_list(&all(client)?))
}

pub(super) fn all(client: &Client) -> Result<Vec<SnapshotEntry>, Failure> {
    all_pages(|after| match client.call(SnapshotPage { after })? {
        Response::SnapshotPage(page) => Ok(page),
        _ => Err(unexpected()),
    })
}

pub(super) fn delete(client: &Client, snapshot: &str) -> Result<Output, Failure> {
    match client.call(SnapshotDelete { snapshot: snapshot.into() })? {
        Response::SnapshotDelete(reply) => Ok(output::snapshot_deleted(&reply)),
        _ => Err(unexpected()),
    }
}

pub(super) fn rename(client: &Client, snapshot: &str, name: &str) -> Result<Output, Failure> {
    match client.call(SnapshotRename { snapshot: snapshot.into(), name: name.into() })? {
        Response::SnapshotRename(reply) => Ok(output::snapshot_renamed(&reply.snapshot)),
        _ => Err(unexpected()),
    }
}
