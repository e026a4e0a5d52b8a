//! The control file: frames in, frames out. The thread that received the ioctl hands it over at once; a few threads
//! of its own carry requests out, so that no slow one stalls the volume. See `specs/control-protocol.md`.

mod authorize;
mod dispatch;
mod jobs;
mod lower;
mod merging;
mod processes;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::{io, thread};

use agentfs_core::{Caller, FsCore, FsError, Result, ViewId};
use agentfs_proto::{DecodeError, Request, Response, frame, ioctl};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use fuser::{Errno, ReplyIoctl};

use self::authorize::authorize;
use self::dispatch::Dispatcher;
use self::jobs::Jobs;
use crate::adapter::errno;
use crate::flusher::Flusher;
use crate::metrics::Metrics;
use crate::processes::Bindings;
use crate::views::{Caching, Node, NodeId, PidView, Special};

/// Threads that carry out requests.
const THREADS: usize = 4;
/// Requests that may wait; the next is told to try again.
const QUEUE: usize = 64;

/// The control file's server.
pub(crate) struct Control {
    jobs: Sender<Job>,
    /// Who mounted the volume.
    owner: u32,
}

/// Who asks, and where.
#[derive(Clone, Copy, Debug)]
struct Asker {
    /// The view whose control file was asked.
    view: ViewId,
    /// The thread, in our pid namespace; 0 when it is not in it.
    tid: u32,
    caller: Caller,
}

struct Job {
    asker: Asker,
    frame: Vec<u8>,
    reply: ReplyIoctl,
}

/// What the daemon tells about itself.
pub(crate) struct Identity {
    /// Who mounted the volume.
    pub(crate) owner: u32,
    /// Where the store is.
    pub(crate) store: String,
    /// What was negotiated with the kernel.
    pub(crate) granted: Arc<OnceLock<Vec<(&'static str, String)>>>,
}

/// What requests are about.
pub(crate) struct Parts {
    pub(crate) core: Arc<FsCore>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) bindings: Arc<Bindings>,
    pub(crate) caching: Arc<Caching>,
    pub(crate) pid_view: Arc<PidView>,
    pub(crate) flusher: Arc<Flusher>,
}

impl Control {
    /// Starts the control threads.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn start(parts: Parts, identity: Identity) -> io::Result<Control> {
        let (jobs, queue) = bounded(QUEUE);
        let owner = identity.owner;
        let Parts { core, metrics, bindings, caching, pid_view, flusher } = parts;
        let dispatcher = Arc::new(Dispatcher {
            core,
            metrics,
            bindings,
            caching,
            pid_view,
            flusher,
            identity,
            jobs: Jobs::default(),
        });
        for number in 0..THREADS {
            let (queue, dispatcher) = (queue.clone(), dispatcher.clone());
            thread::Builder::new()
                .name(format!("control-{number}"))
                .spawn(move || serve(&queue, &dispatcher))?;
        }
        Ok(Control { jobs, owner })
    }

    /// Takes an ioctl on any node: only the control file knows any, and only one.
    pub(crate) fn ioctl(
        &self,
        node: NodeId,
        (tid, caller): (u32, Caller),
        cmd: u32,
        data: &[u8],
        reply: ReplyIoctl,
    ) {
        let Node::Special(view, Special::Control) = node.node() else { return reply.error(Errno::ENOTTY) };
        if cmd != ioctl::CONTROL_IOCTL {
            return reply.error(Errno::ENOTTY);
        }
        // Others do not even take a place in the queue.
        if let Err(error) = authorize(caller, self.owner) {
            return send(reply, &Response::error(&error.to_string(), errno(&error).code() as u32));
        }
        match self.jobs.try_send(Job { asker: Asker { view, tid, caller }, frame: data.to_vec(), reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job.reply.error(Errno::EAGAIN),
        }
    }
}

fn serve(queue: &Receiver<Job>, dispatcher: &Arc<Dispatcher>) {
    for job in queue {
        let answered = catch_unwind(AssertUnwindSafe(|| answer(job, dispatcher)));
        if answered.is_err() {
            tracing::error!("a control request panicked and is answered EIO; please report this");
        }
    }
}

fn answer(job: Job, dispatcher: &Arc<Dispatcher>) {
    let Job { asker, frame, reply } = job;
    let request = match frame::decode(&frame).map(Request::decode) {
        Ok(Ok(request)) => request,
        Ok(Err(wrong @ DecodeError::Version(_))) => {
            return send(reply, &Response::error(&wrong.to_string(), libc::EINVAL as u32));
        }
        Ok(Err(_)) | Err(_) => return reply.error(Errno::EINVAL),
    };
    tracing::debug!(?request, ?asker, "control");
    if dispatcher.is_to_wait(&request) {
        // Whoever it waits for needs these threads.
        let dispatcher = dispatcher.clone();
        let wait = move || send(reply, &dispatcher.respond(asker, request));
        if let Err(error) = thread::Builder::new().name("control-waits".into()).spawn(wait) {
            tracing::warn!(%error, "a request cannot wait for an apply");
        }
        return;
    }
    send(reply, &dispatcher.respond(asker, request));
}

fn send(reply: ReplyIoctl, response: &Response) {
    match response.to_frame() {
        Ok(frame) => reply.ioctl(0, &frame),
        Err(_) => reply.error(Errno::EOVERFLOW),
    }
}

/// Ids and names are text.
fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| FsError::BadName("an id or a name is UTF-8".into()))
}
