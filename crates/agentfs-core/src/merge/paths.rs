//! Making what lies at some paths as another tree has it there: path by path, wherever its files are otherwise.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::decide::{Data, Settled, added};
use super::plan::{Merging, Plan, Request};
use crate::compare::{Node, Pair, Sight};
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
    let mut settled = Vec::new();
    let (mut seen, mut gone): (HashSet<InodeId>, _) = (HashSet::new(), Vec::new());
    for (path, node) in &ours {
        match theirs.get(path) {
            Some(other) if other.is_directory() == node.is_directory() => {
                if !merging.is_alike(&node.inode, &other.inode)? && seen.insert(node.ino) {
                    settled.push(merging.alike(node, other)?);
                }
            }
            _ => gone.push((path, node)),
        }
    }
    for (path, node) in gone {
        let mut going = Settled::of(Some(node.clone()), None);
        if node.is_directory() {
            going.goes_empty = true;
        } else {
            going.remove = node.places.clone();
            going.remove.retain(|place| request.ours.path_at(place).is_ok_and(|at| at == *path));
        }
        settled.push(going);
    }
    for (path, node) in &theirs {
        let is_there = ours.get(path).is_some_and(|ours| ours.is_directory() == node.is_directory());
        if !is_there {
            let mut new = added(node.clone());
            new.add.retain(|place| request.theirs.path_at(place).is_ok_and(|at| at == *path));
            settled.push(new);
        }
    }
    merging.finish(settled)
}

impl Merging<'_> {
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
