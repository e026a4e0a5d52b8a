//! What a branch holds: alone, and together with others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::repair::names_of;
use crate::branch::Still;
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::store::{Claim, Content, Layers, Stretch, merge, without};
use crate::tree::{Inode, Version, visit_new};
use crate::types::{BranchId, InodeId, ObjectId, ViewId};

/// The unit in which stored content is counted, in bytes.
const BLOCK: u64 = 512;

/// What a branch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The branch.
    pub branch: BranchId,
    /// Its files and directories.
    pub inodes: u64,
    /// Bytes of content that no other branch or snapshot has under the same inode.
    pub private_bytes: u64,
    /// Bytes of content that others have too.
    pub shared_bytes: u64,
}

impl FsCore {
    /// What a branch, given by id or name, holds. Looks at all its files: for rare questions.
    ///
    /// # Errors
    /// `UnknownVersion`.
    pub fn usage(&self, branch: &str) -> Result<Usage> {
        let (id, own, others) = {
            let catalog = self.catalog.read();
            let (info, branch) = catalog.branch(branch)?;
            let branches = catalog.all_branches().filter(|(other, _)| other.id != info.id);
            let others: Vec<Still> = branches
                .map(|(_, branch)| Still::Whole(branch.read(Version::clone)))
                .chain(catalog.all_snapshots().map(|(_, snapshot)| snapshot.still()))
                .collect();
            (info.id, branch.read(Version::clone), others)
        };
        let stored = |inode: &Inode| match inode.content() {
            None | Some(Content::Lower(_)) => 0,
            Some(_) => inode.meta.blocks * BLOCK,
        };
        let all: u64 = own.iter().map(|(_, inode)| stored(inode)).sum();
        let private = private(&own, &others)?;
        let mut theirs = named_by_others(&private, &others)?;
        let private_bytes = private
            .iter()
            .map(|(ino, inode)| match inode.content() {
                Some(Content::Layered(layers)) => {
                    bytes_of_ours(layers, theirs.remove(ino).unwrap_or_default())
                }
                _ => stored(inode),
            })
            .sum::<u64>();
        let inodes = own.len() as u64;
        Ok(Usage { branch: id, inodes, private_bytes, shared_bytes: all - private_bytes })
    }

    /// The files of a branch that are open to be written.
    pub fn written_files(&self, view: ViewId) -> Vec<InodeId> {
        self.open_files.of_view(view, |file| file.writers.load(Ordering::Relaxed) > 0)
    }

    /// A name of an inode, to tell people; empty when it has none. Searches: for rare questions.
    pub fn name_of(&self, view: ViewId, ino: InodeId) -> String {
        let name =
            self.views.get(view).ok().and_then(|tree| tree.read(|version| name_in(version, ino)).ok()?);
        name.unwrap_or_default()
    }
}

/// A name that leads to an inode. Searches: for rare questions.
pub(super) fn name_in(version: &Version, ino: InodeId) -> Option<String> {
    let name = version.iter().find_map(|(dir, _)| names_of(version, dir, ino).into_iter().next())?;
    Some(String::from_utf8_lossy(name.as_bytes()).into_owned())
}

/// The inodes whose content is in none of the others. Costs what differs from each.
fn private(own: &Version, others: &[Still]) -> Result<HashMap<InodeId, Arc<Inode>>> {
    let mut left: Option<HashMap<InodeId, Arc<Inode>>> = None;
    for other in others {
        if left.as_ref().is_some_and(HashMap::is_empty) {
            break;
        }
        let other = other.version()?;
        let differs = |ino: InodeId, inode: &Arc<Inode>| match (inode.content(), other.get(ino)) {
            (Some(content), Some(theirs)) => !theirs.content().is_some_and(|theirs| theirs.same(content)),
            (content, _) => content.is_some(),
        };
        match &mut left {
            Some(left) => left.retain(|ino, inode| differs(*ino, inode)),
            None => {
                let mut first = HashMap::new();
                visit_new(Some(&other), own, &mut |ino, inode| {
                    if differs(ino, inode) {
                        first.insert(ino, inode.clone());
                    }
                });
                left = Some(first);
            }
        }
    }
    Ok(left.unwrap_or_else(|| own.iter().map(|(ino, inode)| (ino, inode.clone())).collect()))
}

/// What others name of the objects that files in layers lie in, under the same inodes.
fn named_by_others(ours: &HashMap<InodeId, Arc<Inode>>, others: &[Still]) -> Result<HashMap<InodeId, Named>> {
    let layered = ours.iter().filter_map(|(ino, inode)| match inode.content() {
        Some(Content::Layered(layers)) => Some((*ino, layers)),
        _ => None,
    });
    let layered: Vec<_> = layered.collect();
    let mut named: HashMap<InodeId, Named> = HashMap::new();
    for other in others.iter().filter(|_| !layered.is_empty()) {
        let other = other.version()?;
        for (ino, own) in &layered {
            if let Some(content) = other.get(*ino).and_then(|inode| inode.content()) {
                note_named(own, content, named.entry(*ino).or_default());
            }
        }
    }
    Ok(named)
}

/// Stretches of objects.
type Named = HashMap<ObjectId, Vec<Stretch>>;

fn note_named(own: &Layers, other: &Content, theirs: &mut Named) {
    match other {
        Content::Whole(object) => theirs.entry(object.id).or_default().push((0, u64::MAX)),
        Content::Layered(layers) => {
            let common = layers.pieces().map(|(_, claim)| claim);
            for claim in common.filter(|claim| own.owner(claim.backing().id).is_some()) {
                let stretches = theirs.entry(claim.backing().id).or_default();
                stretches.push((claim.at(), claim.at() + claim.len()));
                // Many versions name the same.
                if stretches.len().is_power_of_two() {
                    merge(stretches);
                }
            }
        }
        Content::Hole | Content::Packed(_) | Content::Lower(_) => {}
    }
}

/// The bytes of content in layers that are in no other content.
fn bytes_of_ours(own: &Layers, mut theirs: Named) -> u64 {
    theirs.values_mut().for_each(merge);
    let ours = |claim: &Claim| {
        let theirs = theirs.get(&claim.backing().id).map_or(&[][..], Vec::as_slice);
        without(&[(claim.at(), claim.at() + claim.len())], theirs)
    };
    own.pieces().flat_map(|(_, claim)| ours(claim)).map(|(start, end)| end - start).sum()
}
