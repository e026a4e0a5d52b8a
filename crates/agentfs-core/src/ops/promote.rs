//! Files in layers that are written much: what they have elsewhere is copied to the top, some at a time, until all is in one
//! object. A copy is paid for then by what was written: it never takes more space than that did.

use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::OpenFile;
use crate::store::{Change, Claim, copy_range};
use crate::types::{InodeId, ViewId};

/// Bytes that are copied at once: readers and writers of the file, and snapshots, wait no longer than that takes.
const AT_ONCE: u64 = 1 << 20;
/// Bytes that are copied in one turn.
const PER_TURN: u64 = 32 << 20;

/// How far a turn came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// There is more to copy.
    Further,
    /// There is not, or it is not worth it any more.
    ToAnEnd,
}

impl FsCore {
    /// Takes a file that is hot a step on.
    ///
    /// # Errors
    /// What the store answers; the file is as it was, and is left alone until it is written to again.
    pub(super) fn promote(&self) -> Result<()> {
        let next = self.hot.lock().iter().next().copied();
        let Some((view, ino)) = next else { return Ok(()) };
        let came = self.with_layers_of((view, ino), |file| {
            let (mut came, mut left) = (Came::Further, PER_TURN);
            while left > 0 && came == Came::Further {
                came = self.promote_stretch(file)?;
                left = left.saturating_sub(AT_ONCE);
            }
            Ok(came)
        });
        if !matches!(came, Ok(Some(Came::Further))) {
            self.hot.lock().remove(&(view, ino));
        }
        came.map(drop)
    }

    /// Does something to a file that need not be open; `None` when it is gone.
    pub(super) fn with_layers_of<T>(
        &self,
        (view, ino): (ViewId, InodeId),
        work: impl FnOnce(&OpenFile) -> Result<T>,
    ) -> Result<Option<T>> {
        // Before the view is looked up: it is of the same branch until this is done.
        let _tending = self.tending.lock();
        let Ok(tree) = self.views.get(view) else { return Ok(None) };
        if tree.with_inode(ino, |_| ()).is_err() {
            return Ok(None);
        }
        let file = self.open_files.acquire(&tree, view, ino);
        let done = work(&file);
        self.settle_unused(&file);
        self.let_go(&file);
        match done {
            // It went meanwhile.
            Err(FsError::Stale) => Ok(None),
            done => done.map(Some),
        }
    }

    fn promote_stretch(&self, file: &OpenFile) -> Result<Came> {
        let mut source = file.source.write();
        let Some(mut stack) = self.stack_if_layered(file, &mut source)? else { return Ok(Came::ToAnEnd) };
        // A snapshot that came meanwhile has what was written; the next writes begin anew.
        let Some(top) = stack.own_top()?.filter(|top| stack.is_hot(top)) else { return Ok(Came::ToAnEnd) };
        let part = stack.layers.next_not_in(top.backing.id, 0);
        let Some((start, from, at, end)) =
            part.map(|part| (part.start, part.claim.backing().id, part.at(), part.end))
        else {
            return Ok(Came::ToAnEnd);
        };
        let len = (end - start).min(AT_ONCE);
        if !self.has_room_for(2 * (stack.layers.bytes() + len))? {
            return Ok(Came::ToAnEnd);
        }
        // Who is at his quota has it in layers.
        let reserved = self.reserve_range(stack.branch, (&top.backing, &*top.open), (start, len), true);
        let Ok((reserved, _)) = reserved else { return Ok(Came::ToAnEnd) };
        let other = stack.opens.get(from)?;
        let claim = Claim::new(top.backing.clone(), start, len);
        let copied = self.with_room(|| copy_range(&*other, at, &*top.open, start, len));
        top.backing.note_change();
        self.charge_object(stack.branch, (&top.backing, &*top.open), reserved.as_ref())?;
        let copied = copied?;
        let claim = if copied < len { claim.part(0, copied) } else { claim };
        let size = stack.size;
        stack.commit(&mut source, vec![Change::piece(start, claim)], size, None)?;
        Ok(Came::Further)
    }
}
