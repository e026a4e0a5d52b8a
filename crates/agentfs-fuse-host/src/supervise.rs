//! `--supervise`: a process that serves nothing starts the daemon, and starts it again when it died. What is open is lost to who
//! has it open; whoever opens it again goes on, in the branch that it was in.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::args::Args;
use crate::background;
use crate::config::{Backstore, Settings};
use crate::mount;
use crate::signals;

/// A daemon that served so long was well.
const WELL: Duration = Duration::from_secs(10);
/// So many that were not, one after the other, and it is given up.
const MOST_TRIES: u32 = 5;
/// Before the second of these is started; twice as long before each that follows.
const PAUSE: Duration = Duration::from_millis(200);

/// The daemon that serves now, for who is to end it.
#[derive(Default)]
struct Served {
    process: Option<OwnedFd>,
    is_to_end: bool,
}

/// Serves the volume until it is unmounted, or its daemon was asked to end.
///
/// # Errors
/// When it cannot be supervised, when the first daemon does not start, and when one dies again and again.
pub(crate) fn run(args: &Args, settings: &Settings, mount: &Path) -> Result<()> {
    if !mount::is_root() {
        bail!("--supervise needs root: nobody else can cover the mount of a daemon that died");
    }
    let words = words(args, settings, mount)?;
    let served = Arc::new(Mutex::new(Served::default()));
    let to_end = served.clone();
    signals::hold()?.listen(move |_| end(&to_end))?;
    let mut is_told = !args.report_start;
    let ended = keep_served(&words, &served, mount, &mut is_told);
    if !is_told {
        background::report(ended.as_ref().copied());
    }
    ended
}

/// Starts daemons until one ends as it should. Whoever waits for that is told when the first mount answers.
fn keep_served(words: &[OsString], served: &Mutex<Served>, mount: &Path, is_told: &mut bool) -> Result<()> {
    let mut tries = 0;
    loop {
        let begun = Instant::now();
        let end = match start(words, served) {
            Ok(Some(mut daemon)) => {
                if !*is_told {
                    *is_told = true;
                    background::report(Ok(()));
                    background::detach()?;
                }
                let status = daemon.wait()?;
                served.lock().process = None;
                if is_over(served, mount, status) {
                    return if status.success() { Ok(()) } else { bail!("the daemon ended: {status}") };
                }
                format!("it ended: {status}")
            }
            // It was asked to end before it was there.
            Ok(None) => return Ok(()),
            // Nobody is in a volume that is not mounted.
            Err(error) if !mount::is_dead(mount) => return Err(error),
            Err(error) => format!("{error:#}"),
        };
        tries = if begun.elapsed() < WELL { tries + 1 } else { 0 };
        if tries >= MOST_TRIES {
            bail!(
                "the daemon was started {tries} times within seconds and died ({end}): it is given up, and the volume at {} \
                 answers nobody until it is mounted again",
                mount.display()
            );
        }
        if tries > 0 {
            thread::sleep(PAUSE * (1 << (tries - 1)));
        }
        tracing::error!(end, mount = %mount.display(), "the daemon died and is started again");
    }
}

/// Was it asked to end, or is the volume not mounted any more?
fn is_over(served: &Mutex<Served>, mount: &Path, status: ExitStatus) -> bool {
    let is_to_end = served.lock().is_to_end;
    status.success() || is_to_end || !mount::is_dead(mount)
}

fn end(served: &Mutex<Served>) {
    let mut served = served.lock();
    served.is_to_end = true;
    if let Some(process) = &served.process
        && let Err(error) = pidfd_send_signal(process, Signal::TERM)
    {
        tracing::warn!(%error, "the daemon has just ended");
    }
}

/// Starts a daemon and waits until its mount answers; `None` when none is wanted any more.
fn start(words: &[OsString], served: &Mutex<Served>) -> Result<Option<Child>> {
    let mut daemon = {
        let mut served = served.lock();
        if served.is_to_end {
            return Ok(None);
        }
        let mut command = Command::new("/proc/self/exe");
        command.args(words).current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped());
        let daemon = command.spawn().context("the daemon cannot be started")?;
        served.process = Some(process(&daemon)?);
        daemon
    };
    let told = background::first_word(&mut daemon)?;
    match told.as_deref() {
        Some(background::READY) => Ok(Some(daemon)),
        told => {
            let status = daemon.wait()?;
            served.lock().process = None;
            match told {
                Some(error) => bail!("{error}"),
                None => bail!("the daemon ended before its mount answered: {status}"),
            }
        }
    }
}

fn process(daemon: &Child) -> io::Result<OwnedFd> {
    Ok(pidfd_open(rustix::process::Pid::from_child(daemon), PidfdFlags::empty())?)
}

/// What the daemon is told: the same, from whichever directory.
fn words(args: &Args, settings: &Settings, mount: &Path) -> Result<Vec<OsString>> {
    let Backstore::HostFs { root, .. } = &settings.backstore else {
        bail!("--supervise needs a store: what a volume in memory has dies with its daemon");
    };
    let mut words: Vec<OsString> = vec!["--report-start".into()];
    let paths = [
        ("--config", args.config.as_deref()),
        ("--store", Some(root)),
        ("--lower", settings.lower.as_deref()),
    ];
    for (option, path) in paths {
        if let Some(path) = path {
            words.extend([option.into(), std::path::absolute(path)?.into()]);
        }
    }
    words.extend(args.allow_other.then(|| "--allow-other".into()));
    words.push(mount.into());
    Ok(words)
}
