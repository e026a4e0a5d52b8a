//! SIGTERM, SIGINT and SIGHUP.

use std::io;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Calls `stop` on a thread of its own at each signal that asks to end, with how many there were.
///
/// # Errors
/// When signals cannot be watched.
pub(crate) fn on_termination(stop: impl Fn(usize) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for (before, _signal) in signals.forever().enumerate() {
            stop(before + 1);
        }
    })?;
    Ok(())
}
