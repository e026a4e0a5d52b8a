//! Long operations: begun by one request, watched until they end, read in parts. Ctrl-C cancels them.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use agentfs_proto::request::{JobEnd, JobPoll, JobRead};
use agentfs_proto::response::JobReply;
use agentfs_proto::{Request, Response};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::client::{Client, unexpected};
use crate::failure::Failure;

/// How often the daemon is asked at first, and at last.
const SHORTEST: Duration = Duration::from_micros(100);
const LONGEST: Duration = Duration::from_millis(100);
/// From when on it is told how far it is.
const QUICK: Duration = Duration::from_millis(500);
/// What a shell sees of a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Was the command told to end? The second time it ends at once.
static IS_CANCELLED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on Ctrl-C and its like are asked for by [`check`].
///
/// # Errors
/// When signals cannot be caught.
pub(super) fn watch() -> Result<(), Failure> {
    static IS_WATCHED: AtomicBool = AtomicBool::new(false);
    if IS_WATCHED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let caught = flag::register_conditional_shutdown(signal, INTERRUPTED.into(), IS_CANCELLED.clone())
            .and_then(|_| flag::register(signal, IS_CANCELLED.clone()));
        caught.map_err(|error| Failure::io("signals cannot be caught", &error))?;
    }
    Ok(())
}

/// Goes on unless the command was told to end.
///
/// # Errors
/// When it was.
pub(super) fn check() -> Result<(), Failure> {
    match IS_CANCELLED.load(Ordering::Relaxed) {
        true => Err(Failure::new("interrupted").or_exit(INTERRUPTED)),
        false => Ok(()),
    }
}

/// Has the daemon do what is asked, `what`, and returns what it found.
///
/// # Errors
/// The daemon's; when it was cancelled.
pub(super) fn run(client: &Client, what: &str, asked: impl Into<Request>) -> Result<Vec<u8>, Failure> {
    watch()?;
    let job = match client.call(asked)? {
        Response::DiffStart(JobReply { job })
        | Response::MergeStart(JobReply { job })
        | Response::RestoreStart(JobReply { job })
        | Response::UndoStart(JobReply { job }) => job,
        _ => return Err(unexpected()),
    };
    let length = wait(client, what, job)?;
    let mut found = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    while (found.len() as u64) < length {
        match client.call(JobRead { job, offset: found.len() as u64 })? {
            Response::JobRead(reply) if !reply.bytes.is_empty() => found.extend(reply.bytes),
            _ => return Err(unexpected()),
        }
    }
    client.call(JobEnd { job })?;
    Ok(found)
}

fn wait(client: &Client, what: &str, job: u64) -> Result<u64, Failure> {
    let (begun, mut pause, mut is_told, mut is_ended) = (Instant::now(), SHORTEST, false, false);
    let is_terminal = io::stderr().is_terminal();
    let length = loop {
        if check().is_err() && !is_ended {
            client.call(JobEnd { job })?;
            is_ended = true;
        }
        let reply = match client.call(JobPoll { job }) {
            Ok(Response::JobPoll(reply)) => reply,
            Ok(_) => return Err(unexpected()),
            Err(failure) if is_ended => return Err(failure.or_exit(INTERRUPTED)),
            Err(failure) => return Err(failure),
        };
        if reply.is_done {
            break reply.length;
        }
        if is_terminal && begun.elapsed() > QUICK {
            is_told = true;
            let _ = write!(io::stderr(), "\r\x1b[K{what}: {} files looked at", reply.seen);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST);
    };
    if is_told {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    Ok(length)
}
