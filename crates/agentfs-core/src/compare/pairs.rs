//! The files that differ between two versions, each with what it is in both.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::{Node, Place, Sight};
use crate::error::Result;
use crate::store::{Content, join};
use crate::tree::{Entry, Inode, differing};
use crate::types::{InodeId, Name};

/// A file as one version has it and as another has it: the same inode, or what took its place.
#[derive(Clone, Debug)]
pub struct Pair {
    /// In the first.
    pub a: Option<Node>,
    /// In the second.
    pub b: Option<Node>,
}

/// All files that are not the same in both: elsewhere, or with another content or other attributes, times excepted. `step` is
/// called for each that is looked at.
///
/// # Errors
/// What the host or `step` answers; `Changed` for a lower file that a version relies on.
pub fn compare(a: &Sight, b: &Sight, step: &dyn Fn() -> Result<()>) -> Result<Vec<Pair>> {
    let (mut pairs, mut seen) = (Vec::new(), HashSet::new());
    let mut next: Vec<_> = candidates(a, b)?.into_iter().rev().collect();
    while let Some((ino, from)) = next.pop() {
        if !seen.insert(ino) {
            continue;
        }
        step()?;
        let (in_a, in_b) = (a.node(ino, from.as_ref())?, b.node(ino, from.as_ref())?);
        let is_same = match (&in_a, &in_b) {
            (Some(a), Some(b)) => is_same(a, b),
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            for (sight, one, other) in [(a, &in_a, &in_b), (b, &in_b, &in_a)] {
                next.extend(
                    one.as_ref()
                        .filter(|_| other.is_none())
                        .map(|dir| below(sight, dir))
                        .transpose()?
                        .into_iter()
                        .flatten(),
                );
            }
            pairs.push(Pair { a: in_a, b: in_b });
        }
    }
    join_replaced(a, pairs)
}

/// An inode, and where it is below for one that the version does not have itself.
type Found = (InodeId, Option<Arc<[u8]>>);

/// What a directory shows of the one below, which only one of the two does.
fn below(sight: &Sight, dir: &Node) -> Result<Vec<Found>> {
    let Some(origin) = dir.inode.lower.as_ref().filter(|_| dir.is_directory()) else { return Ok(Vec::new()) };
    let from = |(name, entry): (Name, Entry)| {
        // What the version has itself may have come from elsewhere.
        let from = match sight.version.get(entry.ino()) {
            Some(inode) => inode.lower.as_ref().map(|origin| origin.path.clone()),
            None => Some(join(&origin.path, &name)),
        };
        (entry.ino(), from)
    };
    Ok(sight.entries(dir.ino)?.into_iter().map(from).collect())
}

/// Inodes that may differ, and where they were in the lower directory.
fn candidates(a: &Sight, b: &Sight) -> Result<BTreeMap<InodeId, Option<Arc<[u8]>>>> {
    let mut found = BTreeMap::new();
    let origin = |inode: Option<&Arc<Inode>>| inode?.lower.as_ref().map(|origin| origin.path.clone());
    for ino in differing(&a.version, &b.version) {
        let (old, new) = (a.version.get(ino), b.version.get(ino));
        let from = origin(old).or_else(|| origin(new));
        // A name that one of them has itself, or hides: what it leads to in the other, that one may not have itself.
        if let Some(from) = &from {
            for name in own_names(old, new) {
                for sight in [a, b] {
                    if let Some(entry) = sight.entry(ino, Some(from), &name)? {
                        found.entry(entry.ino()).or_insert_with(|| Some(join(from, &name)));
                    }
                }
            }
        }
        found.insert(ino, from);
    }
    Ok(found)
}

/// The names of a directory of which its two versions have not the same themselves.
fn own_names(old: Option<&Arc<Inode>>, new: Option<&Arc<Inode>>) -> Vec<Name> {
    let directory = |inode: Option<&Arc<Inode>>| inode.and_then(|inode| inode.directory()).cloned();
    match (directory(old), directory(new)) {
        (Some(old), Some(new)) => old.changes_to(&new).map(|(name, _)| name.clone()).collect(),
        (Some(one), None) | (None, Some(one)) => one.iter_any().map(|(name, _)| name.clone()).collect(),
        (None, None) => Vec::new(),
    }
}

/// Is a file the same, and in the same places?
fn is_same(a: &Node, b: &Node) -> bool {
    let sorted = |node: &Node| {
        let mut places = node.places.clone();
        places.sort();
        places
    };
    is_alike(&a.inode, &b.inode) && (a.places == b.places || sorted(a) == sorted(b))
}

/// Has a file the same owner, permissions, extended attributes and, as far as can be told without reading it, content?
fn is_alike(a: &Inode, b: &Inode) -> bool {
    let content = match (a.content(), b.content()) {
        (Some(old), Some(new)) => old.same(new) && a.meta.size == b.meta.size,
        _ => a.directory().is_some() || a.body == b.body,
    };
    a.has_attributes_of(b) && content
}

/// What is gone and what is new are one where the new one goes on the other, took its place, or has its content.
fn join_replaced(a: &Sight, pairs: Vec<Pair>) -> Result<Vec<Pair>> {
    let (mut gone, mut rest) = (Vec::new(), Vec::new());
    let (mut new, mut by_place, mut by_identity) = (Vec::new(), HashMap::new(), HashMap::new());
    for pair in pairs {
        match pair {
            Pair { a: Some(old), b: None } => {
                let depth = old.places.first().map(|place| a.path(place.0)).transpose()?;
                gone.push((depth.map_or(0, |path| path.len()), old));
            }
            Pair { a: None, b: Some(node) } => {
                by_place.extend(node.places.iter().map(|place| (place.clone(), new.len())));
                by_identity.extend(node.inode.identities(node.ino).map(|identity| (identity, new.len())));
                new.push(Some(node));
            }
            both => rest.push(both),
        }
    }
    // A directory before what is in it: its path is shorter.
    gone.sort_by_key(|(length, node)| (*length, node.ino));
    let mut directories: HashMap<InodeId, InodeId> = HashMap::new();
    let mut alone = Vec::new();
    for (_, old) in gone {
        let at = |(dir, name): &Place| {
            let dir = directories.get(dir).copied().unwrap_or(*dir);
            by_place.get(&(dir, name.clone())).copied()
        };
        let takes = |at: &usize| {
            new.get(*at).and_then(Option::as_ref).is_some_and(|new| new.is_directory() == old.is_directory())
        };
        let known = |identity| by_identity.get(&identity).copied().filter(takes);
        let same = old.inode.identities(old.ino).find_map(known);
        let successor = same.or_else(|| old.places.iter().filter_map(at).find(takes));
        match successor.and_then(|at| new.get_mut(at)?.take()) {
            Some(successor) => {
                if old.is_directory() {
                    directories.insert(old.ino, successor.ino);
                }
                rest.push(Pair { a: Some(old), b: Some(successor) });
            }
            None => alone.push(old),
        }
    }
    join_moved(alone, new.into_iter().flatten().collect(), &mut rest);
    Ok(rest)
}

/// What has the content of a file that is gone is that file, moved.
fn join_moved(gone: Vec<Node>, new: Vec<Node>, pairs: &mut Vec<Pair>) {
    let key = |node: &Node| match node.inode.content()? {
        Content::Whole(object) => Some((0, object.id.0, node.inode.meta.size)),
        Content::Packed(extent) => {
            let (pack, offset) = extent.place();
            Some((u64::from(offset) + 1, pack.0, u64::from(extent.len)))
        }
        Content::Layered(layers) => Some((u64::MAX, layers.stamp(), node.inode.meta.size)),
        Content::Hole | Content::Lower(_) => None,
    };
    let mut by_content: HashMap<_, Vec<usize>> = HashMap::new();
    for (at, node) in new.iter().enumerate() {
        key(node).into_iter().for_each(|key| by_content.entry(key).or_default().push(at));
    }
    let mut taken = HashSet::new();
    for old in gone {
        let found = key(&old).and_then(|key| by_content.get_mut(&key)?.pop());
        taken.extend(found);
        pairs.push(Pair { a: Some(old), b: found.and_then(|at| new.get(at)).cloned() });
    }
    let added = new.into_iter().enumerate().filter(|(at, _)| !taken.contains(at));
    pairs.extend(added.map(|(_, node)| Pair { a: None, b: Some(node) }));
}
