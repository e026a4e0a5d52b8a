//! What is known of the directories at the mount point.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentfs_core::{InodeId, Name, ViewId};

use super::NodeId;

/// A branch's own directory that the kernel does not know may be about to be looked up: so long it is kept as one.
const IDLE: Duration = Duration::from_secs(10);

/// What the kernel decides permissions by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Face {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) acl: Option<Arc<[u8]>>,
}

/// A directory node that branches share.
pub(super) struct Shared {
    pub(super) parent: NodeId,
    pub(super) name: Name,
    /// `None` when it was changed while nobody was bound: it is that of who looks next.
    pub(super) face: Option<Face>,
    /// Which inode it is in which branch, as of its last lookup there.
    pub(super) pins: HashMap<ViewId, InodeId>,
    /// How often the kernel was told of it and has not forgotten it.
    pub(super) told: u64,
}

/// All of them.
#[derive(Default)]
pub(super) struct Table {
    pub(super) nodes: HashMap<NodeId, Shared>,
    pub(super) names: HashMap<(NodeId, Name), NodeId>,
    /// Directories that a branch has for itself, and how often the kernel was told of them so.
    pub(super) private: HashMap<(ViewId, InodeId), u64>,
    /// Those that the kernel did not know at some time.
    idle: VecDeque<(Instant, (ViewId, InodeId))>,
    /// Those of main that the kernel knows both as main's own and by the common node.
    pub(super) doubled: HashSet<InodeId>,
    /// Numbers given to common nodes that are not main's.
    pub(super) numbers: u64,
}

impl Table {
    /// The node of a directory that a branch has for itself, from now on.
    pub(super) fn own(&mut self, view: ViewId, ino: InodeId) -> NodeId {
        self.split(view, ino);
        NodeId::private(view, ino)
    }

    /// A branch has a directory for itself from now on; did it not before?
    pub(super) fn split(&mut self, view: ViewId, ino: InodeId) -> bool {
        let mut new = false;
        self.private.entry((view, ino)).or_insert_with(|| {
            new = true;
            0
        });
        if new {
            self.idle.push_back((Instant::now(), (view, ino)));
        }
        new
    }

    /// A branch's own directory is gone; was it one?
    pub(super) fn is_own_no_more(&mut self, view: ViewId, ino: InodeId) -> bool {
        self.doubled_no_more(view, ino);
        self.private.remove(&(view, ino)).is_some()
    }

    /// The kernel forgets `times` of what it was told of a branch's own directory.
    pub(super) fn own_forgotten(&mut self, view: ViewId, ino: InodeId, times: u64) {
        let Some(told) = self.private.get_mut(&(view, ino)) else { return };
        *told = told.saturating_sub(times);
        if *told == 0 {
            self.idle.push_back((Instant::now(), (view, ino)));
            self.doubled_no_more(view, ino);
        }
    }

    /// Lets go of branches' own directories that the kernel has forgotten.
    pub(super) fn tend(&mut self) {
        while let Some((_, (view, ino))) = self.idle.pop_front_if(|(since, _)| since.elapsed() > IDLE) {
            if self.private.get(&(view, ino)) == Some(&0) {
                self.private.remove(&(view, ino));
            }
        }
    }

    fn doubled_no_more(&mut self, view: ViewId, ino: InodeId) {
        if view == ViewId::MAIN {
            self.doubled.remove(&ino);
        }
    }
}
