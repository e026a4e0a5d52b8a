//! Making what lies at some paths as another tree has it there: path by path, wherever its files are otherwise.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::decide::{Data, Settled, added};
use super::plan::{Merging, Plan, Request};
use crate::compare::{Node, Sight};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
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
        let is_there = find(request, request.ours, &path, &mut ours)?;
        if !find(request, request.theirs, &path, &mut theirs)? && !is_there {
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

/// Collects what lies at a path and below. False when there is nothing.
fn find(request: &Request<'_>, sight: &Sight, path: &Arc<[u8]>, found: &mut Found) -> Result<bool> {
    let Some(node) = sight.at(path)? else { return Ok(false) };
    let (ino, is_directory) = (node.ino, node.is_directory());
    if !path.is_empty() {
        found.insert(path.clone(), node);
    }
    request.progress.step()?;
    if is_directory {
        for (name, entry) in sight.entries(ino)? {
            let below = join(path, &name);
            if entry.kind() == FileKind::Directory {
                find(request, sight, &below, found)?;
            } else if let Some(node) = sight.node(entry.ino(), Some(&below))? {
                found.insert(below, node);
            }
        }
    }
    Ok(true)
}
