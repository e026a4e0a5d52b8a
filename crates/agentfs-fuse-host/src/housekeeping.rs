//! What a volume does by itself: it makes its log durable every few seconds, and sweeps away what a crash left.

use std::sync::{Arc, Weak};
use std::time::Duration;
use std::{io, thread};

use agentfs_core::FsCore;

/// What was answered and not synced may be lost by a power cut, for so long at most.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);

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
    loop {
        thread::sleep(SYNC_INTERVAL);
        let Some(core) = core.upgrade() else { return };
        if let Err(error) = core.sync() {
            tracing::error!(%error, "the log cannot be made durable");
        }
    }
}
