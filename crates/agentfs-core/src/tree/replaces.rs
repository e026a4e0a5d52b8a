//! Which files a file continues: a merge or a restore puts a fresh inode in the place of another, and what was one file on
//! each side is one file afterwards.

use std::sync::Arc;

use crate::types::InodeId;

/// The most that are remembered; of more, the lowest numbers are forgotten. Each is of a file that was saved by a rename in
/// a branch of its own and merged.
const MOST: usize = 64;

/// The inodes that one continues, in order of number; mostly none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaces(Option<Arc<Vec<InodeId>>>);

impl Replaces {
    /// All of these.
    pub fn all(numbers: impl IntoIterator<Item = InodeId>) -> Replaces {
        let mut numbers: Vec<InodeId> = numbers.into_iter().filter(|ino| ino.0 != 0).collect();
        numbers.sort();
        numbers.dedup();
        numbers.drain(..numbers.len().saturating_sub(MOST));
        Replaces((!numbers.is_empty()).then(|| Arc::new(numbers)))
    }

    /// The inodes, in order.
    pub fn iter(&self) -> impl Iterator<Item = InodeId> {
        self.0.iter().flat_map(|numbers| numbers.iter().copied())
    }

    /// Returns whether it is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The same without one: no inode continues itself alone.
    pub fn without(self, ino: InodeId) -> Replaces {
        match self.iter().eq([ino]) {
            true => Replaces::default(),
            false => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered_each_once() {
        let numbers = Replaces::all((1..=100).chain(90..=100).map(InodeId));
        assert_eq!(numbers.iter().collect::<Vec<_>>(), (37..=100).map(InodeId).collect::<Vec<_>>());
        assert!(Replaces::all([InodeId(0)]).is_empty());
        assert!(Replaces::all([InodeId(7)]).without(InodeId(7)).is_empty());
        assert_eq!(Replaces::all([InodeId(7), InodeId(8)]).without(InodeId(7)).iter().count(), 2);
    }
}
