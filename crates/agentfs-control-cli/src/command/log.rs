//! `log`: what came from what, and what was done.

use agentfs_proto::Response;
use agentfs_proto::request::{BranchUsage, Events};

use super::{branch, process, snapshot};
use crate::client::{Client, all_pages, unexpected};
use crate::failure::Failure;
use crate::output::{self, Output, Past};

pub(super) fn run(client: &Client, is_dot: bool) -> Result<Output, Failure> {
    let branches = branch::all(client)?;
    let held = |id: &[u8]| match client.call(BranchUsage { branch: id.into() }) {
        Ok(Response::BranchUsage(usage)) => usage.private_bytes,
        // Deleted meanwhile.
        _ => 0,
    };
    let past = Past {
        held: branches.iter().map(|entry| (entry.id.clone(), held(&entry.id))).collect(),
        branches,
        snapshots: snapshot::all(client)?,
        events: all_pages(|after| match client.call(Events { after })? {
            Response::Events(page) => Ok(page),
            _ => Err(unexpected()),
        })?,
        processes: process::all(client)?,
    };
    Ok(output::log(&past, is_dot))
}
