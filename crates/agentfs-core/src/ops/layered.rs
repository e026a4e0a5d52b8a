//! Writing to content in layers: what was frozen stays where it is, and only the blocks that are written go to an object of
//! the branch's own, the top. A block that is written in part is filled with what it had. The bytes are there before the
//! record that says so, and are durable before that is.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::privileges::Strip;
use super::write::{Writing, note_written};
use crate::branch::{Branch, WritePermit};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::{LayeredSource, OpenFile, Source, Top};
use crate::store::{
    BLOCK, Backing, Change, Claim, Content, FallocateFlags, LayeredFile, Layers, Object, ObjectFile, Opens,
    Seek, blocks_in, no_space,
};
use crate::tree::Inode;
use crate::types::{Epoch, ObjectId};

/// More stretches of data than this are not looked for in an object: what is behind them counts as data.
const MOST_STRETCHES: usize = 4096;

/// A file in more objects than this may be in many that have little of it.
pub(super) const SCATTERED: usize = 64;

/// A file in layers, or one that comes to be so, that is being written to. No snapshot comes between.
pub(super) struct Stack<'a> {
    core: &'a FsCore,
    file: &'a OpenFile,
    pub(super) branch: &'a Branch,
    permit: WritePermit<'a>,
    pub(super) layers: Arc<Layers>,
    pub(super) size: u64,
    pub(super) opens: Arc<Opens>,
    top: Option<Top>,
}

impl FsCore {
    /// Is frozen content of so many bytes left where it is when the file is written to, rather than copied?
    pub(super) fn is_worth_layers(&self, size: u64) -> bool {
        size >= self.config.layered_from && !self.store.device().reflinks()
    }

    /// Is what is written to a file to go into layers? Of what it has, `keep` bytes will be left.
    pub(super) fn is_for_layers(&self, file: &OpenFile, source: &Source, keep: u64) -> Result<bool> {
        Ok(match source {
            Source::Layered(_) => true,
            Source::Object(object, _) => {
                !file.is_direct()
                    && object.epoch() != file.tree.branch()?.epoch()
                    && self
                        .is_worth_layers(file.tree.with_inode(file.ino, |inode| inode.meta.size)?.min(keep))
            }
            Source::Unknown | Source::Hole | Source::Small(_) | Source::Lower(..) => false,
        })
    }

    /// A file in layers as it is now, to read.
    pub(super) fn layered_file(&self, file: &OpenFile, source: &LayeredSource) -> Result<LayeredFile> {
        let (content, len) =
            file.tree.with_inode(file.ino, |inode| (inode.content().cloned(), inode.meta.size))?;
        let Some(Content::Layered(layers)) = content else {
            return Err(FsError::damaged("the content of an open file is not where it was"));
        };
        Ok(LayeredFile { layers, len, opens: source.opens.clone() })
    }

    /// Where the data of an object is, as layers.
    pub(super) fn layers_of(&self, object: &Object, open: &dyn ObjectFile, size: u64) -> Result<Layers> {
        // Whoever wrote it did not say whether that is durable.
        object.backing().note_change();
        let (mut found, mut at) = (Vec::new(), 0);
        while let Some(data) = open.seek(Seek::Data, at)?.filter(|data| *data < size) {
            let is_last = found.len() >= MOST_STRETCHES;
            let end = if is_last { None } else { open.seek(Seek::Hole, data)? };
            at = end.map_or(size, |end| end.min(size));
            found.push(Change::piece(data, Claim::new(object.backing().clone(), data, at - data)));
        }
        Ok(found.into_iter().collect())
    }

    fn open_top(&self, backing: Arc<Backing>) -> Result<Top> {
        let open = self.store.open_backing(&backing)?;
        Ok(Top { backing, open })
    }

    /// As [`FsCore::stack`], of a file that nobody need have opened; `None` when it is in layers no more.
    pub(super) fn stack_if_layered<'a>(
        &'a self,
        file: &'a OpenFile,
        source: &mut Source,
    ) -> Result<Option<Stack<'a>>> {
        self.find_source(file, source)?;
        matches!(source, Source::Layered(_)).then(|| self.stack(file, source)).transpose()
    }

    fn stack<'a>(&'a self, file: &'a OpenFile, source: &Source) -> Result<Stack<'a>> {
        let branch = file.tree.branch()?;
        let permit = branch.permit_write();
        if self.journal.is_poisoned() {
            return Err(FsError::read_only_store());
        }
        self.mark_dirty(file, branch)?;
        let (content, size) =
            file.tree.with_inode(file.ino, |inode| (inode.content().cloned(), inode.meta.size))?;
        let layers = match (content, source) {
            (Some(Content::Layered(layers)), _) => layers,
            (Some(Content::Hole), _) => Arc::default(),
            (Some(Content::Whole(_)), Source::Object(object, open)) => {
                Arc::new(self.layers_of(object, &**open, size)?)
            }
            _ => return Err(FsError::damaged("the content of an open file is not where it was")),
        };
        let (opens, top) = match source {
            Source::Layered(source) => (source.opens.clone(), source.top.clone()),
            Source::Object(object, open) => {
                (self.store.opens(), Some(Top { backing: object.backing().clone(), open: open.clone() }))
            }
            _ => (self.store.opens(), None),
        };
        let top = top.filter(|top| top.backing.epoch() == permit.epoch);
        Ok(Stack { core: self, file, branch, permit, layers, size, opens, top })
    }

    /// Writes to a file in layers. The caller holds the content lock.
    pub(super) fn write_layered(
        &self,
        file: &OpenFile,
        source: &mut Source,
        offset: u64,
        data: &[u8],
        how: Writing,
    ) -> Result<usize> {
        let mut stack = self.stack(file, source)?;
        let end = offset + data.len() as u64;
        let (top, is_own) = match stack.own_top()? {
            Some(top) if stack.layers.lies_in(top.backing.id, offset, end) => (top, true),
            _ => (stack.top()?, false),
        };
        let (from, to) = if is_own { (offset, end) } else { stack.blocks(&top, offset, end) };
        let bytes = stack.filled(data, offset, (from, to))?;
        let own = (&*top.backing, &*top.open);
        let (reserved, fits) = self.reserve_range(stack.branch, own, (from, to - from), how.is_whole)?;
        let bytes = bytes.get(..fits as usize).unwrap_or(&bytes);
        // Named before it is there: nobody takes it for free meanwhile.
        let claim = (!is_own).then(|| Claim::new(top.backing.clone(), from, to - from));
        let written = self.write_object(own.1, bytes, from, how);
        top.backing.note_write(to - from);
        self.charge_object(stack.branch, own, reserved.as_ref())?;
        let written = written?;
        let mut reached = from + written as u64;
        if reached < to && !is_own {
            reached -= reached % BLOCK; // the rest of a block is not there
        }
        if reached <= offset && !data.is_empty() {
            return Err(no_space().into());
        }
        stack.note_wear(&top);
        if let Some(claim) = claim {
            let claim = if reached < to { claim.part(0, reached - from) } else { claim };
            let size = stack.size.max(end.min(reached));
            stack.commit(source, vec![Change::piece(from, claim)], size, Some(how))?;
        } else if stack.layers.owners().len() == 1 {
            // What else it had was cut off.
            let size = stack.size;
            stack.commit(source, Vec::new(), size, Some(how))?;
        } else {
            self.change_branch(file.tree.branch()?, |draft| note_written(draft, file.ino, |size| size, how))?;
        }
        Ok((end.min(reached) - offset) as usize)
    }

    /// Makes a stretch of a file of what `pieces` have there. The caller holds the content lock.
    pub(super) fn put_pieces(
        &self,
        file: &OpenFile,
        source: &mut Source,
        (offset, len): (u64, u64),
        pieces: &Layers,
        strip: Strip,
    ) -> Result<()> {
        let stack = self.stack(file, source)?;
        let holes = pieces.holes(offset, offset + len);
        let holes = holes.into_iter().map(|(from, to)| Change::hole(from, to - from));
        let moved = pieces.pieces().map(|(start, claim)| Change::piece(start, claim.clone()));
        let size = stack.size.max(offset + len);
        stack.commit(source, holes.chain(moved).collect(), size, Some(strip.into()))
    }

    /// Is what is written to a file to go into layers now?
    pub(super) fn goes_into_layers(&self, file: &OpenFile) -> Result<bool> {
        let source = self.source_to_read(file)?;
        self.is_for_layers(file, &source, u64::MAX)
    }

    /// Cuts or extends a file in layers. The caller holds the content lock.
    pub(super) fn resize_layered(
        &self,
        file: &OpenFile,
        source: &mut Source,
        size: u64,
        strip: Strip,
    ) -> Result<()> {
        let mut stack = self.stack(file, source)?;
        let own = stack.own_top()?;
        let end = stack.layers.end();
        let cut = (size < end).then(|| Change::hole(size, end - size));
        stack.commit(source, cut.into_iter().collect(), size, Some(strip.into()))?;
        // What was cut off does not show any more, and takes space until this is done.
        if let Some(top) = own
            && top.open.stat()?.len > size
        {
            let cut = top.open.set_len(size);
            top.backing.note_change();
            cut?;
            self.charge_object(file.tree.branch()?, (&top.backing, &*top.open), None)?;
        }
        Ok(())
    }

    /// Reserves, punches out or zeroes a stretch of a file in layers. The caller holds the content lock.
    pub(super) fn allocate_layered(
        &self,
        file: &OpenFile,
        source: &mut Source,
        mode: FallocateFlags,
        (offset, len): (u64, u64),
        strip: Strip,
    ) -> Result<()> {
        let mut stack = self.stack(file, source)?;
        let end = offset + len;
        let keeps_size = mode.contains(FallocateFlags::KEEP_SIZE);
        let size = if keeps_size { stack.size } else { stack.size.max(end) };
        if mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
            let own = stack.own_top()?;
            let own = own.filter(|top| {
                stack.layers.parts(offset, end).any(|part| part.claim.backing().id == top.backing.id)
            });
            stack.commit(source, vec![Change::hole(offset, len)], size, Some(strip.into()))?;
            return own.map_or(Ok(()), |top| {
                let punched = top.open.punch(offset, len);
                top.backing.note_change();
                punched?;
                self.charge_object(file.tree.branch()?, (&top.backing, &*top.open), None)
            });
        }
        let top = stack.top()?;
        let (reserved, _) =
            self.reserve_range(stack.branch, (&top.backing, &*top.open), (offset, len), true)?;
        let mut changes = Vec::new();
        let reach = end.min(size);
        for (from, to) in stack.layers.holes(offset, reach) {
            top.open.punch(from, to - from)?;
            changes.push(Change::piece(from, Claim::new(top.backing.clone(), from, to - from)));
        }
        top.backing.note_spare(offset, end);
        let allocated = self.with_room(|| top.open.allocate(FallocateFlags::KEEP_SIZE, offset, len));
        self.charge_object(stack.branch, (&top.backing, &*top.open), reserved.as_ref())?;
        allocated?;
        if top.open.stat()?.len < reach {
            top.open.set_len(reach)?;
        }
        top.backing.note_change();
        stack.commit(source, changes, size, Some(strip.into()))
    }
}

impl Stack<'_> {
    fn epoch(&self) -> Epoch {
        self.permit.epoch
    }

    /// The file as it is, to read.
    pub(super) fn file(&self) -> LayeredFile {
        LayeredFile { layers: self.layers.clone(), len: self.size, opens: self.opens.clone() }
    }

    /// The object that new blocks go to, if there is one already.
    pub(super) fn own_top(&mut self) -> Result<Option<Top>> {
        if self.top.is_none() {
            let own = self.layers.owners().find(|owner| owner.backing.epoch() == self.epoch());
            let backing = own.map(|owner| owner.backing.clone());
            self.top = backing.map(|backing| self.core.open_top(backing)).transpose()?;
        }
        Ok(self.top.clone())
    }

    /// Notes it when so much was written to the file that it is better off in one object, or when it is in so many that
    /// it is better off in fewer.
    fn note_wear(&self, top: &Top) {
        let file = (self.file.view, self.file.ino);
        if self.is_hot(top) {
            self.core.hot.lock().insert(file);
        } else if self.layers.owners().len() > SCATTERED {
            self.core.scattered.lock().insert(file);
        }
    }

    /// Was more written to the file than it would cost to have it in one object?
    pub(super) fn is_hot(&self, top: &Top) -> bool {
        let own = self.layers.owner(top.backing.id).map_or(0, |owner| owner.bytes);
        let rest = self.layers.bytes() - own;
        rest > 0 && top.backing.written.load(Ordering::Relaxed) >= rest
    }

    /// The object that new blocks go to.
    pub(super) fn top(&mut self) -> Result<Top> {
        if let Some(top) = self.own_top()? {
            return Ok(top);
        }
        let (id, open) = self.core.with_room(|| self.core.store.create())?;
        let backing = self.core.store.adopt_backing(id, self.epoch());
        Ok(self.top.insert(Top { backing, open }).clone())
    }

    /// What is to be written so that `[offset, end)` is in whole blocks, or in such as the top has already.
    fn blocks(&self, top: &Top, offset: u64, end: u64) -> (u64, u64) {
        let is_own = |from: u64, to: u64| self.layers.lies_in(top.backing.id, from, to);
        let from = offset - offset % BLOCK;
        let to = end.next_multiple_of(BLOCK).min(self.size.max(end));
        (if is_own(from, offset) { offset } else { from }, if is_own(end, to) { end } else { to })
    }

    /// The bytes of `[from, to)`: what the file has, with `data` at `offset`.
    fn filled<'d>(&self, data: &'d [u8], offset: u64, (from, to): (u64, u64)) -> Result<Cow<'d, [u8]>> {
        let end = offset + data.len() as u64;
        if (from, to) == (offset, end) {
            return Ok(Cow::Borrowed(data));
        }
        let file = self.file();
        let mut bytes = vec![0; (to - from) as usize];
        for (from_here, to_here) in [(from, offset), (end, to)] {
            if let Some(room) = bytes.get_mut((from_here - from) as usize..(to_here - from) as usize) {
                file.read_at(room, from_here)?;
            }
        }
        if let Some(room) = bytes.get_mut((offset - from) as usize..(end - from) as usize) {
            room.copy_from_slice(data);
        }
        Ok(Cow::Owned(bytes))
    }

    /// Makes changes, and gives the file its size; unless its bytes stay what they are also its times, and takes from it what
    /// a change takes.
    pub(super) fn commit(
        self,
        source: &mut Source,
        changes: Vec<Change>,
        size: u64,
        how: Option<Writing>,
    ) -> Result<()> {
        let Stack { core, file, branch, permit, layers, opens, top, .. } = self;
        top.iter().for_each(|top| top.backing.is_prepared_nowhere());
        let bytes = layers.bytes_with(&changes);
        // Most changes leave neither all of the file in one object, nor nothing of it.
        let own = top.as_ref().and_then(|top| layers.owner(top.backing.id)).map_or(0, |owner| owner.bytes);
        let covers: u64 = changes.iter().map(|change| change.len).sum();
        let is_simple = layers.bytes() - own > covers && file.tree.with_inode(file.ino, Inode::is_layered)?;
        let content =
            if is_simple { None } else { Some(content_with(&layers, &changes, size, top.as_ref())?) };
        let mut first = to_be_durable(&layers, &changes, top.as_ref());
        if let Some(Content::Whole(object)) = &content {
            // With holes and the length that it was given just now.
            first.insert(object.id);
        }
        drop(layers); // what nobody else has is changed in place
        let now = match (&content, top) {
            (Some(Content::Hole), _) => Source::Hole,
            (Some(Content::Whole(object)), Some(top)) => Source::Object(object.clone(), top.open),
            (_, top) => Source::Layered(LayeredSource { opens, top }),
        };
        core.change_branch(branch, |draft| {
            match content {
                Some(content) => draft.set_content(file.ino, content),
                None if changes.is_empty() => {}
                None => draft.set_layers(file.ino, changes),
            }
            first.into_iter().for_each(|object| draft.is_to_be_durable(object));
            how.map_or(Ok(()), |how| note_written(draft, file.ino, |_| size, how))?;
            draft.meta(file.ino)?.blocks = blocks_in(bytes);
            Ok(())
        })?;
        *source = now;
        drop(permit);
        Ok(())
    }
}

/// The objects that are to be durable before changes: what takes the place of other bytes, and what was just written.
fn to_be_durable(layers: &Layers, changes: &[Change], top: Option<&Top>) -> HashSet<ObjectId> {
    let backing = |change: &Change| {
        let backing = change.claim.as_ref()?.backing();
        let is_top = || top.is_some_and(|top| top.backing.id == backing.id);
        let replaces = || layers.parts(change.start, change.start + change.len).next().is_some();
        (!backing.is_synced() && (is_top() || replaces())).then_some(backing.id)
    };
    changes.iter().filter_map(backing).collect()
}

/// What content is after changes: all of it may lie in the top then, which the branch writes in place, or nowhere. Not when
/// something is taken away: that is recorded first, and the top cut after.
fn content_with(layers: &Layers, changes: &[Change], size: u64, top: Option<&Top>) -> Result<Content> {
    let mut after = layers.clone();
    changes.iter().for_each(|change| after.apply(change));
    if after.is_empty() {
        return Ok(Content::Hole);
    }
    let only_adds = changes.iter().all(|change| change.claim.is_some());
    match top.filter(|top| only_adds && after.lies_all_in(top.backing.id)) {
        Some(top) => {
            // A write that failed may have left something where nothing is.
            after.holes(0, size).into_iter().try_for_each(|(from, to)| top.open.punch(from, to - from))?;
            if top.open.stat()?.len != size {
                top.open.set_len(size)?;
            }
            top.backing.note_change();
            Ok(Content::Whole(Object::of(top.backing.clone())))
        }
        None => Ok(Content::Layered(Arc::new(after))),
    }
}
