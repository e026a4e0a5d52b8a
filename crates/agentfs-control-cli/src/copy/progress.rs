//! How far a copy has come, told on standard error: all the while on a terminal, every ten seconds elsewhere.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Counts files.
pub(crate) struct Progress {
    what: &'static str,
    is_terminal: bool,
    told: Instant,
    done: u64,
}

impl Progress {
    /// Of an action, as `applied`.
    pub(crate) fn new(what: &'static str) -> Progress {
        Progress { what, is_terminal: io::stderr().is_terminal(), told: Instant::now(), done: 0 }
    }

    /// One file more.
    pub(crate) fn count(&mut self, path: &Path) {
        self.done += 1;
        let pause = if self.is_terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        if self.told.elapsed() < pause {
            return;
        }
        self.told = Instant::now();
        let (start, end) = if self.is_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        let path = crate::output::shown(path.as_os_str().as_encoded_bytes());
        let _ = write!(io::stderr(), "{start}{} {}: {path}{end}", self.done, self.what);
    }

    /// How many there were. Clears the line.
    pub(crate) fn finish(&self) -> u64 {
        if self.is_terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        self.done
    }
}
