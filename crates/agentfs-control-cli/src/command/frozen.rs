//! A moment of a branch to read from: a snapshot that goes when it has been read, or one that there is.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use agentfs_proto::Response;
use agentfs_proto::record::SnapshotEntry;
use agentfs_proto::request::{BranchSnapshot, SnapshotDelete, SnapshotPage};

use crate::client::{Client, all_pages, unexpected};
use crate::failure::Failure;
use crate::mount::{VOLUME, mount_point};
use crate::output::shown;

/// How long to wait until the kernel has closed what was read.
const PATIENCE: Duration = Duration::from_secs(5);

/// A snapshot, and where it is seen.
pub(super) struct Frozen<'a> {
    client: &'a Client,
    /// Its id.
    pub(super) id: Vec<u8>,
    /// The directory that shows it.
    pub(super) view: PathBuf,
    is_ours: bool,
}

impl<'a> Frozen<'a> {
    /// Freezes a branch, given by id or name, `for_what`. What an earlier run left goes.
    ///
    /// # Errors
    /// The daemon's; also when somebody does the same with this branch.
    pub(super) fn branch(client: &'a Client, branch: &str, for_what: &str) -> Result<Frozen<'a>, Failure> {
        let found = super::branch::all(client)?
            .into_iter()
            .find(|entry| entry.id == branch.as_bytes() || entry.name.as_deref() == Some(branch.as_bytes()));
        let id = found.map(|entry| shown(&entry.id)).ok_or_else(|| {
            Failure::with_errno(
                format!("no branch has the id or the name {branch:?}"),
                rustix::io::Errno::NOENT,
            )
        })?;
        let name = format!("{for_what}-{id}");
        if snapshots(client)?.iter().any(|entry| entry.name.as_deref() == Some(name.as_bytes())) {
            delete(client, name.as_bytes())?;
        }
        match client.call(BranchSnapshot { branch: id.into(), name: Some(name.into()) })? {
            Response::BranchSnapshot(reply) => Frozen::at(client, reply.snapshot.id, true),
            _ => Err(unexpected()),
        }
    }

    /// A snapshot that there is, or else a branch.
    ///
    /// # Errors
    /// The daemon's.
    pub(super) fn any(client: &'a Client, of: &str, for_what: &str) -> Result<Frozen<'a>, Failure> {
        let found = snapshots(client)?
            .into_iter()
            .find(|entry| entry.id == of.as_bytes() || entry.name.as_deref() == Some(of.as_bytes()));
        match found {
            Some(entry) => Frozen::at(client, entry.id, false),
            None => Frozen::branch(client, of, for_what),
        }
    }

    fn at(client: &'a Client, id: Vec<u8>, is_ours: bool) -> Result<Frozen<'a>, Failure> {
        let place = Path::new(".agentfs/by-id").join(shown(&id));
        let volume = client.volume();
        let roots = [volume.join(VOLUME), volume.to_owned()].into_iter().chain(mount_point(volume).ok());
        let found = roots.map(|root| root.join(&place)).find(|view| view.is_dir());
        let view = found.unwrap_or_default();
        let frozen = Frozen { client, id, view, is_ours };
        if frozen.view.as_os_str().is_empty() {
            return Err(Failure::new("the snapshot cannot be seen from here: ask from outside of a branch"));
        }
        Ok(frozen)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let begun = Instant::now();
        while self.is_ours && delete(self.client, &self.id).is_err() && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn snapshots(client: &Client) -> Result<Vec<SnapshotEntry>, Failure> {
    all_pages(|after| match client.call(SnapshotPage { after })? {
        Response::SnapshotPage(page) => Ok(page),
        _ => Err(unexpected()),
    })
}

fn delete(client: &Client, snapshot: &[u8]) -> Result<(), Failure> {
    client.call(SnapshotDelete { snapshot: snapshot.into() }).map(drop)
}
