//! Where the names of an inode are: the way back from it to the root, so that what differs between two versions is found
//! without a search. Derived from the names alone, and never recorded.

use std::num::NonZeroU64;
use std::sync::Arc;

use crate::types::InodeId;

/// One name: its directory, and its place in there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Home {
    pub(super) dir: InodeId,
    pub(super) hash: NonZeroU64,
}

/// All names. Most inodes have one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Homes {
    first: Option<Home>,
    more: Option<Arc<Vec<Home>>>,
}

impl Homes {
    pub(super) fn iter(&self) -> impl Iterator<Item = Home> {
        self.first.into_iter().chain(self.more.iter().flat_map(|more| more.iter().copied()))
    }

    pub(super) fn has(&self, home: Home) -> bool {
        self.iter().any(|known| known == home)
    }

    pub(super) fn add(&mut self, home: Home) {
        match self.first {
            None => self.first = Some(home),
            Some(first) if first == home => {}
            Some(_) => {
                let more = Arc::make_mut(self.more.get_or_insert_default());
                if let Err(at) = more.binary_search(&home) {
                    more.insert(at, home);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, home: Home) {
        if let Some(more) = &mut self.more {
            Arc::make_mut(more).retain(|known| *known != home);
        }
        if self.first == Some(home) {
            self.first = self.more.as_mut().and_then(|more| Arc::make_mut(more).pop());
        }
        if self.more.as_ref().is_some_and(|more| more.is_empty()) {
            self.more = None;
        }
    }
}
