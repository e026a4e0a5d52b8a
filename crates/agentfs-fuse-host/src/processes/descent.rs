//! Who descends from bound processes without carrying their mark: what PAM starts (`su`, `sudo`, `runuser`) has all limits
//! reset. As long as the parents live they tell. For those whose parents ended, the kernel tells root's daemon of each fork
//! and end of a process (the proc connector); a table holds the members of each binding.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{CONNECTOR, SocketAddrNetlink};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};
use rustix::time::{ClockId, clock_gettime};

use super::mark::Mark;
use super::proc::{parents, stat};

// From `linux/netlink.h`, `linux/connector.h` and `linux/cn_proc.h`.
const NLMSG_DONE: u16 = 3;
const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;
const PROC_CN_MCAST_LISTEN: u32 = 1;
const PROC_EVENT_FORK: u32 = 1;
/// Where the event begins in a message: behind `struct nlmsghdr` and `struct cn_msg`.
const EVENT: usize = 16 + 20;
/// Where what it says begins in an event: behind its kind, the processor and the time.
const DATA: usize = 16;
/// Room for the events of a burst of short processes.
const BUFFER: usize = 32 << 20;

/// A member of a binding. A process that was started later than this one was told of has only got its number.
#[derive(Clone, Copy)]
struct Member {
    mark: Mark,
    /// In ticks since the boot.
    started: u64,
}

/// The members of bindings, by what the kernel tells.
#[derive(Default)]
pub(super) struct Descent {
    listener: OnceLock<Option<OwnedFd>>,
    members: Mutex<HashMap<u32, Member>>,
    /// Between these moments, in ticks since the boot, events were lost: an orphan of that time may be a member.
    missed: Mutex<Vec<(u64, u64)>>,
    /// When all was told last, in ticks since the boot.
    told_until: AtomicU64,
}

impl Descent {
    /// Listens from now on, if the kernel lets this daemon. Bindings that are older have members that nobody told of.
    pub(super) fn begin(self: &Arc<Self>, has_older: bool) {
        self.listener.get_or_init(|| {
            let listener = listen().inspect_err(|error| {
                tracing::debug!(%error, "the kernel tells nothing of processes: sessions tell where parents ended");
            });
            let listener = listener.ok()?;
            self.told_until.store(ticks_now(), Ordering::Relaxed);
            if has_older {
                self.missed.lock().push((0, ticks_now()));
            }
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

    /// Returns whether the kernel tells of processes.
    pub(super) fn is_told(&self) -> bool {
        matches!(self.listener.get(), Some(Some(_)))
    }

    /// Returns whether a process that was started then, of which nothing was told, may be a member.
    pub(super) fn may_have_missed(&self, started: u64) -> bool {
        !self.is_told() || self.missed.lock().iter().any(|(from, until)| (*from..=*until).contains(&started))
    }

    /// These processes, and who descends from them from now on, are members of bindings.
    pub(super) fn note(&self, processes: impl IntoIterator<Item = (u32, Mark)>) {
        if self.is_told() {
            let member = |(process, mark)| Some((process, Member { mark, started: stat(process)?.started }));
            self.members.lock().extend(processes.into_iter().filter_map(member));
        }
    }

    /// The binding that a process is a member of, as far as it is told.
    pub(super) fn of(&self, process: u32) -> Option<Mark> {
        self.drain();
        let member = self.members.lock().get(&process).copied()?;
        stat(process).filter(|stat| stat.started <= member.started).map(|_| member.mark)
    }

    /// A binding has ended: nobody is a member any more.
    pub(super) fn forget(&self, mark: Mark) {
        self.members.lock().retain(|_, known| known.mark != mark);
    }

    /// Forgets who has ended.
    pub(super) fn sweep(&self) {
        self.drain();
        self.members
            .lock()
            .retain(|process, known| stat(*process).is_some_and(|stat| stat.started <= known.started));
    }

    /// All bindings have ended: what was missed matters to none.
    pub(super) fn forget_all(&self) {
        self.members.lock().clear();
        self.missed.lock().clear();
    }

    /// Takes over what was told until now.
    fn drain(&self) {
        let Some(Some(listener)) = self.listener.get() else { return };
        let (mut members, mut buffer, mut has_missed) = (self.members.lock(), [0; 4096], false);
        loop {
            match recv(listener, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((len, _)) if len > 0 => take(&mut members, buffer.get(..len).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => has_missed = true,
                _ => break,
            }
        }
        let (since, now) = (self.told_until.load(Ordering::Relaxed), ticks_now());
        self.told_until.store(now, Ordering::Relaxed);
        if has_missed && !members.is_empty() {
            tracing::warn!("more processes came and went than could be told of");
            find_descendants(&mut members);
            let mut missed = self.missed.lock();
            match missed.last_mut().filter(|last| last.1 + 1 >= since) {
                Some(last) => last.1 = now,
                None => missed.push((since, now)),
            }
        }
    }
}

/// Takes over the living who descend from members, by their parents.
fn find_descendants(members: &mut HashMap<u32, Member>) {
    for process in super::proc::all() {
        let Some(own) = stat(process) else { continue };
        let is_member = |process: u32, started| {
            members.get(&process).copied().filter(|member: &Member| started <= member.started)
        };
        if is_member(process, own.started).is_some() {
            continue;
        }
        let parent = parents(process).find_map(|parent| is_member(parent, stat(parent)?.started));
        if let Some(Member { mark, .. }) = parent {
            members.insert(process, Member { mark, started: own.started });
        }
    }
}

/// Now, in ticks since the boot, as the kernel tells when processes were started.
fn ticks_now() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let second = rustix::param::clock_ticks_per_second();
    now.tv_sec as u64 * second + now.tv_nsec as u64 * second / 1_000_000_000
}

fn listen() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(CONNECTOR))?;
    bind(&socket, &SocketAddrNetlink::new(0, 1 << (CN_IDX_PROC - 1)))?;
    // More than this many is root's to have; less will do, too.
    if set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
        let _ = set_socket_recv_buffer_size(&socket, BUFFER);
    }
    let mut message = Vec::new();
    message.extend(((EVENT + 4) as u32).to_ne_bytes());
    message.extend(NLMSG_DONE.to_ne_bytes());
    message.extend([0; 10]); // flags, number, sender
    message.extend([CN_IDX_PROC, CN_VAL_PROC, 0, 0].map(u32::to_ne_bytes).concat());
    message.extend(4_u16.to_ne_bytes());
    message.extend([0; 2]);
    message.extend(PROC_CN_MCAST_LISTEN.to_ne_bytes());
    send(socket.as_fd(), &message, SendFlags::empty())?;
    // In another namespace of processes or users than the first, it takes this and tells nothing.
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    if poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&second))? == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(socket)
}

/// What one message says. Who has ended is told apart by its start from who gets its number: an end is told of a thread that
/// executes another program, too.
fn take(members: &mut HashMap<u32, Member>, message: &[u8]) {
    let word = |at: usize| {
        let bytes = message.get(EVENT + at..EVENT + at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let forked = || Some((word(DATA + 4)?, word(DATA + 8)?, word(DATA + 12)?));
    let (Some(PROC_EVENT_FORK), Some((parent, thread, child))) = (word(0), forked()) else { return };
    if thread != child {
        return;
    }
    match members.get(&parent).map(|parent| parent.mark) {
        // By the time when it is told of, it was started.
        Some(mark) => members.insert(child, Member { mark, started: ticks_now() }),
        None => members.remove(&child),
    };
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn who_lost_its_parents_is_told_of() {
        let descent = Arc::new(Descent::default());
        descent.begin(false);
        if !descent.is_told() {
            println!("SKIPPED: the kernel tells this user nothing of processes");
            return;
        }
        let mark = Mark::fresh();
        descent.note([(std::process::id(), mark)]);
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
