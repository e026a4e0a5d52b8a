//! A moment of a branch to read from: a snapshot that goes when it has been read, or one that there is.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agentfs_proto::Response;
use agentfs_proto::ids::parse_id;
use agentfs_proto::record::BranchEntry;
use agentfs_proto::request::{BranchCreate, BranchDelete, BranchSnapshot, SnapshotDelete};
use rustix::fs::{FlockOperation, flock};

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
    /// Locked, so that others know that it is not left.
    held: Option<File>,
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
    /// Freezes a branch, given by its id, `for_what`. What earlier runs left goes.
    ///
    /// # Errors
    /// The daemon's.
    fn branch(client: &'a Client, id: &str, for_what: &str) -> Result<Frozen<'a>, Failure> {
        sweep(client, for_what)?;
        let name = name(for_what, id);
        match client.call(BranchSnapshot { branch: id.into(), name: Some(name.into()) })? {
            Response::BranchSnapshot(reply) => Frozen::at(client, reply.snapshot.id, What::Snapshot),
            _ => Err(unexpected()),
        }
    }

    /// Grows a branch from another, given by its id, `for_what`: as that one comes to have more of the directory below itself, so
    /// does this. What earlier runs left goes.
    ///
    /// # Errors
    /// The daemon's.
    pub(super) fn grown(client: &'a Client, id: &str, for_what: &str) -> Result<Frozen<'a>, Failure> {
        sweep(client, for_what)?;
        let name = name(for_what, id);
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
        let seen = view.as_ref().ok().cloned().unwrap_or_default();
        let mut frozen = Frozen { client, id, view: seen, held: None, what };
        view?;
        if what != What::Theirs {
            frozen.held = hold(&frozen.view);
        }
        Ok(frozen)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.held = None;
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

/// After how long something frozen may be one that was left though a process has its number, in milliseconds.
const SURELY_LEFT_MS: u64 = 3600 * 1000;

/// What a process freezes of a branch for a command: no other has this name.
fn name(for_what: &str, id: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{for_what}-{}.{number}-{id}", std::process::id())
}

/// Which process froze something for a command, as its name says; `None` for what has another name.
fn frozen_by(name: &[u8], for_what: &str) -> Option<String> {
    let rest = name.strip_prefix(for_what.as_bytes())?.strip_prefix(b"-")?;
    let mut parts = rest.splitn(2, |byte| *byte == b'-');
    let (numbers, id) = (parts.next()?, parts.next()?);
    let pid = numbers.split(|byte| *byte == b'.').next()?;
    let is_ours = parse_id(id).is_some() && numbers.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    is_ours.then(|| shown(pid))
}

/// A lock on the directory of something frozen that ends with its process, which may be seen in another pid namespace.
fn hold(view: &Path) -> Option<File> {
    let directory = File::open(view).ok()?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(directory)
}

/// Deletes what earlier runs of a command froze and could not delete, as they were killed.
fn sweep(client: &Client, for_what: &str) -> Result<(), Failure> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let snapshots = snapshot::all(client)?.into_iter();
    let snapshots = snapshots.map(|entry| (entry.id, entry.name, entry.created_ms, What::Snapshot));
    let branches = branch::all(client)?.into_iter();
    let branches = branches.map(|entry| (entry.id, entry.name, entry.created_ms, What::Branch));
    for (id, name, created_ms, what) in snapshots.chain(branches) {
        let Some(pid) = frozen_by(&name.unwrap_or_default(), for_what) else { continue };
        let is_old = (now.as_millis() as u64).saturating_sub(created_ms) > SURELY_LEFT_MS;
        let is_left = is_old || !Path::new("/proc").join(pid).exists();
        // Where it cannot be seen, nobody reads it.
        if is_left && view_of(client, &id).map_or(true, |view| hold(&view).is_some()) {
            // Somebody else may do the same.
            let _ = delete(client, &id, what);
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
