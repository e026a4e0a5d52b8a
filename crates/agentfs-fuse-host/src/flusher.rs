//! Has the kernel write out what programs stored through `mmap`, or what it keeps of their writes. Closing a file does, and
//! waits for the answers; so another process of ours opens files by their nodes and closes them again. Telling the kernel to
//! drop their pages would do so too, but a page that is dropped between a write's copy into it and the daemon's answer is
//! read anew from before that write, and stays so. And a daemon that waits for itself when it is killed never ends: that
//! process only fails.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::views::NodeId;

/// How the process names a node, in `.agentfs`.
const PREFIX: &str = "node-";
/// Files that it is told of at a time; no more than the socket holds.
const BATCH: usize = 512;
const DONE: u8 = 1;
const FAILED: u8 = 0;

/// The process, as the daemon knows it.
pub(crate) struct Flusher {
    mount: PathBuf,
    /// 0 while there is none.
    pid: AtomicU32,
    process: Mutex<Option<(Child, UnixStream)>>,
}

impl Flusher {
    pub(crate) fn new(mount: &Path) -> Flusher {
        Flusher { mount: mount.to_owned(), pid: AtomicU32::new(0), process: Mutex::default() }
    }

    /// Starts the process, so that the first to need it need not.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(&self) -> io::Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if process.is_none() {
            *process = Some(self.spawn()?);
        }
        Ok(())
    }

    fn spawn(&self) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("flush-files").arg(&self.mount).stdin(OwnedFd::from(theirs));
        // A signal from a terminal is the daemon's.
        let child = command.current_dir("/").stdout(Stdio::null()).process_group(0).spawn()?;
        self.pid.store(child.id(), Ordering::Release);
        Ok((child, ours))
    }

    /// Is this thread the process?
    pub(crate) fn is_process(&self, tid: u32) -> bool {
        tid != 0 && self.pid.load(Ordering::Acquire) == tid
    }

    /// The node that the process means by a name.
    pub(crate) fn named(name: &[u8]) -> Option<NodeId> {
        let number = std::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?;
        number.parse().ok().map(NodeId)
    }

    /// Has the kernel write out what it keeps of files. Returns those of which it could not be had.
    pub(crate) fn flush(&self, nodes: &[NodeId]) -> Vec<NodeId> {
        if nodes.is_empty() {
            return Vec::new();
        }
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = self.ask(&mut process, nodes).or_else(|_| {
            // It was killed: another one.
            self.end(&mut process);
            self.ask(&mut process, nodes)
        });
        asked.unwrap_or_else(|error| {
            tracing::warn!(%error, "no process to have files written out");
            self.end(&mut process);
            nodes.to_vec()
        })
    }

    fn end(&self, process: &mut Option<(Child, UnixStream)>) {
        self.pid.store(0, Ordering::Release);
        if let Some((mut child, _)) = process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn ask(&self, process: &mut Option<(Child, UnixStream)>, nodes: &[NodeId]) -> io::Result<Vec<NodeId>> {
        let (_, socket) = match process {
            Some(process) => process,
            None => process.insert(self.spawn()?),
        };
        let mut failed = Vec::new();
        for batch in nodes.chunks(BATCH) {
            let words: Vec<u8> = batch.iter().flat_map(|node| node.0.to_ne_bytes()).collect();
            let mut answers = vec![FAILED; batch.len()];
            socket.write_all(&words)?;
            socket.read_exact(&mut answers)?;
            failed.extend(
                batch.iter().zip(answers).filter(|(_, answer)| *answer != DONE).map(|(node, _)| *node),
            );
        }
        Ok(failed)
    }
}

/// In that process: opens and closes the files that standard input tells of, until it ends.
///
/// # Errors
/// When it is no socket.
pub(crate) fn serve(mount: &Path) -> io::Result<()> {
    let mut socket = UnixStream::from(rustix::io::dup(rustix::stdio::stdin())?);
    let directory = mount.join(".agentfs");
    let mut word = [0; 8];
    while socket.read_exact(&mut word).is_ok() {
        let opened = File::open(directory.join(format!("{PREFIX}{}", u64::from_ne_bytes(word))));
        socket.write_all(&[if opened.map(drop).is_ok() { DONE } else { FAILED }])?;
    }
    Ok(())
}
