//! Making what lies at some paths as another tree has it there: path by path, wherever its files are otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decide::{Data, Settled, added};
use super::plan::{Merging, Plan, Request};
use crate::compare::{Node, Pair, Place, Sight};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::progress::Progress;
use crate::store::{join, split};
use crate::types::{FileKind, InodeId};

type Found = BTreeMap<Arc<[u8]>, Node>;

/// Plans to make what lies at these paths, and below, as `request.theirs` has it.
///
/// # Errors
/// `NotFound` when neither has anything at a path; what the store or the host answers, `Cancelled`.
pub fn plan_paths(core: &FsCore, request: &Request<'_>, paths: &[Vec<u8>]) -> Result<Plan> {
    let (mut ours, mut theirs) = (Found::new(), Found::new());
    let mut merging = Merging::of(core, request);
    for path in paths {
        let path: Arc<[u8]> = path.as_slice().into();
        let is_there = find(request.progress, request.ours, &path, &mut ours)?;
        if !find(request.progress, request.theirs, &path, &mut theirs)? && !is_there {
            return Err(FsError::NotFound);
        }
        // The directories above, as far as both have them.
        let mut at = split(&path).map(|(above, _)| Arc::from(above));
        while let Some(above) = at {
            if let Some(node) = request.theirs.at(&above)? {
                let ours = request.ours.at(&above)?.filter(Node::is_directory);
                merging.our_of.insert(node.ino, ours.map(|ours| ours.ino));
            }
            at = split(&above).map(|(above, _)| Arc::from(above));
        }
    }
    for (path, node) in &theirs {
        let same = ours.get(path).filter(|ours| ours.is_directory());
        merging.our_of.insert(node.ino, same.map(|ours| ours.ino));
    }
    let mut settled = merging.directories(&ours, &theirs)?;
    settled.extend(merging.files(&ours, &theirs)?);
    merging.plan_of(settled)
}

/// The places of a file at these paths.
fn at(sight: &Sight, node: &Node, paths: &[&Arc<[u8]>]) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for place in &node.places {
        let path = sight.path_at(place)?;
        places.extend(paths.contains(&&path).then(|| place.clone()));
    }
    Ok(places)
}

impl Merging<'_> {
    /// Directories that are there only in one, or have other attributes.
    fn directories(&self, ours: &Found, theirs: &Found) -> Result<Vec<Settled>> {
        let mut settled = Vec::new();
        for (path, node) in ours.iter().filter(|(_, node)| node.is_directory()) {
            match theirs.get(path).filter(|other| other.is_directory()) {
                Some(other) if self.is_alike(&node.inode, &other.inode)? => {}
                Some(other) => settled.push(self.alike(node, other)?),
                None => settled.push(Settled { goes_empty: true, ..Settled::of(Some(node.clone()), None) }),
            }
        }
        let is_there = |path: &Arc<[u8]>| ours.get(path).is_some_and(Node::is_directory);
        let new = theirs.iter().filter(|(path, node)| node.is_directory() && !is_there(path));
        settled.extend(new.map(|(_, node)| added(node.clone())));
        Ok(settled)
    }

    /// Files, path by path: a file of the branch is changed in its place when all its names are to be one file of the other;
    /// else names go one by one, and what comes is made anew.
    fn files(&self, ours: &Found, theirs: &Found) -> Result<Vec<Settled>> {
        let is_file = |(_, node): &(&Arc<[u8]>, &Node)| !node.is_directory();
        let mut own: BTreeMap<InodeId, Vec<&Arc<[u8]>>> = BTreeMap::new();
        ours.iter().filter(is_file).for_each(|(path, node)| own.entry(node.ino).or_default().push(path));
        let mut coming: BTreeMap<InodeId, Vec<&Arc<[u8]>>> = BTreeMap::new();
        theirs.iter().filter(is_file).for_each(|(path, node)| coming.entry(node.ino).or_default().push(path));
        let (mut settled, mut in_place) = (Vec::new(), BTreeMap::new());
        for paths in own.values() {
            let Some(node) = paths.first().and_then(|path| ours.get(*path)) else { continue };
            let others = paths.iter().map(|path| theirs.get(*path).filter(|other| !other.is_directory()));
            let others: Vec<Option<&Node>> = others.collect();
            let is_one = others.windows(2).all(|pair| match pair {
                [one, two] => one.map(|node| node.ino) == two.map(|node| node.ino),
                _ => true,
            });
            let is_whole = paths.len() == node.places.len() && is_one;
            match others.first().copied().flatten().filter(|_| is_whole) {
                Some(other) if !in_place.contains_key(&other.ino) => {
                    in_place.insert(other.ino, settled.len());
                    settled.push(match self.is_alike(&node.inode, &other.inode)? {
                        true => Settled::of(Some(node.clone()), Some(other.clone())),
                        false => self.alike(node, other)?,
                    });
                    if let Some(left) = coming.get_mut(&other.ino) {
                        left.retain(|path| !paths.contains(path));
                    }
                }
                _ => {
                    // What is alike and needs no other link stays.
                    let mut gone = Vec::new();
                    for (path, other) in paths.iter().zip(&others) {
                        let stays = match other {
                            Some(other) => {
                                other.places.len() == 1 && self.is_alike(&node.inode, &other.inode)?
                            }
                            None => false,
                        };
                        match (stays, other) {
                            (true, Some(other)) => drop(coming.remove(&other.ino)),
                            _ => gone.push(*path),
                        }
                    }
                    let remove = at(self.ours, node, &gone)?;
                    settled.push(Settled { remove, ..Settled::of(Some(node.clone()), None) });
                }
            }
        }
        for (ino, paths) in coming.iter().filter(|(_, paths)| !paths.is_empty()) {
            let Some(node) = paths.first().and_then(|path| theirs.get(*path)) else { continue };
            let add = at(self.theirs, node, paths)?;
            match in_place.get(ino).and_then(|at| settled.get_mut(*at)) {
                Some(settled) => settled.add = add,
                None => settled.push(Settled { add, ..added(node.clone()) }),
            }
        }
        settled.retain(|settled| !settled.is_nothing());
        Ok(settled)
    }

    /// A file becomes what another is, under the names that it has.
    fn alike(&self, ours: &Node, theirs: &Node) -> Result<Settled> {
        let mut settled = Settled::of(Some(ours.clone()), Some(theirs.clone()));
        if !self.core.is_same_body(&ours.inode, &theirs.inode)? {
            settled.data = Data::Take;
        }
        settled.take_attributes(&theirs.inode);
        Ok(settled)
    }
}

/// What is not the same file at these paths, and below.
///
/// # Errors
/// What the host answers, `Cancelled`.
pub fn touched(theirs: &Sight, ours: &Sight, paths: &[Vec<u8>], progress: &Progress) -> Result<Vec<Pair>> {
    let (mut old, mut new) = (Found::new(), Found::new());
    for path in paths {
        let path: Arc<[u8]> = path.as_slice().into();
        find(progress, theirs, &path, &mut old)?;
        find(progress, ours, &path, &mut new)?;
    }
    let is_same =
        |a: &Node, b: &Node| a.ino == b.ino && (Arc::ptr_eq(&a.inode, &b.inode) || a.is_directory());
    let mut pairs = Vec::new();
    for (path, node) in &new {
        let was = old.remove(path);
        if !was.as_ref().is_some_and(|was| is_same(was, node)) {
            pairs.push(Pair { a: was, b: Some(node.clone()) });
        }
    }
    pairs.extend(old.into_values().map(|node| Pair { a: Some(node), b: None }));
    Ok(pairs)
}

/// Collects what lies at a path and below. False when there is nothing.
fn find(progress: &Progress, sight: &Sight, path: &Arc<[u8]>, found: &mut Found) -> Result<bool> {
    let Some(node) = sight.at(path)? else { return Ok(false) };
    let (ino, is_directory) = (node.ino, node.is_directory());
    if !path.is_empty() {
        found.insert(path.clone(), node);
    }
    progress.step()?;
    if is_directory {
        for (name, entry) in sight.entries(ino)? {
            let below = join(path, &name);
            if entry.kind() == FileKind::Directory {
                find(progress, sight, &below, found)?;
            } else if let Some(node) = sight.node(entry.ino(), sight.below(ino, &name).as_ref())? {
                found.insert(below, node);
            }
        }
    }
    Ok(true)
}
