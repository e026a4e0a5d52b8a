//! SIGTERM, SIGINT and SIGHUP.

use std::io;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Signals that ask to end, held back until somebody listens.
pub(crate) struct Termination(Signals);

/// From now on such a signal does not end the process by itself. To be called before anything is mounted: a daemon that
/// just dies leaves a dead mount.
///
/// # Errors
/// When signals cannot be watched.
pub(crate) fn hold() -> io::Result<Termination> {
    Signals::new([SIGTERM, SIGINT, SIGHUP]).map(Termination)
}

impl Termination {
    /// Calls `stop` on a thread of its own at each signal, with how many there were.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn listen(mut self, stop: impl Fn(usize) + Send + 'static) -> io::Result<()> {
        thread::Builder::new().name("signals".into()).spawn(move || {
            for (before, _signal) in self.0.forever().enumerate() {
                stop(before + 1);
            }
        })?;
        Ok(())
    }
}
