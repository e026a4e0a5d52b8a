//! A file that is open, once for each inode of a tree however often it was opened.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::{Mutex, RwLock};

use crate::branch::Tree;
use crate::store::{Backing, FileStat, LowerFile, Object, ObjectFile, Opens};
use crate::types::{InodeId, ViewId};

/// Where an open file's bytes come from.
pub enum Source {
    /// Not looked up yet.
    Unknown,
    /// From no object: all zeros.
    Hole,
    /// These, all of them: a small file's.
    Small(Vec<u8>),
    /// From this file of the lower directory, open to read.
    Lower(Arc<LowerFile>, Arc<dyn ObjectFile>),
    /// From this object, open on the host.
    Object(Arc<Object>, Arc<dyn ObjectFile>),
    /// From objects, in layers: the version says where.
    Layered(LayeredSource),
}

/// What is open of a file in layers.
pub struct LayeredSource {
    /// What was read.
    pub opens: Arc<Opens>,
    /// What was written last; in a later epoch another is.
    pub top: Option<Top>,
}

/// The object that a branch writes the blocks of a file in layers to, in one epoch.
#[derive(Clone)]
pub struct Top {
    /// Its file.
    pub backing: Arc<Backing>,
    /// That, open on the host.
    pub open: Arc<dyn ObjectFile>,
}

/// An open regular file.
pub struct OpenFile {
    /// The tree it was opened in.
    pub tree: Tree,
    /// The index of that tree.
    pub view: ViewId,
    /// The inode.
    pub ino: InodeId,
    /// Rank 1, the content lock: shared to read, exclusive to write or to change what the file is made of.
    /// The only lock that is held over I/O.
    pub source: RwLock<Source>,
    /// Users, counted under the table's lock.
    users: AtomicU32,
    /// Handles that may write.
    pub writers: AtomicU32,
    /// Those of them through which the kernel may have been given what the daemon does not know of yet.
    pub cached_writers: AtomicU32,
    /// Do records say that its object is written in place? Changed under the content lock.
    pub dirty: AtomicBool,
    /// Did the host not tell its size when it was written past the daemon last?
    pub is_unknown: AtomicBool,
    /// Bytes of small content written anew since it was opened.
    pub rewritten: AtomicU64,
    /// Handles past which reads and writes go, and those of them that may write. Changed under the direct gate.
    pub direct: AtomicU32,
    /// See `direct`.
    pub direct_writers: AtomicU32,
    /// After the content lock, before the branch's: held by who takes over what the host says, or ceases to write.
    pub refreshing: Mutex<()>,
    /// Leaf lock: what the host last said of the object while it was written past the daemon.
    pub seen: Mutex<FileStat>,
    /// Leaf lock: what frozen versions got last of what is written past the daemon, and what the host said of that.
    pub frozen: Mutex<Option<(FileStat, Weak<Object>)>>,
}

impl OpenFile {
    /// Is it read or written past the daemon?
    pub fn is_direct(&self) -> bool {
        self.direct.load(Ordering::SeqCst) > 0
    }

    /// Returns whether there may be bytes in the kernel where the daemon knows of none yet.
    pub fn may_have_unwritten(&self) -> bool {
        self.cached_writers.load(Ordering::Relaxed) > 0 && !self.is_direct()
    }

    /// Is it written past the daemon?
    pub fn is_written_directly(&self) -> bool {
        self.direct_writers.load(Ordering::Acquire) > 0
    }
}

/// All open files.
#[derive(Default)]
pub struct OpenFiles {
    files: DashMap<(ViewId, InodeId), Arc<OpenFile>>,
}

impl OpenFiles {
    /// The open file of an inode, now with one user more. [`OpenFiles::release`] it.
    pub fn acquire(&self, tree: &Tree, view: ViewId, ino: InodeId) -> Arc<OpenFile> {
        let file = self.files.entry((view, ino)).or_insert_with(|| {
            let (source, users, writers) =
                (RwLock::new(Source::Unknown), AtomicU32::new(0), AtomicU32::new(0));
            let (dirty, rewritten) = (AtomicBool::new(false), AtomicU64::new(0));
            let (direct, direct_writers, seen) = (AtomicU32::new(0), AtomicU32::new(0), Mutex::default());
            let (tree, refreshing, frozen) = (tree.clone(), Mutex::default(), Mutex::default());
            Arc::new(OpenFile {
                tree,
                view,
                ino,
                source,
                users,
                writers,
                cached_writers: AtomicU32::new(0),
                dirty,
                is_unknown: AtomicBool::new(false),
                rewritten,
                direct,
                direct_writers,
                refreshing,
                seen,
                frozen,
            })
        });
        file.users.fetch_add(1, Ordering::SeqCst);
        file.clone()
    }

    /// One user less; true when that was the last.
    pub fn release(&self, file: &OpenFile) -> bool {
        let Entry::Occupied(entry) = self.files.entry((file.view, file.ino)) else { return false };
        let last = file.users.fetch_sub(1, Ordering::Relaxed) == 1;
        if last {
            entry.remove();
        }
        last
    }

    /// Is this the only user?
    pub fn has_one_user(&self, file: &OpenFile) -> bool {
        file.users.load(Ordering::SeqCst) == 1
    }

    /// The open file of an inode, if it is open.
    pub fn get(&self, view: ViewId, ino: InodeId) -> Option<Arc<OpenFile>> {
        self.files.get(&(view, ino)).map(|file| file.clone())
    }

    /// The open files that `wanted` takes. Looks at all: for rare questions.
    pub fn which(&self, wanted: impl Fn(&OpenFile) -> bool) -> Vec<Arc<OpenFile>> {
        self.files.iter().filter(|file| wanted(file)).map(|file| file.value().clone()).collect()
    }

    /// Is the inode open?
    pub fn contains(&self, view: ViewId, ino: InodeId) -> bool {
        self.files.contains_key(&(view, ino))
    }

    /// The open inodes of a view that `wanted` takes. Looks at all open files: for rare questions.
    pub fn of_view(&self, view: ViewId, wanted: impl Fn(&OpenFile) -> bool) -> Vec<InodeId> {
        self.files.iter().filter(|file| file.view == view && wanted(file)).map(|file| file.ino).collect()
    }

    /// How many inodes of a view are open. Looks at all open files: for rare questions.
    pub fn count(&self, view: ViewId) -> usize {
        self.of_view(view, |_| true).len()
    }
}
