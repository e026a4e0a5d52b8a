//! The commands that only look.

use agentfs_proto::request::{BranchUsage, RequestCounts};
use agentfs_proto::{Request, Response};

use super::{branch, process};
use crate::client::{Client, all_pages, unexpected};
use crate::failure::Failure;
use crate::output::{self, Output};

pub(super) fn show(client: &Client) -> Result<Output, Failure> {
    let Response::Status(reply) = client.call(Request::Status)? else { return Err(unexpected()) };
    let branches = branch::all(client)?;
    let usages: Vec<_> = branches
        .into_iter()
        .filter_map(|entry| match client.call(BranchUsage { branch: entry.id.clone() }) {
            Ok(Response::BranchUsage(usage)) => Some((entry, usage)),
            // Deleted meanwhile.
            _ => None,
        })
        .collect();
    let processes = process::all(client)?;
    Ok(output::status(&reply, &usages, &processes))
}

pub(super) fn requests(client: &Client) -> Result<Output, Failure> {
    let counts = all_pages(|after| match client.call(RequestCounts { after })? {
        Response::RequestCounts(page) => Ok(page),
        _ => Err(unexpected()),
    })?;
    Ok(output::request_counts(&counts))
}
