//! The commands about branches.

use agentfs_proto::Response;
use agentfs_proto::record::BranchEntry;
use agentfs_proto::request::{BranchCreate, BranchDelete, BranchDiscard, BranchList, BranchRename};

use crate::client::{Client, all_pages, unexpected};
use crate::failure::Failure;
use crate::output::{self, Output};

pub(super) fn create(client: &Client, from: &str, name: Option<&str>) -> Result<Output, Failure> {
    match client.call(BranchCreate { from: from.into(), name: name.map(Into::into) })? {
        Response::BranchCreate(reply) => Ok(output::branch_created(&reply.branch)),
        _ => Err(unexpected()),
    }
}

pub(super) fn list(client: &Client) -> Result<Output, Failure> {
    Ok(output::branch_list(&all(client)?))
}

pub(super) fn all(client: &Client) -> Result<Vec<BranchEntry>, Failure> {
    all_pages(|after| match client.call(BranchList { after })? {
        Response::BranchList(page) => Ok(page),
        _ => Err(unexpected()),
    })
}

pub(super) fn delete(client: &Client, branch: &str, force: bool) -> Result<Output, Failure> {
    match client.call(BranchDelete { branch: branch.into(), force })? {
        Response::BranchDelete(reply) => Ok(output::branch_deleted(&reply)),
        _ => Err(unexpected()),
    }
}

/// Deletes it and keeps its last state for `undo`.
pub(super) fn discard(client: &Client, branch: &str, force: bool) -> Result<Output, Failure> {
    match client.call(BranchDiscard { branch: branch.into(), force })? {
        Response::BranchDiscard(reply) => Ok(output::discarded(&reply)),
        _ => Err(unexpected()),
    }
}

pub(super) fn rename(client: &Client, branch: &str, name: &str) -> Result<Output, Failure> {
    match client.call(BranchRename { branch: branch.into(), name: name.into() })? {
        Response::BranchRename(reply) => Ok(output::branch_renamed(&reply.branch)),
        _ => Err(unexpected()),
    }
}
