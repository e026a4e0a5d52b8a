//! Long operations: begun by one request, watched until they end, read in parts. Ctrl-C cancels them.

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, unexpected};
use crate::failure::Failure;
use crate::interrupt;
use agentfs_proto::request::{JobEnd, JobPoll, JobRead};
use agentfs_proto::response::JobReply;
use agentfs_proto::{Request, Response};

/// How often the daemon is asked at first, and at last.
const SHORTEST: Duration = Duration::from_micros(100);
const LONGEST: Duration = Duration::from_millis(100);
/// From when on it is told how far it is.
const QUICK: Duration = Duration::from_millis(500);
/// Whether a job is cancelled when the command is told to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signals {
    Heard,
    Ignored,
}

/// Has the daemon do what is asked, `what`, and returns what it found.
///
/// # Errors
/// The daemon's; when it was cancelled.
pub(super) fn run(client: &Client, what: &str, asked: impl Into<Request>) -> Result<Vec<u8>, Failure> {
    interrupt::watch()?;
    run_with(client, what, asked, Signals::Heard)
}

/// As [`run`], of what a command does that was told to end, to leave things as they were.
///
/// # Errors
/// The daemon's.
pub(super) fn run_to_its_end(
    client: &Client,
    what: &str,
    asked: impl Into<Request>,
) -> Result<Vec<u8>, Failure> {
    run_with(client, what, asked, Signals::Ignored)
}

fn run_with(
    client: &Client,
    what: &str,
    asked: impl Into<Request>,
    signals: Signals,
) -> Result<Vec<u8>, Failure> {
    let job = match client.call(asked)? {
        Response::DiffStart(JobReply { job })
        | Response::MergeStart(JobReply { job })
        | Response::RestoreStart(JobReply { job })
        | Response::UndoStart(JobReply { job })
        | Response::ApplyStart(JobReply { job }) => job,
        _ => return Err(unexpected()),
    };
    let length = wait(client, what, job, signals)?;
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

fn wait(client: &Client, what: &str, job: u64, signals: Signals) -> Result<u64, Failure> {
    let (begun, mut pause, mut is_told, mut is_ended) = (Instant::now(), SHORTEST, false, false);
    let is_terminal = io::stderr().is_terminal();
    let length = loop {
        if signals == Signals::Heard && interrupt::check().is_err() && !is_ended {
            client.call(JobEnd { job })?;
            is_ended = true;
        }
        let reply = match client.call(JobPoll { job }) {
            Ok(Response::JobPoll(reply)) => reply,
            Ok(_) => return Err(unexpected()),
            Err(failure) if is_ended => return Err(failure.or_exit(interrupt::exit_code())),
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
