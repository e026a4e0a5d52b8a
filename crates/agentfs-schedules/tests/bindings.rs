//! Binding a process crosses looking names up, under a schedule explorer: the daemon's views and bindings, with processes that are real
//! and a kernel that is not. What a process is told is always of its branch, and what the kernel may keep is never of one branch
//! while another is seen at the same place.

#![allow(clippy::unwrap_used, clippy::panic, dead_code, unused_imports, reason = "a test, of a part of the daemon")]

mod explorer;
#[path = "../../agentfs-fuse-host/src/notices.rs"]
mod notices;
#[path = "../../agentfs-fuse-host/src/processes/mod.rs"]
mod processes;
#[path = "../../agentfs-fuse-host/src/views/mod.rs"]
mod views;

use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use agentfs_core::testing::config;
use agentfs_core::{
    Caller, CreateMode, FileKind, FsCore, InodeId, Memory, Name, OpenMode, Unrecorded, ViewId,
};
use explorer::{explore, together};
use processes::{Bindings, set_mark};
use shuttle::sync::Mutex;
use views::{Caching, Node, NodeId, PidView, Ttl};

const BRANCHES: [&str; 3] = ["main", "a", "b"];
const LONG: Duration = Duration::from_secs(3600);

/// A process that does nothing, ended with this.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Sleeper {
        Sleeper(Command::new("sleep").arg("600").spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The view that a process is in for sure, and how often that was said.
type Sure = (Option<ViewId>, u32);

/// The daemon without a kernel.
struct Daemon {
    core: Arc<FsCore>,
    bindings: Arc<Bindings>,
    pid_view: Arc<PidView>,
    caching: Arc<Caching>,
    /// The view that each process is in for sure, none while it is being bound; and how often that was said.
    sure: Mutex<Vec<(u32, Sure)>>,
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

impl Daemon {
    /// In each branch `d/f` is as long as the branch's place in the list; of the directories one has another mode.
    fn new(processes: &[u32]) -> Arc<Daemon> {
        let core = Arc::new(FsCore::new_volume(Arc::new(Memory::default()), Arc::new(Unrecorded), config()).unwrap());
        let make = |view, dir, called, kind, mode| {
            let what = CreateMode { kind, mode, umask: 0, rdev: 0 };
            core.create(view, dir, &name(called), what, Caller::ROOT).unwrap().ino
        };
        let dir = make(ViewId::MAIN, InodeId::ROOT, "d", FileKind::Directory, 0o755);
        make(ViewId::MAIN, dir, "f", FileKind::File, 0o644);
        for branch in ["a", "b"] {
            core.create_branch("main", Some(branch)).unwrap();
        }
        for (at, branch) in BRANCHES.into_iter().enumerate() {
            let view = core.find_branch(branch).unwrap().view;
            let file = core.lookup(view, dir, &name("f")).unwrap().unwrap().ino;
            let handle = core.open(view, file, OpenMode::Write, Caller::ROOT).unwrap();
            core.write(handle, 0, &vec![1; at + 1], false).unwrap();
            core.release(handle).unwrap();
        }
        let b = core.find_branch("b").unwrap().view;
        let of_b = make(b, InodeId::ROOT, "of-b", FileKind::Directory, 0o700);
        make(b, of_b, "f", FileKind::File, 0o644);
        let bindings = Arc::new(Bindings::default());
        let pid_view = Arc::new(PidView::new(core.clone(), bindings.clone()));
        let ttl = Ttl { attr: LONG, entry: LONG, negative: LONG, live: Duration::ZERO };
        let caching = Caching::new(ttl, core.clone(), bindings.clone(), pid_view.clone());
        let sure = Mutex::new(processes.iter().map(|pid| (*pid, (Some(ViewId::MAIN), 0))).collect());
        Arc::new(Daemon { core, bindings, pid_view, caching, sure })
    }

    fn set_sure(&self, pid: u32, view: Option<ViewId>) {
        let mut sure = self.sure.lock().unwrap();
        sure.iter_mut().filter(|(known, _)| *known == pid).for_each(|(_, is)| *is = (view, is.1 + 1));
    }

    fn sure_of(&self, pid: u32) -> Sure {
        self.sure.lock().unwrap().iter().find(|(known, _)| *known == pid).unwrap().1
    }

    /// As the control file does.
    fn bind(&self, pid: u32, branch: &str) {
        let _changing = self.bindings.change();
        let info = self.core.find_branch(branch).unwrap();
        self.set_sure(pid, None);
        let standing = self.bindings.standing(pid).unwrap();
        self.caching.bind(pid, standing, &info, set_mark).unwrap();
        self.set_sure(pid, Some(info.view));
    }

    /// As a request of the kernel: what a name leads to, to a process. `None` when there is no such name.
    fn look_up(&self, pid: u32, parent: NodeId, called: &str) -> Option<(NodeId, u64)> {
        let before = self.sure_of(pid);
        let keep = self.caching.hold();
        let (view, dir) = self.pid_view.place(parent, pid).ok()?;
        let found = self.core.lookup(view, dir, &name(called)).unwrap();
        let kept = match &found {
            None => keep.negative(parent, called.as_bytes()),
            Some(attr) => keep.entry(parent, called.as_bytes(), attr.kind),
        };
        let told = found.map(|attr| (self.pid_view.tell(parent, &name(called), view, &attr), attr.size));
        let after = self.sure_of(pid);
        if let (Some(sure), true) = (before.0, before == after) {
            assert_eq!(view, sure, "a process sees its own branch");
        }
        if !kept.is_zero() {
            // All see what the kernel keeps: so long as this answer is on its way, nobody is anywhere else.
            let elsewhere = self.sure.lock().unwrap().iter().any(|(_, (view, _))| view.is_some_and(|view| view != ViewId::MAIN));
            assert!(view == ViewId::MAIN && !elsewhere, "{called} is kept for {kept:?}");
        }
        told
    }

    /// What a process finds at a path, from the mount point on; forgotten again.
    fn size_at(&self, pid: u32, path: [&str; 2]) -> Option<u64> {
        let (dir, _) = self.look_up(pid, NodeId::MOUNT_POINT, path[0])?;
        let found = self.look_up(pid, dir, path[1]);
        if let Some((node, _)) = found {
            self.pid_view.forget(node, 1);
        }
        self.pid_view.forget(dir, 1);
        found.map(|(_, size)| size)
    }

    /// What is there for a process whose branch is known before and after is that branch's.
    fn check(&self, pid: u32) {
        let before = self.sure_of(pid);
        let (size, other) = (self.size_at(pid, ["d", "f"]), self.size_at(pid, ["of-b", "f"]));
        if let (Some(view), true) = (before.0, before == self.sure_of(pid)) {
            let at = BRANCHES.iter().position(|branch| self.core.find_branch(branch).unwrap().view == view).unwrap();
            assert_eq!(size, Some(at as u64 + 1), "the file of {}", BRANCHES[at]);
            assert_eq!(other.is_some(), BRANCHES[at] == "b");
        }
    }
}

fn race(pids: [u32; 2]) {
    let daemon = Daemon::new(&pids);
    let [first, second] = pids;
    let (one, two, three, four) = (daemon.clone(), daemon.clone(), daemon.clone(), daemon.clone());
    together(vec![
        Box::new(move || ["a", "b", "main"].iter().for_each(|branch| one.bind(first, branch))),
        Box::new(move || {
            two.bind(second, "b");
            two.check(second);
            two.bind(second, "main");
        }),
        Box::new(move || (0..3).for_each(|_| three.check(first))),
        Box::new(move || {
            for _ in 0..2 {
                four.check(second);
                four.check(first);
            }
            four.caching.tend();
        }),
    ]);
    pids.iter().for_each(|pid| {
        daemon.check(*pid);
        // For the next schedule it is nowhere.
        set_mark(*pid, u64::MAX).unwrap();
    });
}

#[test]
fn whoever_is_bound_while_names_are_looked_up_sees_the_one_branch_or_the_other() {
    static SLEEPERS: std::sync::OnceLock<[u32; 2]> = std::sync::OnceLock::new();
    let sleepers = [Sleeper::start(), Sleeper::start()];
    SLEEPERS.set([sleepers[0].0.id(), sleepers[1].0.id()]).unwrap();
    explore(|| race(*SLEEPERS.get().unwrap()));
}
