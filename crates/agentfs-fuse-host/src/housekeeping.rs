//! What a volume does by itself: it makes its log durable every few seconds, deletes what nothing names, shortens its log
//! and empties its packs, and sweeps away what a crash left.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

use agentfs_core::FsCore;

use crate::memory;
use crate::processes::Bindings;
use crate::views::Caching;

/// What was answered and not synced may be lost by a power cut, for so long at most.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// How often there is a look at what else is to be done.
const TEND_INTERVAL: Duration = Duration::from_millis(200);

/// How often memory that is not used goes back to the kernel.
const TRIM_INTERVAL: Duration = Duration::from_secs(30);

/// Starts the thread; it ends with the volume.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn start(core: &Arc<FsCore>) -> io::Result<()> {
    let core = Arc::downgrade(core);
    thread::Builder::new().name("housekeeping".into()).spawn(move || keep(&core))?;
    Ok(())
}

fn keep(core: &Weak<FsCore>) {
    if let Some(Err(error)) = core.upgrade().map(|core| core.sweep()) {
        tracing::warn!(%error, "objects that nothing names may have been left");
    }
    let (mut synced, mut trimmed, mut told) = (Instant::now(), Instant::now(), None);
    loop {
        thread::sleep(TEND_INTERVAL);
        let Some(core) = core.upgrade() else { return };
        let due = synced.elapsed() >= SYNC_INTERVAL;
        let kept = if due { core.sync() } else { Ok(()) }.and_then(|()| core.tend());
        if due {
            synced = Instant::now();
        }
        if trimmed.elapsed() >= TRIM_INTERVAL {
            memory::give_back();
            trimmed = Instant::now();
        }
        // What goes on for long is told once.
        let trouble = kept.err().map(|error| error.to_string());
        if let Some(error) = trouble.as_ref().filter(|_| trouble != told) {
            tracing::error!(error, "the store cannot be kept in order; it is tried again");
        }
        told = trouble;
    }
}

/// How often there is a look at which bound processes live.
const PROCESS_INTERVAL: Duration = Duration::from_secs(2);
/// And how often when one look has not found those of a binding.
const MISSING_INTERVAL: Duration = Duration::from_millis(100);

/// Starts the thread that ends bindings with their last process; it ends with the volume.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn watch_processes(bindings: &Arc<Bindings>, caching: &Arc<Caching>) -> io::Result<()> {
    let (bindings, caching) = (Arc::downgrade(bindings), Arc::downgrade(caching));
    thread::Builder::new().name("processes".into()).spawn(move || {
        let mut interval = PROCESS_INTERVAL;
        loop {
            thread::sleep(interval);
            let (Some(bindings), Some(caching)) = (bindings.upgrade(), caching.upgrade()) else { return };
            interval = if bindings.sweep() { MISSING_INTERVAL } else { PROCESS_INTERVAL };
            caching.tend();
        }
    })?;
    Ok(())
}
