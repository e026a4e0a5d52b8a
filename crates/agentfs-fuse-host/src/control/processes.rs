//! Requests about processes: who sees which branch.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::{io, thread, time::Duration};

use agentfs_core::{BranchInfo, FsError, Result, ViewId};
use agentfs_proto::page::Page;
use agentfs_proto::record::{ProcessEntry, Setting};
use agentfs_proto::response::{BindReply, EnterReply, StopReply, UnbindReply, WhoamiReply};

use super::dispatch::Dispatcher;
use super::{Asker, text};
use crate::processes::{self, Binding, Bindings, Bound, Kind};

/// How long those who live in branches have to leave when they are told by force.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Dispatcher {
    /// The process that is meant, in our pid namespace: the one that is named, or the one that asks.
    fn meant(&self, asker: Asker, pid: Option<u32>) -> Result<u32> {
        let Some(pid) = pid else {
            return processes::process_of(asker.tid).ok_or(FsError::UnknownCaller);
        };
        if processes::namespace_differs(asker.tid) {
            return Err(FsError::Refused(
                "you are in another pid namespace than the daemon, where numbers mean other processes: leave the \
                 number out, or ask from outside"
                    .into(),
            ));
        }
        let gone = || FsError::UnknownVersion(format!("there is no process {pid}"));
        processes::process_of(pid).filter(|process| *process == pid).ok_or_else(gone)
    }

    fn check_may_bind(&self, asker: Asker, pid: u32) -> Result<()> {
        let foreign = |uids: Vec<u32>| uids.iter().any(|uid| *uid != asker.caller.uid);
        if !asker.caller.is_root() && processes::uids(pid).is_none_or(foreign) {
            return Err(FsError::Refused(format!(
                "process {pid} belongs to another user: only root may bind it"
            )));
        }
        Ok(())
    }

    /// The binding a process is a member of, unless it lives in a branch: there is nothing to bind then.
    fn standing(&self, pid: u32) -> Result<Option<Binding>> {
        let standing = match self.bindings.standing(pid) {
            // Whatever a process without parents was, it is to be bound now.
            Err(FsError::UnknownCaller) => None,
            standing => standing?,
        };
        match standing.as_ref().filter(|binding| binding.kind == Kind::Exec) {
            Some(exec) => Err(FsError::Refused(format!(
                "process {pid} lives in the branch {} by branch-exec and sees no other: start it outside to bind it",
                self.shown(exec)
            ))),
            None => Ok(standing),
        }
    }

    fn shown(&self, binding: &Binding) -> String {
        let id = binding.branch.to_string();
        self.core.find_branch(&id).ok().and_then(|info| info.name).map_or(id, |name| format!("{name:?}"))
    }

    pub(super) fn bind(&self, asker: Asker, branch: &str, pid: Option<u32>) -> Result<BindReply> {
        let _changing = self.bindings.change();
        let branch = self.core.find_branch(branch)?;
        let pid = self.meant(asker, pid)?;
        self.check_may_bind(asker, pid)?;
        let standing = self.standing(pid)?;
        self.caching.bind(pid, standing, &branch, mark)?;
        Ok(BindReply { branch: branch.id.to_string().into(), pid })
    }

    pub(super) fn unbind(&self, asker: Asker, pid: Option<u32>) -> Result<UnbindReply> {
        let _changing = self.bindings.change();
        let pid = self.meant(asker, pid)?;
        self.check_may_bind(asker, pid)?;
        let standing = self.standing(pid)?.filter(|binding| binding.view != ViewId::MAIN);
        let unbound = || FsError::BadName(format!("process {pid} is not bound to a branch"));
        let standing = standing.ok_or_else(unbound)?;
        let previous_branch = standing.branch.to_string().into();
        let main = self.main()?;
        self.caching.bind(pid, Some(standing), &main, mark)?;
        Ok(UnbindReply { pid, previous_branch })
    }

    fn main(&self) -> Result<BranchInfo> {
        self.core.find_branch(&self.core.branch_of(ViewId::MAIN)?.to_string())
    }

    /// Lets the process that asks live in a branch from now on.
    pub(super) fn enter(&self, asker: Asker, branch: &str) -> Result<EnterReply> {
        let _changing = self.bindings.change();
        let branch = self.core.find_branch(branch)?;
        let pid = self.meant(asker, None)?;
        let kind = if branch.view == ViewId::MAIN { Kind::Bound } else { Kind::Exec };
        let fresh = self.bindings.prepare(pid, kind, &branch)?;
        self.bindings.put(fresh.clone())?;
        match self.bindings.spread(&fresh, mark) {
            // Its mounts tell who lives there, too.
            Err(FsError::Refused(why)) if fresh.namespace.is_some() => {
                tracing::info!(why, "who lives in a branch is told by mounts alone");
            }
            spread => spread.inspect_err(|_| self.bindings.withdraw(fresh.mark))?,
        }
        let directory = match kind {
            Kind::Exec => format!(".agentfs/by-id/{}", branch.id).into(),
            Kind::Bound => Vec::new(),
        };
        Ok(EnterReply { branch: branch.id.to_string().into(), directory })
    }

    pub(super) fn whoami(&self, asker: Asker, pid: Option<u32>) -> Result<WhoamiReply> {
        let meant = self.meant(asker, pid)?;
        let standing = self.bindings.standing(meant)?;
        let standing = standing.filter(|binding| binding.kind == Kind::Exec || binding.view != ViewId::MAIN);
        let (branch, reason, of) = match &standing {
            // Who asks in a branch's own directory means that branch.
            _ if pid.is_none() && asker.view != ViewId::MAIN && standing.is_none() => {
                (self.core.branch_of(asker.view)?, "view", None)
            }
            Some(binding) => (binding.branch, reason(binding, meant), Some(binding.pid)),
            None => (self.core.branch_of(ViewId::MAIN)?, "default", None),
        };
        let info = self.core.find_branch(&branch.to_string())?;
        let name = info.name.map(|name| name.as_bytes().to_vec());
        Ok(WhoamiReply {
            branch: branch.to_string().into(),
            name,
            pid: meant,
            reason: reason_bytes(reason),
            of,
        })
    }

    /// The branch that is meant where none is named: that of the view whose control file was asked, and at the mount point
    /// that of who asks.
    pub(super) fn own_branch(&self, asker: Asker) -> Result<String> {
        if asker.view != ViewId::MAIN {
            return Ok(self.core.branch_of(asker.view)?.to_string());
        }
        match self.bindings.standing(asker.tid)? {
            Some(binding) => Ok(binding.branch.to_string()),
            None => Ok(self.core.branch_of(ViewId::MAIN)?.to_string()),
        }
    }

    pub(super) fn process_page(&self, after: Option<&[u8]>) -> Result<Page<ProcessEntry>> {
        let last =
            after.map(|after| text(after)?.parse().map_err(|_| FsError::BadName("not a number".into())));
        let last: u32 = last.transpose()?.unwrap_or(0);
        let mut living = self.bindings.living();
        living.retain(|bound| bound.pid > last);
        living.sort_by_key(|bound| bound.pid);
        Ok(Page::fill(living.into_iter().map(|bound| ProcessEntry {
            key: format!("{:010}", bound.pid).into(),
            pid: bound.pid,
            command: bound.command.into(),
            branch: bound.binding.branch.to_string().into(),
            reason: reason_bytes(reason(&bound.binding, bound.pid)),
            since_ms: bound.binding.since_ms,
        })))
    }

    /// Refuses to take a branch from those who see it or live in it.
    pub(super) fn check_left(&self, asker: Asker, branch: &str) -> Result<BranchInfo> {
        let info = self.core.find_branch(branch)?;
        let mut inside = self.others(asker);
        inside.retain(|bound| bound.binding.branch == info.id);
        if inside.is_empty() {
            return Ok(info);
        }
        Err(FsError::Busy(format!("the branch is in use by {}; end or unbind them first", list(&inside))))
    }

    /// The living processes in branches, but for the one that asks: it ends with the answer.
    fn others(&self, asker: Asker) -> Vec<Bound> {
        let own = processes::process_of(asker.tid);
        let mut living = self.bindings.living();
        living.retain(|bound| Some(bound.pid) != own);
        living
    }

    /// Who has to be started again, as its branch was mounted by a daemon that died.
    pub(super) fn stranded(&self) -> Option<Setting> {
        let stranded = self.bindings.stranded();
        // A frame holds but so much.
        let told: String = list(&stranded).chars().take(512).collect();
        (!stranded.is_empty()).then(|| Setting::new("to_be_restarted", told))
    }

    pub(super) fn stop(&self, asker: Asker, how: &[u8]) -> Result<StopReply> {
        let force = match how {
            b"force" => true,
            b"" => false,
            _ => return Err(FsError::BadName("a stop is by force or not".into())),
        };
        let inside = self.others(asker);
        if !inside.is_empty() && !force {
            let list = list(&inside);
            return Err(FsError::Busy(format!("in branches live {list}; end them, or stop by --force")));
        }
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)?;
        if force {
            let core = self.core.clone();
            thread::Builder::new().name("last-words".into()).spawn(move || {
                thread::sleep(LAST_WORDS);
                let code = i32::from(core.close().is_err());
                std::process::exit(code);
            })?;
        }
        Ok(StopReply { pid: std::process::id() })
    }
}

fn reason(binding: &Binding, pid: u32) -> &'static str {
    match binding.kind {
        Kind::Exec => "exec",
        Kind::Bound if Bindings::is_own(binding, pid) => "bound",
        Kind::Bound => "inherited",
    }
}

fn reason_bytes(reason: &str) -> Vec<u8> {
    reason.as_bytes().to_vec()
}

fn list(processes: &[Bound]) -> String {
    const SHOWN: usize = 5;
    let shown = processes.iter().take(SHOWN);
    let mut words: Vec<String> = shown.map(|bound| format!("{} ({})", bound.pid, bound.command)).collect();
    if processes.len() > SHOWN {
        words.push(format!("{} more", processes.len() - SHOWN));
    }
    format!("process {}", words.join(", "))
}

/// Gives a process a mark. Another user's, which root may do only with CAP_SYS_RESOURCE, gets it from a helper that is
/// that user for a moment.
fn mark(pid: u32, soft: u64) -> io::Result<()> {
    match processes::set_mark(pid, soft) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && rustix::process::geteuid().is_root() => {
            let (Some(uid), Some(gid)) = processes::owner(pid) else { return Err(error) };
            let mut helper = Command::new("/proc/self/exe");
            helper.args(["mark-process", &pid.to_string(), &soft.to_string()]).uid(uid).gid(gid);
            let ended = helper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            if ended.success() { Ok(()) } else { Err(error) }
        }
        done => done,
    }
}
