//! Has the kernel write out what programs stored through `mmap`, or what it keeps of their writes. `fsync` does, waits for
//! the answers and tells of failures, without taking what the programs themselves are to be told; so another process of ours
//! opens files by their nodes and does that. Telling the kernel to drop their pages would do so too, but a page that is
//! dropped between a write's copy into it and the daemon's answer is read anew from before that write, and stays so. And a
//! daemon that waits for itself when it is killed never ends: that process only fails.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, fsync, major, minor, open, openat2};
use rustix::io::Errno;

use crate::views::NodeId;

/// How the process names a node, in `.agentfs`.
const PREFIX: &str = "node-";
/// Files that it is told of at a time; no more than the socket holds.
const BATCH: usize = 512;
/// How long one file may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why what the kernel keeps of a file was not written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unwritten {
    /// It tried, and this was the answer.
    Failed(Errno),
    /// The file could not be opened for it.
    Unopened(Errno),
}

/// The process, as the daemon knows it.
pub(crate) struct Flusher {
    mount: PathBuf,
    /// That of the volume as mounted, `major:minor`.
    device: OnceLock<String>,
    /// 0 while there is none.
    pid: AtomicU32,
    process: Mutex<Option<(Child, UnixStream)>>,
}

impl Flusher {
    pub(crate) fn new(mount: &Path) -> Flusher {
        let (pid, process) = (AtomicU32::new(0), Mutex::default());
        Flusher { mount: mount.to_owned(), device: OnceLock::new(), pid, process }
    }

    /// Starts the process, so that the first to need it need not.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(&self, device: Option<&str>) -> io::Result<()> {
        if let Some(device) = device {
            self.device.get_or_init(|| device.to_owned());
        }
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if process.is_none() {
            *process = Some(self.spawn()?);
        }
        Ok(())
    }

    fn spawn(&self) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("flush-files").arg(&self.mount).args(self.device.get()).stdin(OwnedFd::from(theirs));
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

    /// Has the kernel write out what it keeps of files. Returns those of which it did not.
    ///
    /// # Errors
    /// When there is no process to do it, or it takes too long.
    pub(crate) fn flush(&self, nodes: &[NodeId]) -> io::Result<Vec<(NodeId, Unwritten)>> {
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = self.ask(&mut process, nodes).or_else(|error| {
            self.end(&mut process);
            if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                return Err(ErrorKind::TimedOut.into());
            }
            // It was killed: another one.
            self.ask(&mut process, nodes)
        });
        asked.inspect_err(|_| self.end(&mut process))
    }

    fn end(&self, process: &mut Option<(Child, UnixStream)>) {
        self.pid.store(0, Ordering::Release);
        if let Some((mut child, _)) = process.take() {
            let _ = child.kill();
            // It may wait for an answer of ours.
            thread::spawn(move || child.wait());
        }
    }

    fn ask(
        &self,
        process: &mut Option<(Child, UnixStream)>,
        nodes: &[NodeId],
    ) -> io::Result<Vec<(NodeId, Unwritten)>> {
        let (_, socket) = match process {
            Some(process) => process,
            None => process.insert(self.spawn()?),
        };
        let mut unwritten = Vec::new();
        for batch in nodes.chunks(BATCH) {
            let words: Vec<u8> = batch.iter().flat_map(|node| node.0.to_ne_bytes()).collect();
            socket.write_all(&words)?;
            for node in batch {
                let mut word = [0; 4];
                socket.read_exact(&mut word)?;
                unwritten.extend(answered(i32::from_ne_bytes(word)).map(|why| (*node, why)));
            }
        }
        Ok(unwritten)
    }
}

/// What an answer of the process means: 0, the errno of what failed, or that of opening the file, negative.
fn answered(word: i32) -> Option<Unwritten> {
    match word {
        0 => None,
        1.. => Some(Unwritten::Failed(Errno::from_raw_os_error(word))),
        _ => Some(Unwritten::Unopened(Errno::from_raw_os_error(word.saturating_neg()))),
    }
}

/// In that process: has the files written out that standard input tells of, until it ends.
///
/// # Errors
/// When it is no socket.
pub(crate) fn serve(mount: &Path, device: Option<&str>) -> io::Result<()> {
    let mut socket = UnixStream::from(rustix::io::dup(rustix::stdio::stdin())?);
    let mut word = [0; 8];
    while socket.read_exact(&mut word).is_ok() {
        let answer = match open_node(mount, device, u64::from_ne_bytes(word)) {
            Ok(file) => fsync(file).err().map_or(0, Errno::raw_os_error),
            // It was deleted.
            Err(Errno::NOENT | Errno::STALE) => 0,
            Err(error) => -error.raw_os_error(),
        };
        socket.write_all(&answer.to_ne_bytes())?;
    }
    Ok(())
}

/// Opens a file of the volume; nothing that is mounted over it or in it.
fn open_node(mount: &Path, device: Option<&str>, node: u64) -> Result<OwnedFd, Errno> {
    let at = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = open(mount, at, Mode::empty()).map_err(|_| Errno::XDEV)?;
    let found = fstat(&root)?.st_dev;
    if device.is_some_and(|device| device != format!("{}:{}", major(found), minor(found))) {
        return Err(Errno::XDEV);
    }
    let name = format!(".agentfs/{PREFIX}{node}");
    let open = |mode: OFlags| {
        let flags = mode | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        openat2(root.as_fd(), &name, flags, Mode::empty(), within)
    };
    // Its mode may allow but one of the two.
    open(OFlags::RDONLY)
        .or_else(|error| if error == Errno::ACCESS { open(OFlags::WRONLY) } else { Err(error) })
}
