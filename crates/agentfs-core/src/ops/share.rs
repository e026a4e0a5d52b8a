//! Copying by sharing: two files name the same bytes, which neither writes in place from then on. A whole file that is copied
//! to an empty one shares its content; large stretches are shared by content in layers.

use std::sync::Arc;

use super::privileges::Strip;
use super::write::note_change;
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::handle::{OpenFile, Source};
use crate::store::{Backing, Change, Content, Layers};

/// What a branch writes in place is shared only from so many times that on that would be worth layers: its next writes go
/// into layers then.
const OWN: u64 = 16;

impl FsCore {
    /// Gives an empty file the content of another, if that is one that nobody writes in place.
    pub(super) fn share(&self, from: &OpenFile, to: &OpenFile, len: u64, strip: Strip) -> Result<bool> {
        let branch = to.tree.branch()?;
        let mut source = to.source.write();
        let permit = branch.permit_write();
        // Asked before the content: what was private then may have been cut since.
        let writer = from.tree.branch().ok().map(|from| from.epoch());
        let (content, size, blocks) = from
            .tree
            .with_inode(from.ino, |inode| (inode.content().cloned(), inode.meta.size, inode.meta.blocks))?;
        let is_written = match &content {
            // Who gives it other content is given credit for it: it is one file's alone.
            Some(Content::Packed(_)) => self.quotas.is_some(),
            Some(Content::Whole(object)) => object.epoch() == permit.epoch || writer == Some(object.epoch()),
            Some(Content::Layered(layers)) => layers.owners().any(|owner| {
                let epoch = owner.backing.epoch();
                epoch == permit.epoch || writer == Some(epoch)
            }),
            Some(Content::Hole | Content::Lower(_)) | None => true,
        };
        let shared = self.change_branch(branch, |draft| {
            let empty = draft.inode(to.ino)?;
            let is_empty = empty.meta.size == 0 && matches!(empty.content(), Some(Content::Hole));
            let Some(content) = content.filter(|_| is_empty && !is_written && size == len) else {
                return Ok(false);
            };
            draft.set_content(to.ino, content);
            note_change(draft, to.ino, |_| size, strip)?;
            draft.meta(to.ino)?.blocks = blocks;
            Ok(true)
        })?;
        if shared {
            *source = Source::Unknown;
        }
        Ok(shared)
    }

    /// The pieces of a stretch that is large enough to be shared. What the branch writes in place is nobody's to write from
    /// then on.
    pub(super) fn pieces_to_share(
        &self,
        file: &OpenFile,
        (offset, len): (u64, u64),
    ) -> Result<Option<Vec<Change>>> {
        if !self.is_worth_layers(len) || file.is_direct() {
            return Ok(None);
        }
        let mut source = file.source.write();
        self.find_source(file, &mut source)?;
        let permit = file.tree.branch().ok().map(|branch| branch.permit_write());
        let is_own =
            |backing: &Backing| permit.as_ref().is_some_and(|permit| permit.epoch == backing.epoch());
        let layers = match &*source {
            Source::Object(object, open) if !file.is_direct() => {
                let size = file.tree.with_inode(file.ino, |inode| inode.meta.size)?;
                Arc::new(self.layers_of(object, &**open, size)?)
            }
            Source::Layered(layered) => self.layered_file(file, layered)?.layers,
            _ => return Ok(None),
        };
        let mut own: Option<Arc<Backing>> = None;
        let mut pieces = Vec::new();
        for part in layers.parts(offset, offset + len) {
            own = own.or_else(|| Some(part.claim.backing().clone()).filter(|backing| is_own(backing)));
            pieces.push(Change::piece(part.start - offset, part.to_claim()));
        }
        if let Some(own) = own {
            if !self.is_worth_layers(len / OWN) {
                return Ok(None);
            }
            own.set_epoch(self.fresh_epoch());
        }
        Ok(Some(pieces))
    }

    /// Makes a stretch of a file of these pieces, with holes between them. False, and nothing is done, where that cannot be.
    pub(super) fn share_pieces(
        &self,
        file: &OpenFile,
        (offset, len): (u64, u64),
        pieces: Vec<Change>,
        strip: Strip,
    ) -> Result<bool> {
        let mut source = file.source.write();
        self.find_source(file, &mut source)?;
        let can_be_layered = match &*source {
            Source::Hole | Source::Object(..) => !file.is_direct(),
            Source::Layered(_) => true,
            Source::Unknown | Source::Small(_) | Source::Lower(..) => false,
        };
        if !can_be_layered {
            return Ok(false);
        }
        let moved = pieces.into_iter().map(|piece| Change { start: piece.start + offset, ..piece });
        let stretch: Layers = moved.collect();
        self.put_pieces(file, &mut source, (offset, len), &stretch, strip).map(|()| true)
    }
}
