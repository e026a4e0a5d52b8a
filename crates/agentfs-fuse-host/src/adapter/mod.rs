//! The kernel's requests, translated: each method turns its arguments into a call of the core, of the volume's own
//! directories or of the control file, and the result into a reply. It decides nothing and holds no state but its
//! handles. A reply that is dropped, as by a panic, is answered EIO by fuser: nobody waits for ever.

mod attr;
mod attributes;
mod caller;
mod errno;
mod passthrough;
mod reply;
mod requests;
mod route;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use agentfs_core::FsCore;

pub(crate) use self::errno::errno;
pub(crate) use self::passthrough::Passthrough;
use crate::awake::Awake;
use crate::control::Control;
use crate::flusher::Flusher;
use crate::metrics::{Metrics, Request};
use crate::negotiate::Wishes;
use crate::processes::Bindings;
use crate::readers::Readers;
use crate::views::{Caching, PidView, Synthetic};
use crate::write_pool::WritePool;

/// The volume as the kernel's server.
pub(crate) struct Adapter {
    pub(crate) core: Arc<FsCore>,
    pub(crate) synthetic: Synthetic,
    pub(crate) control: Control,
    pub(crate) pool: WritePool,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) bindings: Arc<Bindings>,
    pub(crate) pid_view: Arc<PidView>,
    pub(crate) caching: Arc<Caching>,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) passthrough: Passthrough,
    pub(crate) awake: Option<Arc<Awake>>,
    pub(crate) readers: Readers,
    pub(crate) wishes: Wishes,
}

impl Adapter {
    /// Serves a request: counts it, and keeps a panic from taking the thread along.
    fn serve(&self, request: Request, work: impl FnOnce()) {
        let begun = Instant::now();
        self.readers.received(begun, request.may_wait());
        if let Some(awake) = &self.awake {
            awake.note(begun);
        }
        self.attend(request, begun, work);
        self.readers.answered();
    }

    /// As [`Adapter::serve`], for what takes no answer and may come in many pieces at once.
    fn heed(&self, request: Request, work: impl FnOnce()) {
        self.attend(request, Instant::now(), work);
    }

    fn attend(&self, request: Request, begun: Instant, work: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            tracing::error!(?request, "a request panicked and is answered EIO; please report this");
        }
        self.metrics.count(request, begun.elapsed());
    }
}
