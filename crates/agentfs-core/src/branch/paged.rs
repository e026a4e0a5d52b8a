//! A version on disk, as it differs from another: what a snapshot is that nobody looks at. What its files are made of stays in
//! memory, where it is counted who names it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Pager, Snapshot};
use crate::error::Result;
use crate::log;
use crate::store::{Charged, Content, Swapped};
use crate::tree::{Aside, Body, Edit, Inode, Version, diff};
use crate::types::InodeId;

/// Edits that are too many for one version.
const MUCH: usize = 4096;
/// What a step weighs, beside its edits, and what is too much altogether: an edit takes 1 to 2 µs.
const STEP: usize = 32;
const HEAVY: usize = 1 << 12;

/// A version as it differs from another.
pub struct Paged {
    /// That of which it says how it differs.
    pub(super) base: Arc<Snapshot>,
    /// What it takes to make it out of a version in memory, as it was when it was written.
    pub(super) weight: usize,
    pub(super) pager: Arc<Pager>,
    edits: Swapped,
    /// Is it on disk for sure?
    pub(super) is_settled: AtomicBool,
    /// In the order of the edits that want one.
    held: Box<[Held]>,
}

/// What is not written.
struct Held {
    content: Content,
    charge: Charged,
}

impl Paged {
    /// Writes how `to` differs from `from`, which is the version of `base`. `None` when that is much: in memory it shares
    /// more with others.
    ///
    /// # Errors
    /// What the store answers.
    pub(super) fn write(
        pager: &Arc<Pager>,
        base: &Arc<Snapshot>,
        (from, to): (&Version, &Version),
    ) -> Result<Option<Paged>> {
        let (mut edits, mut held, mut count) = (Vec::new(), Vec::new(), 0_usize);
        diff(Some(from), to, &mut |edit| {
            count += 1;
            if count <= MUCH {
                bare(edit, to, &mut edits, &mut held);
            }
        });
        let weight = base.weight() + count + STEP;
        if count > MUCH || weight > HEAVY {
            return Ok(None);
        }
        let edits = pager.swap.put(&log::encode_edits(&edits)?)?;
        let (base, pager, is_settled) = (base.clone(), pager.clone(), AtomicBool::new(false));
        Ok(Some(Paged { base, weight, pager, edits, is_settled, held: held.into() }))
    }

    /// Makes the version out of that of the base.
    ///
    /// # Errors
    /// What the store answers.
    pub(super) fn apply(&self, version: &mut Version) -> Result<()> {
        let (mut held, mut aside) = (self.held.iter(), Aside::default());
        for edit in log::decode_edits(&self.edits.get()?)? {
            dressed(edit, &mut held).apply(version, &mut aside);
        }
        Ok(())
    }
}

/// An edit without what its file is made of.
fn bare(edit: Edit, to: &Version, edits: &mut Vec<Edit>, held: &mut Vec<Held>) {
    let content =
        |ino: InodeId| to.get(ino).and_then(|inode| inode.content()).cloned().unwrap_or(Content::Hole);
    match edit {
        Edit::Put(ino, inode) => {
            held.push(Held { content: content(ino), charge: inode.charge.clone() });
            let body = match &inode.body {
                Body::File(_) => Body::File(Content::Hole),
                body => body.clone(),
            };
            edits.push(Edit::Put(ino, Arc::new(Inode { body, ..Inode::clone(&inode) })));
        }
        Edit::Content(ino, _) => {
            held.push(Held { content: content(ino), charge: Charged::default() });
            edits.push(Edit::Content(ino, Content::Hole));
        }
        // In several pieces, or behind what put the file there: it has all of them.
        Edit::Layers(ino, _) => {
            if !edits.last().is_some_and(|last| is_of(last, ino)) {
                bare(Edit::Content(ino, Content::Hole), to, edits, held);
            }
        }
        edit => edits.push(edit),
    }
}

/// Does an edit give this file what it is made of?
fn is_of(edit: &Edit, ino: InodeId) -> bool {
    matches!(edit, Edit::Put(known, _) | Edit::Content(known, _) if *known == ino)
}

/// An edit with what its file is made of.
fn dressed<'a>(edit: Edit, held: &mut impl Iterator<Item = &'a Held>) -> Edit {
    match edit {
        Edit::Put(ino, inode) => {
            let Some(Held { content, charge }) = held.next() else { return Edit::Put(ino, inode) };
            let mut inode = Arc::unwrap_or_clone(inode);
            if inode.content().is_some() {
                inode.body = Body::File(content.clone());
            }
            inode.charge = charge.clone();
            Edit::Put(ino, Arc::new(inode))
        }
        Edit::Content(ino, content) => {
            Edit::Content(ino, held.next().map_or(content, |held| held.content.clone()))
        }
        edit => edit,
    }
}
