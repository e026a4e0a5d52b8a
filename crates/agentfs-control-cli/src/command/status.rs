//! The commands that only look.

use agentfs_proto::request::RequestCounts;
use agentfs_proto::{Request, Response};

use crate::client::{Client, all_pages, unexpected};
use crate::failure::Failure;
use crate::output::{self, Output};

pub(super) fn show(client: &Client) -> Result<Output, Failure> {
    match client.call(Request::Status)? {
        Response::Status(reply) => Ok(output::status(&reply)),
        _ => Err(unexpected()),
    }
}

pub(super) fn requests(client: &Client) -> Result<Output, Failure> {
    let counts = all_pages(|after| match client.call(RequestCounts { after })? {
        Response::RequestCounts(page) => Ok(page),
        _ => Err(unexpected()),
    })?;
    Ok(output::request_counts(&counts))
}
