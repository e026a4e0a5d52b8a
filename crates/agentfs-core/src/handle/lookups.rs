//! How often the kernel was told of each inode: it says `forget` as often, and until then may ask for it.

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::types::{InodeId, ViewId};

/// Lookup counts by view and inode.
#[derive(Default)]
pub struct Lookups {
    /// The key holds both, to keep an entry at 16 bytes: a million files may be remembered.
    nodes: DashMap<u64, u64>,
    /// How many inodes of a view are remembered; views without one have no entry.
    views: DashMap<ViewId, u64>,
}

/// What a `forget` led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// The kernel does not know the inode any more.
    pub inode: bool,
    /// It knows none of the view any more.
    pub view: bool,
}

fn key(view: ViewId, ino: InodeId) -> u64 {
    u64::from(view.0) << 33 | ino.0
}

impl Lookups {
    /// The kernel is told of the inode once more; for the first time?
    pub fn add(&self, view: ViewId, ino: InodeId) -> bool {
        let mut count = self.nodes.entry(key(view, ino)).or_insert(0);
        *count += 1;
        if *count == 1 {
            *self.views.entry(view).or_insert(0) += 1;
        }
        *count == 1
    }

    /// The kernel forgets `times` of what it was told.
    pub fn forget(&self, view: ViewId, ino: InodeId, times: u64) -> Forgotten {
        let Entry::Occupied(mut node) = self.nodes.entry(key(view, ino)) else {
            return Forgotten { inode: false, view: false };
        };
        *node.get_mut() = node.get().saturating_sub(times);
        if *node.get() > 0 {
            return Forgotten { inode: false, view: false };
        }
        let view = self.one_less(view);
        node.remove();
        Forgotten { inode: true, view }
    }

    fn one_less(&self, view: ViewId) -> bool {
        let Entry::Occupied(mut known) = self.views.entry(view) else { return false };
        *known.get_mut() -= 1;
        let last = *known.get() == 0;
        if last {
            known.remove();
        }
        last
    }

    /// Does the kernel remember the inode?
    pub fn remembers(&self, view: ViewId, ino: InodeId) -> bool {
        self.nodes.contains_key(&key(view, ino))
    }

    /// How often the kernel was told of the inode and has not forgotten it.
    pub fn times(&self, view: ViewId, ino: InodeId) -> u64 {
        self.nodes.get(&key(view, ino)).map_or(0, |count| *count)
    }

    /// Does the kernel remember any inode of the view?
    pub fn remembers_view(&self, view: ViewId) -> bool {
        self.views.contains_key(&view)
    }

    /// All inodes of a view that the kernel remembers. Looks at those of all views: for rare questions.
    pub fn of_view(&self, view: ViewId) -> Vec<InodeId> {
        let inode = |key: u64| InodeId(key & (InodeId::LIMIT - 1));
        self.nodes
            .iter()
            .map(|node| *node.key())
            .filter(|k| k >> 33 == u64::from(view.0))
            .map(inode)
            .collect()
    }

    /// How many inodes the kernel remembers.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_forget_of_the_last_inode_frees_the_view() {
        let lookups = Lookups::default();
        let (view, a, b) = (ViewId(3), InodeId(20), InodeId(21));
        lookups.add(view, a);
        lookups.add(view, a);
        lookups.add(view, b);
        assert_eq!(lookups.forget(view, a, 1), Forgotten { inode: false, view: false });
        assert_eq!(lookups.forget(view, a, 1), Forgotten { inode: true, view: false });
        assert_eq!(lookups.forget(view, b, 5), Forgotten { inode: true, view: true });
        assert!(!lookups.remembers_view(view) && lookups.len() == 0);
    }
}
