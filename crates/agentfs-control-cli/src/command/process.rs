//! The commands about which process sees which branch.

use agentfs_proto::Response;
use agentfs_proto::record::ProcessEntry;
use agentfs_proto::request::{BranchBind, BranchUnbind, ProcessList, Stop, Whoami};
use rustix::process::getppid;

use crate::client::{Client, all_pages, unexpected};
use crate::failure::Failure;
use crate::output::{self, Output};

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

/// What this command sees is what the shell that started it sees, if nobody in between was bound: it asks for itself,
/// so that it is right in another pid namespace too, unless a process is named.
pub(super) fn whoami(client: &Client, pid: Option<u32>) -> Result<Output, Failure> {
    match client.call(Whoami { pid })? {
        Response::Whoami(reply) => Ok(output::whoami(&reply)),
        _ => Err(unexpected()),
    }
}

/// All that see another branch than main.
pub(super) fn all(client: &Client) -> Result<Vec<ProcessEntry>, Failure> {
    all_pages(|after| match client.call(ProcessList { after })? {
        Response::ProcessList(page) => Ok(page),
        _ => Err(unexpected()),
    })
}

pub(super) fn stop(client: &Client, force: bool) -> Result<Output, Failure> {
    let how = if force { b"force".to_vec() } else { Vec::new() };
    match client.call(Stop { how })? {
        Response::Stop(reply) => Ok(output::stopped(&reply)),
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
