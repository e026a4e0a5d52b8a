//! The commands about branches, and about which process sees which.

use agentfs_proto::Response;
use agentfs_proto::request::{
    BranchBind, BranchCreate, BranchDelete, BranchList, BranchRename, BranchUnbind,
};
use rustix::process::getppid;

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
    let branches = all_pages(|after| match client.call(BranchList { after })? {
        Response::BranchList(page) => Ok(page),
        _ => Err(unexpected()),
    })?;
    Ok(output::branch_list(&branches))
}

pub(super) fn delete(client: &Client, branch: &str, force: bool) -> Result<Output, Failure> {
    match client.call(BranchDelete { branch: branch.into(), force })? {
        Response::BranchDelete(reply) => Ok(output::branch_deleted(&reply)),
        _ => Err(unexpected()),
    }
}

pub(super) fn rename(client: &Client, branch: &str, name: &str) -> Result<Output, Failure> {
    match client.call(BranchRename { branch: branch.into(), name: name.into() })? {
        Response::BranchRename(reply) => Ok(output::branch_renamed(&reply.branch)),
        _ => Err(unexpected()),
    }
}

pub(super) fn bind(client: &Client, branch: &str, pid: Option<u32>) -> Result<Output, Failure> {
    match client.call(BranchBind { branch: branch.into(), pid: Some(or_parent(pid)?) })? {
        Response::BranchBind(reply) => Ok(output::bound(&reply)),
        _ => Err(unexpected()),
    }
}

pub(super) fn unbind(client: &Client, pid: Option<u32>) -> Result<Output, Failure> {
    match client.call(BranchUnbind { pid: Some(or_parent(pid)?) })? {
        Response::BranchUnbind(reply) => Ok(output::unbound(&reply)),
        _ => Err(unexpected()),
    }
}

/// A request without a pid is about the process that sends it, and this one is about to end: what is meant
/// is the shell that started it.
fn or_parent(pid: Option<u32>) -> Result<u32, Failure> {
    let parent = || getppid().map(|parent| parent.as_raw_nonzero().get().unsigned_abs());
    pid.or_else(parent)
        .ok_or_else(|| Failure::new("the parent process is in another pid namespace; name one with --pid"))
}
