//! The mark of a binding: a number in the soft limit on the processor time of real-time processes (`RLIMIT_RTTIME`) that
//! stands for 25,000 years and so limits nothing. The kernel copies it at every fork and keeps it over exec, whatever
//! becomes of the parents; no other process ever has it, whatever number it gets; it outlives the daemon; and reading it
//! takes one system call that accepts the thread ids FUSE tells. A program that sets this limit itself loses the mark:
//! then its ancestors' counts.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::OnceLock;

use rlimit::Resource;
use serde::{Deserialize, Serialize};

const TAG: u64 = 0x0AF5 << 48;
const TAG_BITS: u64 = 0xFFFF << 48;

/// What the members of a binding carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Mark(u64);

/// What a process carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    /// A mark.
    Mark(Mark),
    /// None, and the limit is as it comes.
    Nothing,
    /// None, because the process limits itself.
    OwnLimit,
}

impl Mark {
    /// A mark that nobody carries.
    pub(crate) fn fresh() -> Mark {
        let random = RandomState::new().build_hasher().finish();
        Mark(TAG | (random & !TAG_BITS))
    }

    /// As a limit, in microseconds.
    pub(crate) fn value(self) -> u64 {
        self.0
    }

    fn read(soft: u64) -> Carried {
        match soft {
            rlimit::INFINITY => Carried::Nothing,
            usual if usual == usual_limit() => Carried::Nothing,
            soft if soft & TAG_BITS == TAG => Carried::Mark(Mark(soft)),
            _ => Carried::OwnLimit,
        }
    }
}

/// What processes have here that nobody gave a limit, as this one; a mark is not that.
fn usual_limit() -> u64 {
    static USUAL: OnceLock<u64> = OnceLock::new();
    *USUAL.get_or_init(|| {
        let own = rlimit::getrlimit(Resource::RTTIME).map_or(rlimit::INFINITY, |(soft, _)| soft);
        if own & TAG_BITS == TAG { rlimit::INFINITY } else { own }
    })
}

/// What a process or thread carries; `None` when there is no such one here.
pub(super) fn carried(tid: u32) -> Option<Carried> {
    let tid = i32::try_from(tid).ok().filter(|tid| *tid > 0)?;
    let (mut soft, mut hard) = (0, 0);
    match rlimit::prlimit(tid, Resource::RTTIME, None, Some((&mut soft, &mut hard))) {
        Ok(()) => Some(Mark::read(soft)),
        // Of another user: the same is told to everybody in /proc, though slower.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => told(tid).map(Mark::read),
        Err(_) => None,
    }
}

fn told(tid: i32) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{tid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max realtime timeout"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(rlimit::INFINITY) } else { soft.parse().ok() }
}

/// Gives a process a soft limit, in microseconds: a mark, or none.
///
/// # Errors
/// ESRCH when it is gone, EPERM when it is another user's, EINVAL when its hard limit is lower.
pub(crate) fn set(pid: u32, soft: u64) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let (mut old, mut hard) = (0, 0);
    rlimit::prlimit(pid, Resource::RTTIME, None, Some((&mut old, &mut hard)))?;
    rlimit::prlimit(pid, Resource::RTTIME, Some((soft, hard)), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_carries_the_mark_also_when_told_by_proc() {
        let mut child = std::process::Command::new("sleep").arg("20").spawn().unwrap();
        let pid = child.id();
        assert_ne!(carried(pid), Some(Carried::OwnLimit));
        let mark = Mark::fresh();
        set(pid, mark.value()).unwrap();
        assert_eq!(carried(pid), Some(Carried::Mark(mark)));
        assert_eq!(told(pid as i32).map(Mark::read), Some(Carried::Mark(mark)));
        set(pid, 200_000).unwrap();
        assert_eq!(carried(pid), Some(Carried::OwnLimit));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(carried(pid), None);
        assert_eq!(carried(0), None);
    }

    #[test]
    fn marks_differ_and_are_no_limit_anybody_would_set() {
        let (a, b) = (Mark::fresh(), Mark::fresh());
        assert_ne!(a, b);
        assert_eq!(Mark::read(a.value()), Carried::Mark(a));
        assert!(a.value() > 1 << 58 && a.value() < rlimit::INFINITY >> 1);
    }
}
