//! What a service manager is told (`sd_notify(3)`): that the volume is served, that it ends, and now and then that the daemon
//! is well. Without one nothing is told.

use std::sync::{Arc, Weak};
use std::time::Duration;
use std::{io, thread};

use agentfs_core::FsCore;
use sd_notify::NotifyState;

/// The mount answers.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The volume was unmounted and is made durable.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// Starts the thread that tells a service manager, if one wants to hear it (`WatchdogSec=`), that the daemon is well, twice as
/// often as it wants to; the thread ends with the volume. It is well when the locks of the volume can be had: a slow disk is no
/// reason to kill it.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn watch(core: &Arc<FsCore>) -> io::Result<()> {
    let Some(limit) = sd_notify::watchdog_enabled() else { return Ok(()) };
    let core = Arc::downgrade(core);
    thread::Builder::new().name("watchdog".into()).spawn(move || keep_telling(&core, limit / 2))?;
    Ok(())
}

fn keep_telling(core: &Weak<FsCore>, interval: Duration) {
    while let Some(core) = core.upgrade() {
        if let Err(error) = core.status() {
            tracing::error!(%error, "the volume is not well");
            return;
        }
        tell(&[NotifyState::Watchdog]);
        drop(core);
        thread::sleep(interval);
    }
}
