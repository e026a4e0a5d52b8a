//! `--background`: the daemon is started again without a terminal, and tells its parent when the mount answers.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// What a daemon tells its parent when its mount answers.
pub(crate) const READY: &str = "ready";

/// Starts the daemon in the background and waits until its mount answers. Its log goes to `log`.
///
/// # Errors
/// What the daemon says went wrong.
pub(crate) fn start(log: &Path) -> Result<()> {
    let open_log = OpenOptions::new().create(true).append(true).mode(0o600).open(log);
    let stderr = open_log.with_context(|| format!("the log {} cannot be written", log.display()))?;
    let words = std::env::args_os().skip(1).filter(|word| word != "--background");
    let mut daemon = Command::new(std::env::current_exe()?)
        .arg("--report-start")
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .context("the daemon cannot be started")?;
    match first_word(&mut daemon)?.as_deref() {
        Some(READY) => Ok(()),
        Some(error) => bail!("{error}"),
        None => bail!("the daemon ended before its mount answered; see {}", log.display()),
    }
}

/// Waits for what a daemon reports of its start: [`READY`], or why not; `None` when it ends without a word.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn first_word(daemon: &mut Child) -> io::Result<Option<String>> {
    let out = daemon.stdout.take().map(BufReader::new);
    out.and_then(|out| out.lines().next()).transpose()
}

/// In the daemon: leaves the terminal and the directory it was started from.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn detach() -> Result<()> {
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// In the daemon: tells the parent how the start went. Nobody listens afterwards.
pub(crate) fn report(outcome: Result<(), &anyhow::Error>) {
    let line = match outcome {
        Ok(()) => READY.to_owned(),
        Err(error) => format!("{error:#}").replace('\n', " "),
    };
    let mut out = std::io::stdout();
    // A parent that went away has nobody to tell.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
