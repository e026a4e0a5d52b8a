//! Who carries no mark, and may be a member of a binding all the same: see `descent`.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use agentfs_core::{FsError, Result};
use rustix::fs::{Access, AtFlags, Mode, OFlags, accessat};

use super::binding::{Binding, Kind};
use super::bindings::Bindings;
use super::mark::Mark;
use super::proc;

/// A process or thread that carries no mark.
pub(super) struct Unmarked {
    /// Its directory in `/proc`: no other process under that number has it.
    handle: OwnedFd,
    generation: u64,
    /// The binding that it is a member of all the same.
    of: Option<Mark>,
}

impl Unmarked {
    pub(super) fn lives(&self) -> bool {
        accessat(&self.handle, "stat", Access::EXISTS, AtFlags::empty()).is_ok()
    }
}

/// So many are remembered: each has a descriptor, of which files need most.
fn max_unmarked() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    (limit / 8).clamp(16, 4096) as usize
}

impl Bindings {
    /// The binding that a process without a mark is a member of: that of its ancestors, or of those that it had.
    pub(super) fn of_unmarked(&self, tid: u32, has_own_limit: bool) -> Result<Option<Binding>> {
        let generation = self.generation.load(Ordering::SeqCst);
        if let Some(known) = self.unmarked.read().get(&tid).filter(|known| known.generation == generation)
            && known.lives()
        {
            return Ok(known.of.and_then(|mark| self.read().known.get(&mark).cloned()));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(format!("/proc/{tid}"), flags, Mode::empty());
        let process = proc::process_of(tid).ok_or(FsError::UnknownCaller)?;
        let told = |mark| self.read().known.get(&mark).cloned();
        // An adoptive parent may be a member of another one.
        let found = match self.descent.of(process).and_then(told) {
            None => self.of_ancestors(tid)?,
            binding => binding,
        };
        if found.is_none() && self.may_be_orphan(process, has_own_limit)? {
            return Err(FsError::UnknownCaller);
        }
        if let Ok(handle) = handle {
            let mut unmarked = self.unmarked.write();
            if unmarked.len() >= max_unmarked() {
                unmarked.clear();
            }
            let of = found.as_ref().map(|binding| binding.mark);
            unmarked.insert(tid, Unmarked { handle, generation, of });
        }
        Ok(found)
    }

    /// Returns whether a process may descend from one that is bound, all between having ended: where the kernel does not tell,
    /// those are taken for it that are in the session of a bound one, or have a limit of their own.
    pub(super) fn may_be_orphan(&self, process: u32, has_own_limit: bool) -> Result<bool> {
        let stat = proc::stat(process).ok_or(FsError::UnknownCaller)?;
        // Who is older than all that were bound descends from none of them.
        let older = self.bound_until(stat.started);
        if older.is_empty() {
            return Ok(false);
        }
        // A parent that is no reaper of orphans tells who it descends from.
        let is_adopted = |process: u32| {
            let parent = proc::parents(process).next().unwrap_or(0);
            parent <= 1 || proc::is_reaper(parent)
        };
        if self.descent.is_told() {
            // Of itself or of an ancestor nothing was told, and it has lost its parents.
            let mut line =
                std::iter::once(process).chain(proc::parents(process).filter(|parent| *parent > 1));
            return Ok(line.any(|process| {
                let started = proc::stat(process).map_or(0, |stat| stat.started);
                self.descent.may_have_missed(started)
                    && is_adopted(process)
                    && !self.bound_until(started).is_empty()
            }));
        }
        let is_orphan = is_adopted(process);
        let session = |pid: u32| proc::stat(pid).map(|stat| stat.session);
        let is_in_session = || older.iter().any(|pid| session(*pid).unwrap_or(*pid) == stat.session);
        Ok(has_own_limit || is_orphan && is_in_session())
    }

    /// The processes that were given a branch at the mount point and were not started after a moment.
    fn bound_until(&self, started: u64) -> Vec<u32> {
        let table = self.read();
        let bindings = table.known.values().filter(|binding| binding.kind == Kind::Bound);
        bindings.filter(|binding| started >= binding.started).map(|binding| binding.pid).collect()
    }
}
