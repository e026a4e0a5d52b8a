//! What a regular file's bytes are made of. An enum, so that other kinds can join.

use std::sync::Arc;

use super::Object;
use crate::types::Epoch;

/// The bytes of a regular file.
#[derive(Clone, Debug)]
pub enum Content {
    /// No object yet: the whole size, if any, is one hole.
    Hole,
    /// One backing object with the same offsets and the same length.
    Whole(Arc<Object>),
}

impl PartialEq for Content {
    fn eq(&self, other: &Content) -> bool {
        self.same(other)
    }
}

impl Eq for Content {}

impl Content {
    /// May it be written in place by a branch whose epoch is `epoch`? Only what was made in it.
    pub fn is_private_to(&self, epoch: Epoch) -> bool {
        match self {
            Content::Hole => false,
            Content::Whole(object) => object.epoch == epoch,
        }
    }

    /// Do both name the same bytes?
    pub fn same(&self, other: &Content) -> bool {
        match (self, other) {
            (Content::Hole, Content::Hole) => true,
            (Content::Whole(a), Content::Whole(b)) => a.id == b.id,
            (Content::Hole, Content::Whole(_)) | (Content::Whole(_), Content::Hole) => false,
        }
    }
}
