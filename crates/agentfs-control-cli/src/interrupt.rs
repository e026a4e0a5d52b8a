//! Ctrl-C and its like: a command that takes long asks for them where it can stop, and leaves nothing behind. The second
//! time it ends at once.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::Failure;

/// What shells add to the number of a signal that ended a command.
const BY_SIGNAL: i32 = 128;

/// Whether the command was told to end.
static IS_CANCELLED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// The signal that told it.
static SIGNAL: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// From now on signals are asked for by [`check`].
///
/// # Errors
/// When signals cannot be caught.
pub(crate) fn watch() -> Result<(), Failure> {
    static IS_WATCHED: AtomicBool = AtomicBool::new(false);
    if IS_WATCHED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let caught = [SIGINT, SIGTERM, SIGHUP].into_iter().try_for_each(|signal| {
        flag::register_conditional_shutdown(signal, BY_SIGNAL + signal, IS_CANCELLED.clone())?;
        flag::register_usize(signal, SIGNAL.clone(), signal.unsigned_abs() as usize)?;
        flag::register(signal, IS_CANCELLED.clone()).map(drop)
    });
    caught.map_err(|error: io::Error| Failure::io("signals cannot be caught", &error))
}

/// Goes on unless the command was told to end.
///
/// # Errors
/// When it was, with the exit code that says by which signal.
pub(crate) fn check() -> Result<(), Failure> {
    match IS_CANCELLED.load(Ordering::Relaxed) {
        true => Err(Failure::new("interrupted").or_exit(exit_code())),
        false => Ok(()),
    }
}

/// What a shell sees of a command that the signal ended.
pub(crate) fn exit_code() -> u8 {
    (BY_SIGNAL as usize + SIGNAL.load(Ordering::Relaxed)) as u8
}
