//! Who descends from bound processes without carrying their mark: what PAM starts (`su`, `sudo`, `runuser`) has all limits
//! reset. As long as the parents live they tell. For those whose parents ended, the kernel tells root's daemon of each fork
//! and end of a process (the proc connector); a table holds the members of each binding.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::netlink::{CONNECTOR, SocketAddrNetlink};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use super::mark::Mark;

// From `linux/netlink.h`, `linux/connector.h` and `linux/cn_proc.h`.
const NLMSG_DONE: u16 = 3;
const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;
const PROC_CN_MCAST_LISTEN: u32 = 1;
const PROC_EVENT_FORK: u32 = 1;
const PROC_EVENT_EXIT: u32 = 0x8000_0000;
/// Where the event begins in a message: behind `struct nlmsghdr` and `struct cn_msg`.
const EVENT: usize = 16 + 20;
/// Where what it says begins in an event: behind its kind, the processor and the time.
const DATA: usize = 16;
/// Room for the events of a burst of short processes.
const BUFFER: usize = 4 << 20;

/// The members of bindings, by what the kernel tells.
#[derive(Default)]
pub(super) struct Descent {
    listener: OnceLock<Option<OwnedFd>>,
    members: Mutex<HashMap<u32, Mark>>,
    /// Some events were lost: who is in no binding by this table may be in one.
    is_incomplete: AtomicBool,
}

impl Descent {
    /// Listens from now on, if the kernel lets this daemon.
    pub(super) fn begin(self: &Arc<Self>) {
        self.listener.get_or_init(|| {
            let listener = listen().inspect_err(|error| {
                tracing::debug!(%error, "the kernel tells nothing of processes: sessions tell where parents ended");
            });
            let listener = listener.ok()?;
            let its = Arc::downgrade(self);
            let waits = listener.try_clone().ok()?;
            let drain = move || {
                while poll(&mut [PollFd::new(&waits, PollFlags::IN)], None).is_ok_and(|ready| ready > 0) {
                    let Some(its) = its.upgrade() else { return };
                    its.drain();
                }
            };
            thread::Builder::new().name("descent".into()).spawn(drain).ok()?;
            Some(listener)
        });
    }

    /// Returns whether all is told.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.listener.get(), Some(Some(_))) && !self.is_incomplete.load(Ordering::Relaxed)
    }

    /// These processes, and who descends from them from now on, are members of a binding.
    pub(super) fn note(&self, processes: impl IntoIterator<Item = u32>, mark: Mark) {
        if matches!(self.listener.get(), Some(Some(_))) {
            self.members.lock().extend(processes.into_iter().map(|process| (process, mark)));
        }
    }

    /// The binding that a process is a member of, as far as it is told.
    pub(super) fn of(&self, process: u32) -> Option<Mark> {
        self.drain();
        self.members.lock().get(&process).copied()
    }

    /// A binding has ended: nobody is a member any more.
    pub(super) fn forget(&self, mark: Mark) {
        self.members.lock().retain(|_, known| *known != mark);
    }

    /// Takes over what was told until now.
    fn drain(&self) {
        let Some(Some(listener)) = self.listener.get() else { return };
        let (mut members, mut buffer) = (self.members.lock(), [0; 4096]);
        loop {
            match recv(listener, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((len, _)) if len > 0 => take(&mut members, buffer.get(..len).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => {
                    if !self.is_incomplete.swap(true, Ordering::Relaxed) {
                        tracing::warn!("more processes came and went than could be told of");
                    }
                }
                _ => return,
            }
        }
    }
}

fn listen() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(CONNECTOR))?;
    bind(&socket, &SocketAddrNetlink::new(0, 1 << (CN_IDX_PROC - 1)))?;
    // More than this many is root's to have; less will do, too.
    let _ = set_socket_recv_buffer_size(&socket, BUFFER);
    let mut message = Vec::new();
    message.extend(((EVENT + 4) as u32).to_ne_bytes());
    message.extend(NLMSG_DONE.to_ne_bytes());
    message.extend([0; 10]); // flags, number, sender
    message.extend([CN_IDX_PROC, CN_VAL_PROC, 0, 0].map(u32::to_ne_bytes).concat());
    message.extend(4_u16.to_ne_bytes());
    message.extend([0; 2]);
    message.extend(PROC_CN_MCAST_LISTEN.to_ne_bytes());
    send(socket.as_fd(), &message, SendFlags::empty())?;
    Ok(socket)
}

/// What one message says.
fn take(members: &mut HashMap<u32, Mark>, message: &[u8]) {
    let word = |at: usize| {
        let bytes = message.get(EVENT + at..EVENT + at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    match word(0) {
        Some(PROC_EVENT_FORK) => {
            let (parent, child) = (word(DATA + 4), word(DATA + 12));
            if let (Some(mark), Some(child)) =
                (parent.and_then(|parent| members.get(&parent).copied()), child)
            {
                members.insert(child, mark);
            }
        }
        Some(PROC_EVENT_EXIT) => {
            let (thread, process) = (word(DATA), word(DATA + 4));
            if let Some(process) = process.filter(|process| thread == Some(*process)) {
                members.remove(&process);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn who_lost_its_parents_is_told_of() {
        let descent = Arc::new(Descent::default());
        descent.begin();
        if !descent.is_complete() {
            println!("SKIPPED: the kernel tells this user nothing of processes");
            return;
        }
        let mark = Mark::fresh();
        descent.note([std::process::id()], mark);
        // A process whose parents end at once.
        let script = "(sh -c 'echo $$; exec sleep 20' &) ; exit 0";
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
            .unwrap();
        child.wait().unwrap();
        let orphan: u32 = line.trim().parse().unwrap();
        assert_eq!(descent.of(orphan), Some(mark));
        assert_eq!(descent.of(1), None);
        let _ = Command::new("kill").arg(line.trim()).status();
        let begun = Instant::now();
        while descent.of(orphan).is_some() && begun.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(descent.of(orphan), None);
        descent.forget(mark);
        assert_eq!(descent.of(std::process::id()), None);
    }
}
