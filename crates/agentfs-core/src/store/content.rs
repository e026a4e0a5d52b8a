//! What a regular file's bytes are made of. An enum, so that other kinds can join.

use std::sync::Arc;

use super::{Extent, Object};

/// The bytes of a regular file.
#[derive(Clone, Debug)]
pub enum Content {
    /// No object yet: the whole size, if any, is one hole.
    Hole,
    /// One backing object with the same offsets and the same length.
    Whole(Arc<Object>),
    /// A stretch of a pack, as long as the file.
    Packed(Arc<Extent>),
}

impl PartialEq for Content {
    fn eq(&self, other: &Content) -> bool {
        self.same(other)
    }
}

impl Eq for Content {}

impl Content {
    /// Do both name the same bytes?
    pub fn same(&self, other: &Content) -> bool {
        match (self, other) {
            (Content::Hole, Content::Hole) => true,
            (Content::Whole(a), Content::Whole(b)) => a.id == b.id,
            (Content::Packed(a), Content::Packed(b)) => {
                Arc::ptr_eq(a, b) || (a.place(), a.len) == (b.place(), b.len)
            }
            (Content::Hole | Content::Whole(_) | Content::Packed(_), _) => false,
        }
    }
}
