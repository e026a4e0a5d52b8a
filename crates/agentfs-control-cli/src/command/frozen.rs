//! A moment of a branch to read from: a snapshot that goes when it has been read, or one that there is.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use agentfs_proto::Response;
use agentfs_proto::ids::parse_id;
use agentfs_proto::record::BranchEntry;
use agentfs_proto::request::{BranchCreate, BranchDelete, BranchSnapshot, SnapshotDelete};

use super::{branch, snapshot};
use crate::client::{Client, unexpected};
use crate::failure::Failure;
use crate::mount::{VOLUME, mount_point};
use crate::output::shown;

/// How long to wait until the kernel has closed what was read.
const PATIENCE: Duration = Duration::from_secs(5);

/// A snapshot, or a branch that nobody else writes to, and where it is seen.
pub(super) struct Frozen<'a> {
    client: &'a Client,
    /// Its id.
    pub(super) id: Vec<u8>,
    /// The directory that shows it.
    pub(super) view: PathBuf,
    what: What,
}

/// What goes when it has been read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Theirs,
    Snapshot,
    Branch,
}

impl<'a> Frozen<'a> {
    /// Freezes a branch, given by its id, `for_what`. What an earlier run left goes.
    ///
    /// # Errors
    /// The daemon's; also when somebody does the same with this branch.
    fn branch(client: &'a Client, id: &str, for_what: &str) -> Result<Frozen<'a>, Failure> {
        let name = format!("{for_what}-{id}");
        if snapshot::all(client)?.iter().any(|entry| entry.name.as_deref() == Some(name.as_bytes())) {
            delete(client, name.as_bytes(), What::Snapshot)?;
        }
        match client.call(BranchSnapshot { branch: id.into(), name: Some(name.into()) })? {
            Response::BranchSnapshot(reply) => Frozen::at(client, reply.snapshot.id, What::Snapshot),
            _ => Err(unexpected()),
        }
    }

    /// Grows a branch from another, given by its id, `for_what`: as that one comes to have more of the directory below itself, so
    /// does this.
    ///
    /// # Errors
    /// The daemon's; also when somebody does the same with this branch.
    pub(super) fn grown(client: &'a Client, id: &str, for_what: &str) -> Result<Frozen<'a>, Failure> {
        let name = format!("{for_what}-{id}");
        let is_left = |entry: &BranchEntry| entry.name.as_deref() == Some(name.as_bytes());
        if branch::all(client)?.iter().any(is_left) {
            delete(client, name.as_bytes(), What::Branch)?;
        }
        match client.call(BranchCreate { from: id.into(), name: Some(name.into()) })? {
            Response::BranchCreate(reply) => Frozen::at(client, reply.branch.id, What::Branch),
            _ => Err(unexpected()),
        }
    }

    /// A snapshot that there is, or else a branch.
    ///
    /// # Errors
    /// The daemon's.
    pub(super) fn any(client: &'a Client, of: &str, for_what: &str) -> Result<Frozen<'a>, Failure> {
        Frozen::find(client, of, for_what)?.ok_or_else(|| no_branch(of))
    }

    /// The same; `None` when nothing is called so.
    ///
    /// # Errors
    /// The daemon's.
    pub(super) fn find(client: &'a Client, of: &str, for_what: &str) -> Result<Option<Frozen<'a>>, Failure> {
        let mut snapshots = snapshot::all(client)?.into_iter();
        if let Some(entry) = snapshots.find(|entry| is_called(of, &entry.id, entry.name.as_deref())) {
            return Frozen::at(client, entry.id, What::Theirs).map(Some);
        }
        let branch = find(client, of)?;
        branch.map(|entry| Frozen::branch(client, &shown(&entry.id), for_what)).transpose()
    }

    fn at(client: &'a Client, id: Vec<u8>, what: What) -> Result<Frozen<'a>, Failure> {
        let view = view_of(client, &id);
        // It goes again when it cannot be seen.
        let frozen = Frozen { client, id, view: view.as_ref().ok().cloned().unwrap_or_default(), what };
        view.map(|_| frozen)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let begun = Instant::now();
        while self.what != What::Theirs
            && delete(self.client, &self.id, self.what).is_err()
            && begun.elapsed() < PATIENCE
        {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The directory that shows a branch or a snapshot, which the daemon tells by its id.
///
/// # Errors
/// When it cannot be seen from here.
pub(super) fn view_of(client: &Client, id: &[u8]) -> Result<PathBuf, Failure> {
    // An id is hexadecimal: nothing else becomes a part of a path.
    if parse_id(id).is_none() {
        return Err(unexpected());
    }
    let place = Path::new(".agentfs/by-id").join(shown(id));
    let volume = client.volume();
    let roots = [volume.join(VOLUME), volume.to_owned()].into_iter().chain(mount_point(volume).ok());
    let found = roots.map(|root| root.join(&place)).find(|view| view.is_dir());
    found.ok_or_else(|| Failure::new("it cannot be seen from here: ask from outside of a branch"))
}

/// A branch that is given by its id or its name.
pub(super) fn find_branch(client: &Client, branch: &str) -> Result<BranchEntry, Failure> {
    find(client, branch)?.ok_or_else(|| no_branch(branch))
}

fn find(client: &Client, called: &str) -> Result<Option<BranchEntry>, Failure> {
    let mut branches = branch::all(client)?.into_iter();
    Ok(branches.find(|entry| is_called(called, &entry.id, entry.name.as_deref())))
}

fn is_called(called: &str, id: &[u8], name: Option<&[u8]>) -> bool {
    id == called.as_bytes() || name == Some(called.as_bytes())
}

pub(super) fn no_branch(called: &str) -> Failure {
    Failure::with_errno(format!("no branch has the id or the name {called:?}"), rustix::io::Errno::NOENT)
}

/// After how long something frozen may be one that was left, in milliseconds: who froze it may be seen in another pid namespace.
const SURELY_LEFT_MS: u64 = 3600 * 1000;

/// Deletes what commands froze and could not delete as they were killed: `<word><pid>-<id>`.
pub(super) fn sweep(client: &Client, word: &str) -> Result<(), Failure> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    for entry in snapshot::all(client)? {
        let name = entry.name.unwrap_or_default();
        let pid = name.strip_prefix(word.as_bytes()).and_then(|rest| {
            let end = rest.iter().position(|byte| *byte == b'-')?;
            let (digits, id) = (rest.get(..end)?, rest.get(end + 1..)?);
            let is_ours = id == entry.branch.as_slice() && digits.iter().all(u8::is_ascii_digit);
            is_ours.then(|| shown(digits))
        });
        let is_left = pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        if is_left && (now.as_millis() as u64).saturating_sub(entry.created_ms) > SURELY_LEFT_MS {
            // Somebody else may do the same.
            let _ = delete(client, &entry.id, What::Snapshot);
        }
    }
    Ok(())
}

fn delete(client: &Client, which: &[u8], what: What) -> Result<(), Failure> {
    let deleted = match what {
        What::Branch => client.call(BranchDelete { branch: which.into(), force: true }),
        What::Snapshot | What::Theirs => client.call(SnapshotDelete { snapshot: which.into() }),
    };
    deleted.map(drop)
}
