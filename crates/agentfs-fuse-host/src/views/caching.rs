//! How long the kernel may keep names and directories. While nobody is bound it keeps them for long, as every change
//! comes through it. While somebody is, what a name at the mount point leads to depends on who asks, and a branch that
//! is seen there may be seen in its fixed view too: then each look-up asks. A file's own attributes and pages may always
//! be kept, as a file has one node in its branch.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{io, thread};

use agentfs_core::{Attr, BranchInfo, FileKind, FsCore, InodeId, Name, Result, ViewId};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::{ListingNumber, Node, NodeId, PidView};
use crate::notices::Notices;
use crate::processes::{Binding, Bindings, Kind};

/// Missing names that the kernel may remember; more are not remembered until some are expired.
const MAX_MISSING: usize = 1 << 16;
/// Answers that may still be on their way when all names are expired.
const MAX_RECENT: usize = 1024;
/// After how long the names of such answers are expired again; the first time before anybody is bound.
const AGAIN: [u64; 4] = [2, 20, 200, 2000];

/// How long the kernel may keep what it is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ttl {
    /// Attributes.
    pub(crate) attr: Duration,
    /// Names.
    pub(crate) entry: Duration,
    /// Missing names.
    pub(crate) negative: Duration,
    /// Of what others may change below.
    pub(crate) live: Duration,
}

/// A name in a directory; the empty one is for the listing of the directory itself.
type Place = (NodeId, Box<[u8]>);

/// Names that the kernel remembers as missing.
#[derive(Default)]
struct Missing {
    names: HashMap<NodeId, HashSet<Box<[u8]>>>,
    count: usize,
}

impl Missing {
    fn insert(&mut self, directory: NodeId, name: &[u8]) {
        self.count += usize::from(self.names.entry(directory).or_default().insert(name.into()));
    }

    /// The name is there now.
    fn remove(&mut self, directory: NodeId, name: &[u8]) {
        let Some(names) = self.names.get_mut(&directory) else { return };
        self.count -= usize::from(names.remove(name));
        if names.is_empty() {
            self.names.remove(&directory);
        }
    }
}

/// For so long directories are taken for what they are that others may change: each name in them is asked for all the same.
const LIVE: Duration = Duration::from_millis(50);
/// Who looks a file up and asks for its attributes asks once.
const JUST_NOW: Duration = Duration::from_millis(1);

type Job = Box<dyn FnOnce(&Notices) + Send>;

/// What the kernel was allowed to keep.
pub(crate) struct Caching {
    ttl: Ttl,
    core: Arc<FsCore>,
    bindings: Arc<Bindings>,
    pid_view: Arc<PidView>,
    /// Shared by whoever answers, exclusive to whoever changes for how long the kernel may keep the answer.
    gate: RwLock<()>,
    missing: Mutex<Missing>,
    recent: Mutex<VecDeque<Place>>,
    /// How often what depends on who asks has changed.
    epoch: AtomicU64,
    /// Numbers given to descriptors of directories.
    listings: AtomicU64,
    notices: OnceLock<Arc<Notices>>,
    /// What a thread that serves requests has to tell the kernel, by a thread that serves none.
    jobs: OnceLock<crossbeam_channel::Sender<Job>>,
}

/// While it lives, what it says of times holds.
pub(crate) struct Keep<'a> {
    caching: &'a Caching,
    _gate: RwLockReadGuard<'a, ()>,
}

impl Keep<'_> {
    /// Does every look have to ask?
    pub(crate) fn must_ask(&self, directory: NodeId) -> bool {
        self.depends(directory) || self.is_live(directory)
    }

    /// Is it as the directory below has it, which others change?
    fn is_live(&self, node: NodeId) -> bool {
        match node.node() {
            Node::Tree(ViewId::MAIN, ino) | Node::Private(ViewId::MAIN, ino) => {
                self.caching.core.is_live(ViewId::MAIN, ino)
            }
            _ => false,
        }
    }

    /// Does what is told of a directory depend on who asks?
    fn depends(&self, directory: NodeId) -> bool {
        match directory.node() {
            Node::Tree(ViewId::MAIN, _) | Node::Private(ViewId::MAIN, _) => {
                self.caching.bindings.any() || self.caching.pid_view.is_doubled()
            }
            Node::Tree(view, _) => self.caching.bindings.shows(view),
            // Of a directory with such a node there may be others, and what was told of it is not found again to be expired.
            Node::Private(..) | Node::Shared(_) => true,
            // Branches and snapshots come and go without the kernel's knowing.
            Node::Special(..) => true,
        }
    }

    /// For a name in a directory, which is about to be told.
    pub(crate) fn entry(&self, directory: NodeId, name: &[u8], kind: FileKind) -> Duration {
        if self.depends(directory) || self.caching.ttl.entry.is_zero() {
            return Duration::ZERO;
        }
        if self.is_live(directory) {
            // Looking something up in it asks all the same.
            let is_directory = kind == FileKind::Directory;
            let (live, longest) = (self.caching.ttl.live, self.caching.ttl.entry);
            return if is_directory { LIVE.max(live).min(longest) } else { live.min(longest) };
        }
        self.caching.missing.lock().remove(directory, name);
        self.caching.note_recent(directory, name);
        self.caching.ttl.entry
    }

    /// For a file that was made and opened: its name and its attributes have one time.
    pub(crate) fn created(&self, (directory, name): (NodeId, &[u8])) -> Duration {
        self.entry(directory, name, FileKind::File)
    }

    /// For a name that a directory does not have, which is about to be told.
    pub(crate) fn negative(&self, directory: NodeId, name: &[u8]) -> Duration {
        if self.must_ask(directory) || self.caching.ttl.negative.is_zero() {
            return Duration::ZERO;
        }
        let mut missing = self.caching.missing.lock();
        if missing.count >= MAX_MISSING {
            return Duration::ZERO;
        }
        missing.insert(directory, name);
        drop(missing);
        self.caching.note_recent(directory, name);
        self.caching.ttl.negative
    }

    /// For a directory that is opened. Unless its listing depends on who asks, all its changes come through its one node,
    /// and the kernel knows them.
    pub(crate) fn listing(&self, directory: NodeId) -> ListingNumber {
        let epoch = self.caching.epoch.load(Ordering::SeqCst);
        let opened = || self.caching.listings.fetch_add(1, Ordering::Relaxed);
        if self.must_ask(directory) { ListingNumber::NONE } else { ListingNumber::new(epoch, opened()) }
    }

    /// Was a directory opened when its listing did not depend on who asks, as it does now, or did meanwhile?
    pub(crate) fn is_outdated(&self, directory: NodeId, number: ListingNumber) -> bool {
        number != ListingNumber::NONE
            && (self.must_ask(directory) || !number.is_of(self.caching.epoch.load(Ordering::SeqCst)))
    }

    /// A listing that is told to its end becomes the kernel's to show.
    pub(crate) fn listed(&self, directory: NodeId, number: ListingNumber) {
        if number != ListingNumber::NONE {
            self.caching.note_recent(directory, b"");
        }
    }

    /// For attributes.
    pub(crate) fn attr(&self, node: NodeId, attr: &Attr) -> Duration {
        let asks = match (attr.kind, node.node()) {
            // What is told of a name has the node's number, and not the directory's.
            (FileKind::Directory, Node::Private(..) | Node::Shared(_)) => true,
            (FileKind::Directory, Node::Tree(_, ino)) if ino != attr.ino => true,
            (FileKind::Directory, _) => self.depends(node),
            // Its size and times change without the daemon's knowing.
            (FileKind::File, Node::Tree(view, ino)) => {
                attr.is_all_hole() || self.caching.core.is_written_directly(view, ino)
            }
            _ => false,
        };
        match attr.kind {
            _ if asks => Duration::ZERO,
            FileKind::Directory if self.is_live(node) => {
                LIVE.max(self.caching.ttl.live).min(self.caching.ttl.attr)
            }
            _ if self.is_live(node) => JUST_NOW.max(self.caching.ttl.live).min(self.caching.ttl.attr),
            _ => self.caching.ttl.attr,
        }
    }
}

/// The kernel may have forgotten what it is told of.
fn told(notice: io::Result<()>) {
    if let Err(error) = notice {
        tracing::debug!(%error, "a notice was not taken");
    }
}

impl Caching {
    pub(crate) fn new(
        ttl: Ttl,
        core: Arc<FsCore>,
        bindings: Arc<Bindings>,
        pid_view: Arc<PidView>,
    ) -> Arc<Caching> {
        let (gate, missing, recent, notices) =
            (RwLock::default(), Mutex::default(), Mutex::default(), OnceLock::new());
        let (epoch, listings, jobs) = (AtomicU64::new(0), AtomicU64::new(0), OnceLock::new());
        Arc::new(Caching {
            ttl,
            core,
            bindings,
            pid_view,
            gate,
            missing,
            recent,
            epoch,
            listings,
            notices,
            jobs,
        })
    }

    /// The kernel can be told from now on.
    ///
    /// # Errors
    /// When the thread that tells it cannot be started.
    pub(crate) fn connect(&self, notices: Arc<Notices>) -> io::Result<()> {
        let (sender, jobs) = crossbeam_channel::unbounded::<Job>();
        let to_tell = notices.clone();
        let work = move || jobs.into_iter().for_each(|job| job(&to_tell));
        thread::Builder::new().name("notices".into()).spawn(work)?;
        // There is one connection.
        let _ = self.notices.set(notices);
        let _ = self.jobs.set(sender);
        Ok(())
    }

    /// Has the kernel drop what it has of attributes, pages or a listing, then does `then`; not at once.
    pub(crate) fn drop_cached_later(&self, node: NodeId, then: impl FnOnce() + Send + 'static) {
        let job: Job = Box::new(move |notices| {
            told(notices.drop_cached(node));
            then();
        });
        // A job that is refused is dropped, and with it the reply: whoever waits gets an error.
        let _ = self.jobs.get().map(|jobs| jobs.send(job));
    }

    /// Has the kernel drop what it has of a file's attributes; not at once.
    pub(crate) fn drop_attributes_later(&self, node: NodeId) {
        let job: Job = Box::new(move |notices| told(notices.drop_attributes(node)));
        let _ = self.jobs.get().map(|jobs| jobs.send(job));
    }

    /// The connection to the kernel, once there is one.
    pub(crate) fn notices(&self) -> Option<&Arc<Notices>> {
        self.notices.get()
    }

    /// To be held while an answer is made and sent.
    pub(crate) fn hold(&self) -> Keep<'_> {
        Keep { caching: self, _gate: self.gate.read() }
    }

    /// What the kernel may keep of attributes of files.
    pub(crate) fn ttl(&self) -> Ttl {
        self.ttl
    }

    fn note_recent(&self, directory: NodeId, name: &[u8]) {
        let mut recent = self.recent.lock();
        if recent.len() >= MAX_RECENT {
            recent.pop_front();
        }
        recent.push_back((directory, name.into()));
    }

    /// Does `change`, by which a process comes to see the branch of `view` at the mount point, and returns when the kernel
    /// asks anew for all that it knew and that depends on who asks. Not to be called by a thread that serves requests.
    fn switch<T>(self: &Arc<Self>, view: ViewId, change: impl FnOnce() -> T) -> T {
        let (value, first, of_view) = {
            let _gate = self.gate.write();
            let (any, shown) = (self.bindings.any(), self.bindings.shows(view));
            let value = change();
            self.epoch.fetch_add(1, Ordering::SeqCst);
            (value, !any && self.bindings.any(), !shown && self.bindings.shows(view))
        };
        if first {
            self.expire_known(ViewId::MAIN);
        }
        if of_view {
            self.expire_known(view);
        }
        if first || of_view {
            self.expire_missing();
            self.expire_recent_again();
        }
        value
    }

    /// Lets a process see a branch at the mount point: by another meaning of the mark it was given, or by a mark of its own, which
    /// `set` gives. The caller keeps others from binding. Not to be called by a thread that serves requests.
    ///
    /// # Errors
    /// As [`Bindings::prepare`], `put` and `spread`.
    pub(crate) fn bind(
        self: &Arc<Self>,
        pid: u32,
        standing: Option<Binding>,
        branch: &BranchInfo,
        set: impl Fn(u32, u64) -> io::Result<()>,
    ) -> Result<()> {
        let fresh = self.bindings.prepare(pid, Kind::Bound, branch)?;
        match standing.filter(|binding| Bindings::is_own(binding, pid)) {
            Some(own) => {
                let again = Binding { mark: own.mark, outer: own.outer, ..fresh };
                self.switch(branch.view, || self.bindings.put(again))
            }
            None => {
                self.switch(branch.view, || self.bindings.put(fresh.clone()))?;
                self.bindings.spread(&fresh, set).inspect_err(|_| self.bindings.withdraw(fresh.mark))
            }
        }
    }

    /// Returns when the kernel asks anew for names and attributes in the view of a branch that was changed past it. Not to be
    /// called by a thread that serves requests.
    pub(crate) fn changed(self: &Arc<Self>, view: ViewId, names: &[(InodeId, Name)], inodes: &[InodeId]) {
        // Answers that are being made of what was before are sent first.
        drop(self.gate.write());
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let Some(notices) = self.notices.get() else { return };
        let all = |ino: InodeId, tell: &dyn Fn(NodeId) -> io::Result<()>| {
            self.nodes(view, ino).into_iter().map(tell).for_each(told);
        };
        for (dir, name) in names {
            all(*dir, &|node| notices.expire(node, name.as_bytes()));
        }
        let directories: HashSet<InodeId> = names.iter().map(|(dir, _)| *dir).collect();
        directories.into_iter().for_each(|dir| all(dir, &|node| notices.drop_cached(node)));
        inodes.iter().for_each(|ino| all(*ino, &|node| notices.drop_attributes(node)));
        self.expire_recent_again();
    }

    /// The nodes by which the kernel may know a directory of a view, or a file.
    fn nodes(&self, view: ViewId, ino: InodeId) -> Vec<NodeId> {
        match view {
            ViewId::MAIN => self.pid_view.nodes_of_main(ino),
            view => vec![NodeId::of(view, ino)],
        }
    }

    fn expire_known(&self, view: ViewId) {
        let Some(notices) = self.notices.get() else { return };
        let nodes = |dir| self.nodes(view, dir).into_iter();
        let directory = |dir| nodes(dir).map(|node| notices.drop_cached(node)).for_each(told);
        let name = |dir, name: &Name| {
            nodes(dir).map(|node| notices.expire(node, name.as_bytes())).for_each(told);
        };
        self.core.known(view, directory, name);
    }

    /// Has the kernel ask again for names that it may remember as missing.
    pub(crate) fn expire_missing(&self) {
        let Some(notices) = self.notices.get() else { return };
        let missing = std::mem::take(&mut *self.missing.lock());
        for (directory, names) in missing.names {
            for name in names {
                let _ = notices.expire(directory, &name);
            }
        }
    }

    /// Makes room for more missing names, and lets go of what the kernel has forgotten. To be called now and then.
    pub(crate) fn tend(&self) {
        self.pid_view.tend();
        if self.missing.lock().count > MAX_MISSING / 2 {
            self.expire_missing();
        }
    }

    /// An answer that was sent before may reach its reader only now.
    fn expire_recent_again(self: &Arc<Self>) {
        let recent = std::mem::take(&mut *self.recent.lock());
        if self.notices.get().is_none() {
            return; // nobody was told anything
        }
        let caching = self.clone();
        let expire = move |after: u64| {
            thread::sleep(Duration::from_millis(after));
            let notices = caching.notices.get();
            for (directory, name) in &recent {
                let _ = notices.map(|notices| match name.is_empty() {
                    true => notices.drop_cached(*directory),
                    false => notices.expire(*directory, name),
                });
            }
        };
        let [now, later @ ..] = AGAIN;
        expire(now);
        // Without the thread the times are up to the kernel: it is asked once more here.
        let spawned = thread::Builder::new().name("expiry".into()).spawn(move || later.map(expire));
        if let Err(error) = spawned {
            tracing::warn!(%error, "names that were told just now are not expired again");
        }
    }
}
