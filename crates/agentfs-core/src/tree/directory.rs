//! A directory: names in the order of a 63-bit hash, which is also the position `readdir` resumes at.
//! The hash depends on the name alone, so positions hold over changes, snapshots and remounts.

use std::hash::Hasher;
use std::num::NonZeroU64;
use std::ops::Bound;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use siphasher::sip::SipHasher13;

use crate::types::{FileKind, InodeId, Name};

/// Positions below are for `.` and `..`.
const FIRST_POSITION: u64 = 3;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    hash: u64,
    name: Name,
}

impl Key {
    fn of(name: &Name) -> Key {
        let mut hasher = SipHasher13::new();
        hasher.write(name.as_bytes());
        Key { hash: (hasher.finish() >> 1).max(FIRST_POSITION), name: name.clone() }
    }
}

/// Where a name leads: the inode, and its kind so that listing needs no second look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    packed: u64,
}

const KINDS: [FileKind; 7] = [
    FileKind::File,
    FileKind::Directory,
    FileKind::Symlink,
    FileKind::Fifo,
    FileKind::CharDevice,
    FileKind::BlockDevice,
    FileKind::Socket,
];

/// The code of no kind.
const HIDDEN: u64 = 7;

impl Entry {
    /// An entry for `ino`, which is a `kind`.
    pub fn new(ino: InodeId, kind: FileKind) -> Entry {
        let code = KINDS.iter().position(|k| *k == kind).unwrap_or_default() as u64;
        Entry { packed: ino.0 << 3 | code }
    }

    /// No name, whatever the lower directory has.
    pub const WHITEOUT: Entry = Entry { packed: HIDDEN };

    /// A whiteout as stores until format 5 had it: with the change token of what it hides, 0 for nothing.
    pub fn whiteout(stamp: u64) -> Entry {
        Entry { packed: stamp << 3 | HIDDEN }
    }

    /// Does it hide a name?
    pub fn is_whiteout(self) -> bool {
        self.packed & 7 == HIDDEN
    }

    /// The change token of what it hides, of a whiteout of format 5 or before.
    pub fn stamp(self) -> Option<u64> {
        (self.is_whiteout() && self != Entry::WHITEOUT).then_some(self.packed >> 3)
    }

    /// The inode.
    pub fn ino(self) -> InodeId {
        InodeId(self.packed >> 3)
    }

    /// Its kind.
    pub fn kind(self) -> FileKind {
        KINDS.get((self.packed & 7) as usize).copied().unwrap_or(FileKind::File)
    }
}

/// The entries of a directory, and the directory that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// What `..` leads to; the root leads to itself.
    pub parent: InodeId,
    entries: OrdMap<Key, Entry>,
}

impl Directory {
    /// An empty directory in `parent`.
    pub fn new(parent: InodeId) -> Directory {
        Directory { parent, entries: OrdMap::new() }
    }

    /// The entry of `name`.
    pub fn get(&self, name: &Name) -> Option<Entry> {
        self.get_any(name).filter(|entry| !entry.is_whiteout())
    }

    /// The entry of `name`, which may be a whiteout.
    pub fn get_any(&self, name: &Name) -> Option<Entry> {
        self.entries.get(&Key::of(name)).copied()
    }

    /// Has it no entries?
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// All entries, in order of position.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, Entry)> {
        self.iter_any().filter(|(_, entry)| !entry.is_whiteout())
    }

    /// All entries and whiteouts, in order of position.
    pub fn iter_any(&self) -> impl Iterator<Item = (&Name, Entry)> {
        self.entries.iter().map(|(key, entry)| (&key.name, *entry))
    }

    /// What a directory shows that lies over another.
    pub fn over(&self, below: &Directory) -> Directory {
        let mut shown = Directory { parent: self.parent, entries: below.entries.clone() };
        for (key, entry) in &self.entries {
            match entry.is_whiteout() {
                true => shown.entries.remove(key),
                false => shown.entries.insert(key.clone(), *entry),
            };
        }
        shown
    }

    /// A directory with these names.
    pub fn of(parent: InodeId, names: impl Iterator<Item = (Name, Entry)>) -> Directory {
        Directory { parent, entries: names.map(|(name, entry)| (Key::of(&name), entry)).collect() }
    }

    /// The entries after `position`, each with the position to resume behind it. Of names with equal hashes all
    /// but the last carry the position before them: a listing cut between them repeats a name and never skips one.
    pub fn after(&self, position: u64) -> impl Iterator<Item = (u64, &Name, Entry)> {
        let start = Key { hash: position.saturating_add(1), name: Name::lowest() };
        let range = (Bound::Included(start), Bound::Unbounded);
        let entries = self.entries.range::<_, Key>(range);
        let mut entries = entries.filter(|(_, entry)| !entry.is_whiteout()).peekable();
        std::iter::from_fn(move || {
            let (key, entry) = entries.next()?;
            let shared = entries.peek().is_some_and(|(next, _)| next.hash == key.hash);
            Some((key.hash - u64::from(shared), &key.name, *entry))
        })
    }

    /// The names that lead elsewhere in `new`, and where; `None` where they are gone.
    pub fn changes_to<'a>(&'a self, new: &'a Directory) -> impl Iterator<Item = (&'a Name, Option<Entry>)> {
        self.entries.diff(&new.entries).map(|item| match item {
            DiffItem::Add(key, entry) | DiffItem::Update { new: (key, entry), .. } => {
                (&key.name, Some(*entry))
            }
            DiffItem::Remove(key, _) => (&key.name, None),
        })
    }

    /// The place of a name.
    pub(super) fn place_of(name: &Name) -> Option<NonZeroU64> {
        NonZeroU64::new(Key::of(name).hash)
    }

    /// The name at a place, which leads to `ino`.
    pub(super) fn name_at(&self, hash: NonZeroU64, ino: InodeId) -> Option<&Name> {
        let start = Key { hash: hash.get(), name: Name::lowest() };
        let from = self.entries.range::<_, Key>((Bound::Included(start), Bound::Unbounded));
        let mut at = from.take_while(|(key, _)| key.hash == hash.get());
        at.find(|(_, entry)| !entry.is_whiteout() && entry.ino() == ino).map(|(key, _)| &key.name)
    }

    /// Puts an entry. Tells its place, and what was there.
    pub(super) fn insert(&mut self, name: &Name, entry: Entry) -> (Option<NonZeroU64>, Option<Entry>) {
        let key = Key::of(name);
        (NonZeroU64::new(key.hash), self.entries.insert(key, entry))
    }

    /// Takes an entry away. Tells its place, and what was there.
    pub(super) fn remove(&mut self, name: &Name) -> (Option<NonZeroU64>, Option<Entry>) {
        let key = Key::of(name);
        (NonZeroU64::new(key.hash), self.entries.remove(&key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_inode_and_kind_in_eight_bytes() {
        for kind in KINDS {
            let entry = Entry::new(InodeId(InodeId::LIMIT - 1), kind);
            assert_eq!((entry.ino(), entry.kind()), (InodeId(InodeId::LIMIT - 1), kind));
        }
        assert_eq!(std::mem::size_of::<Entry>(), 8);
    }

    #[test]
    fn a_listing_in_pieces_shows_every_name_once_while_others_come_and_go() {
        let mut dir = Directory::new(InodeId::ROOT);
        let name = |i: u32| Name::new(format!("file-{i}").as_bytes()).unwrap();
        for i in 0..1000 {
            dir.insert(&name(i), Entry::new(InodeId(u64::from(i) + 100), FileKind::File));
        }
        let (mut seen, mut position, mut round) = (Vec::new(), 0, 0);
        loop {
            let page: Vec<_> = dir.after(position).take(7).map(|(p, n, _)| (p, n.clone())).collect();
            let Some((last, _)) = page.last() else { break };
            position = *last;
            seen.extend(page.into_iter().map(|(_, n)| n));
            dir.remove(&name(500 + round));
            dir.insert(&name(5000 + round), Entry::new(InodeId(9), FileKind::File));
            round += 1;
        }
        for i in 0..500 {
            assert_eq!(seen.iter().filter(|n| **n == name(i)).count(), 1, "file-{i}");
        }
    }
}
