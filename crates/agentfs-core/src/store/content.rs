//! What a regular file's bytes are made of. An enum, so that other kinds can join.

use std::sync::Arc;

use crate::types::ObjectId;

use super::{Extent, FileStat, Identity, Layers, Object};

/// A file of the lower directory as it was when somebody came to rely on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowerFile {
    /// Its path, from that directory on.
    pub path: Arc<[u8]>,
    /// Which file of the host it is.
    pub identity: Identity,
    /// What the host said of it.
    pub stat: FileStat,
}

/// The bytes of a regular file.
#[derive(Clone, Debug)]
pub enum Content {
    /// No object yet: the whole size, if any, is one hole.
    Hole,
    /// One backing object with the same offsets and the same length.
    Whole(Arc<Object>),
    /// A stretch of a pack, as long as the file.
    Packed(Arc<Extent>),
    /// A file of the lower directory, as long as it is this one.
    Lower(Arc<LowerFile>),
    /// Stretches of objects, and holes between them.
    Layered(Arc<Layers>),
}

impl PartialEq for Content {
    fn eq(&self, other: &Content) -> bool {
        self.same(other)
    }
}

impl Eq for Content {}

impl Content {
    /// The objects that have to be synced for its bytes to be durable.
    pub fn unsynced(&self) -> Vec<ObjectId> {
        match self {
            Content::Whole(object) => vec![object.id],
            Content::Layered(layers) => {
                let unsynced = layers.owners().filter(|owner| !owner.backing.is_synced());
                unsynced.map(|owner| owner.backing.id).collect()
            }
            // With the log.
            Content::Packed(_) => Vec::new(),
            Content::Hole | Content::Lower(_) => Vec::new(),
        }
    }

    /// Do both name the same bytes?
    pub fn same(&self, other: &Content) -> bool {
        match (self, other) {
            (Content::Hole, Content::Hole) => true,
            (Content::Whole(a), Content::Whole(b)) => a.id == b.id,
            (Content::Packed(a), Content::Packed(b)) => {
                Arc::ptr_eq(a, b) || (a.place(), a.len) == (b.place(), b.len)
            }
            (Content::Lower(a), Content::Lower(b)) => a == b,
            (Content::Layered(a), Content::Layered(b)) => Arc::ptr_eq(a, b) || a == b,
            (
                Content::Hole
                | Content::Whole(_)
                | Content::Packed(_)
                | Content::Lower(_)
                | Content::Layered(_),
                _,
            ) => false,
        }
    }
}
