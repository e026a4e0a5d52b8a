//! Reading and writing past the daemon: the kernel is given the host's file behind a handle. That file stays the branch's
//! as long as it is used so: a snapshot gets a copy of what is being written, and of what is only read once it is to be
//! written. Size and times are then what the host says.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::{Handle, OpenFile, Source};
use crate::store::{Content, FileStat, Object, ObjectFile, READ_TRIES};
use crate::types::{HandleId, InodeId, Timestamp, ViewId};

/// Frozen content in a branch is read past the daemon up to so many times that from which on it would be worth layers: while
/// it is, the first write takes as long as copying it.
const STALL: u64 = 64;

impl FsCore {
    /// The host's file behind a handle, when the kernel may read, and write, it by itself from now on until the handle is
    /// released. `None` when everything has to come through the daemon: small files, those whose first write is to copy
    /// them, those that are open in the other way, those of which writing takes a privilege, and files that somebody
    /// reads so in another branch or snapshot. Unless it `begins`, only when others use the file so already.
    ///
    /// # Errors
    /// `BadHandle`, `Stale`, and what the store answers.
    pub fn open_direct(&self, handle: HandleId, begins: bool) -> Result<Option<Arc<dyn ObjectFile>>> {
        let handle = self.handles.get(handle)?;
        loop {
            match self.try_open_direct(&handle, begins) {
                // A snapshot came between.
                Err(FsError::Contended) => {}
                opened => return opened,
            }
        }
    }

    fn try_open_direct(&self, handle: &Handle, begins: bool) -> Result<Option<Arc<dyn ObjectFile>>> {
        let file = &handle.file;
        if !(file.is_direct() || begins && self.may_be_direct(file)?) {
            return Ok(None);
        }
        if handle.writable {
            // Who reads it so already goes on to, in the same file.
            self.own_direct(file)?;
        }
        let _gate = self.direct.gate.read();
        let mut source = file.source.write();
        // Asked again, now that nobody else opens it so, or ceases to.
        if !(file.is_direct() || begins && self.may_be_direct(file)?) {
            return Ok(None);
        }
        self.find_source(file, &mut source)?;
        let Source::Object(object, open) = &*source else { return Ok(None) };
        if !file.is_direct() && self.would_stall_writers(file, object)? {
            return Ok(None);
        }
        if handle.writable {
            let branch = file.tree.branch()?;
            let is_own = object.epoch() == branch.epoch();
            match (is_own && !self.journal.is_poisoned(), file.is_direct()) {
                (true, _) => self.mark_dirty(file, branch)?,
                (false, false) => return Ok(None),
                // The kernel takes no other file meanwhile.
                (false, true) if is_own => return Err(FsError::read_only_store()),
                (false, true) => return Err(FsError::Contended),
            }
        }
        let is_first = !file.is_written_directly();
        match self.direct.begin(object.id, file, handle.writable) {
            // Never so of a file that is direct.
            None => return Ok(None),
            // Whoever opened it meanwhile saw that it was not direct.
            Some(1) if !self.open_files.has_one_user(file) => {
                self.direct.end(Some(object.id), file, handle.writable);
                return Ok(None);
            }
            Some(_) => {}
        }
        if is_first {
            *file.seen.lock() = open.stat().unwrap_or_default();
        }
        handle.direct.store(true, Ordering::Release);
        Ok(Some(open.clone()))
    }

    /// While a frozen file is read past the daemon, its first write has to copy it.
    fn would_stall_writers(&self, file: &OpenFile, object: &Object) -> Result<bool> {
        let is_frozen = file.tree.branch().is_ok_and(|branch| branch.epoch() != object.epoch());
        let size = || file.tree.with_inode(file.ino, |inode| inode.meta.size);
        Ok(is_frozen && self.is_worth_layers(size()? / STALL))
    }

    fn may_be_direct(&self, file: &OpenFile) -> Result<bool> {
        let is_plain = file.tree.with_inode(file.ino, |inode| {
            let privileged = inode.meta.mode & 0o6000 != 0;
            let capable =
                inode.xattrs.as_ref().is_some_and(|all| all.contains_key(&b"security.capability"[..]));
            matches!(inode.content(), Some(Content::Whole(_))) && !privileged && !capable
        })?;
        Ok(is_plain && self.open_files.has_one_user(file))
    }

    /// The kernel does not read and write the file by itself after all.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn end_direct_of(&self, handle: HandleId) -> Result<()> {
        let handle = self.handles.get(handle)?;
        self.end_direct(&handle);
        Ok(())
    }

    pub(super) fn end_direct(&self, handle: &Handle) {
        if !handle.direct.swap(false, Ordering::AcqRel) {
            return;
        }
        let file = &handle.file;
        let source = file.source.read();
        let _one = file.refreshing.lock();
        if handle.writable {
            // Nobody hears of a failure: what was written is there, and is not to be cut off by a size of before.
            let mut refreshed = self.refresh_from(file, &source);
            for _ in 0..READ_TRIES {
                refreshed = refreshed.or_else(|_| self.refresh_from(file, &source));
            }
            file.is_unknown.store(refreshed.is_err(), Ordering::Relaxed);
            if let Err(error) = refreshed {
                tracing::warn!(%error, "size and times of a file are those of before it was written, until the next mount");
            }
        }
        let object = if let Source::Object(object, _) = &*source { Some(object.id) } else { None };
        self.direct.end(object, file, handle.writable);
    }

    /// Takes over size and times of a file that is written past the daemon.
    pub(super) fn refresh(&self, file: &OpenFile) -> Result<()> {
        if !file.is_written_directly() {
            return Ok(());
        }
        let source = file.source.read();
        let _one = file.refreshing.lock();
        self.refresh_from(file, &source)
    }

    /// As [`FsCore::refresh`], while no other does, or ceases to write.
    fn refresh_from(&self, file: &OpenFile, source: &Source) -> Result<()> {
        if !file.is_written_directly() {
            return Ok(());
        }
        let (Source::Object(_, open), Ok(branch)) = (source, file.tree.branch()) else { return Ok(()) };
        let stat = open.stat()?;
        if *file.seen.lock() == stat {
            return Ok(());
        }
        let modified = file.saw(stat);
        self.change_branch(branch, |draft| {
            draft.touch(file.ino)?.note_host(stat, modified);
            Ok(())
        })
    }

    /// As [`FsCore::refresh`], of an inode, if it is such a file.
    pub(super) fn refresh_inode(&self, view: ViewId, ino: InodeId) -> Result<()> {
        if !self.direct.any_writers() {
            return Ok(());
        }
        self.open_files.get(view, ino).map_or(Ok(()), |file| self.refresh(&file))
    }

    /// As [`FsCore::refresh`], of all such files of a view.
    pub(super) fn refresh_view(&self, view: ViewId) -> Result<()> {
        if !self.direct.any_writers() {
            return Ok(());
        }
        let written = self.open_files.which(|file| file.view == view);
        written.iter().try_for_each(|file| self.refresh(file))
    }

    /// Does the kernel read by itself what this handle is for, and does it write it?
    pub fn is_direct_handle(&self, handle: HandleId) -> (bool, bool) {
        self.handles.get(handle).map_or((false, false), |handle| {
            let is_direct = handle.direct.load(Ordering::Acquire);
            (is_direct, is_direct && handle.writable)
        })
    }

    /// Is the file being written past the daemon?
    pub fn is_written_directly(&self, view: ViewId, ino: InodeId) -> bool {
        self.direct.any_writers()
            && self.open_files.get(view, ino).is_some_and(|file| file.is_written_directly())
    }

    /// Does `change`, which writes the content of a file, when that is the branch's own or nobody reads it past the daemon.
    pub(super) fn with_own_direct<T>(&self, file: &OpenFile, change: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            if !file.is_direct() {
                match change() {
                    // It was opened so meanwhile.
                    Err(FsError::Contended) => continue,
                    done => return done,
                }
            }
            self.own_direct(file)?;
            // While this is held nobody freezes the branch.
            let _gate = self.direct.gate.read();
            if self.owns_direct(file) {
                self.refresh(file)?;
                return change();
            }
        }
    }

    fn owns_direct(&self, file: &OpenFile) -> bool {
        let epoch = file.tree.branch().ok().map(|branch| branch.epoch());
        match &*file.source.read() {
            Source::Object(object, _) => Some(object.epoch()) == epoch,
            Source::Unknown | Source::Hole | Source::Small(_) | Source::Lower(..) | Source::Layered(_) => {
                true
            }
        }
    }

    /// A file that is read past the daemon, and that other versions have too, becomes the branch's own without becoming
    /// another for the kernel: the others get the copy.
    fn own_direct(&self, file: &OpenFile) -> Result<()> {
        if !file.is_direct() || self.owns_direct(file) {
            return Ok(());
        }
        let branch = file.tree.branch()?;
        let _gate = self.direct.gate.write();
        let mut own = file.source.write();
        let Content::Whole(frozen) = file.tree.content(file.ino)? else { return Ok(()) };
        if !file.is_direct() || frozen.epoch() == branch.epoch() {
            return Ok(());
        }
        if self.journal.is_poisoned() {
            return Err(FsError::read_only_store());
        }
        if self.journal.has_given_up(Some(frozen.id)) {
            return Err(FsError::damaged("the content could not be made durable"));
        }
        let size = file.tree.with_inode(file.ino, |inode| inode.meta.size)?;
        let (id, copy) = self.with_room(|| self.store.duplicate(&frozen, size))?;
        let synced = copy.sync(true);
        drop(copy);
        let exchange = || self.store.device().exchange(frozen.id, id);
        synced.and_then(|()| exchange()).inspect_err(|_| self.store.discard(id))?;
        // The frozen content is the copy from here on, under its old number; what the kernel has open has the new one. When
        // it cannot be recorded the names are exchanged back; the copy goes with its object.
        let object = self.store.adopt(id, branch.epoch());
        let taken = self.store.open(&frozen).and_then(|copy| Ok((copy, self.store.open(&object)?)));
        let recorded = taken.map_err(FsError::Io).and_then(|opened| {
            self.change_branch(branch, |draft| {
                draft.set_content(file.ino, Content::Whole(object.clone()));
                // What takes another's place may have been promised to be durable before.
                draft.is_to_be_durable(object.id);
                draft.set_dirty(file.ino, true);
                Ok(())
            })?;
            Ok(opened)
        });
        let (copy, open) = match recorded {
            Ok(opened) => opened,
            Err(error) => {
                exchange()?;
                return Err(error);
            }
        };
        self.direct.renumbered(frozen.id, id);
        let others = self.open_files.which(|other| !std::ptr::eq(other, file) && other.may_have(&frozen));
        for other in others {
            match &mut *other.source.write() {
                Source::Object(object, open) if object.id == frozen.id => *open = copy.clone(),
                Source::Layered(layered) => layered.opens.forget(frozen.id),
                _ => {}
            }
        }
        *own = Source::Object(object, open);
        file.dirty.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl OpenFile {
    /// Is its content this, or about to be?
    fn may_have(&self, wanted: &Object) -> bool {
        match self.source.try_read().as_deref() {
            Some(Source::Object(object, _)) => object.id == wanted.id,
            Some(Source::Layered(_)) => true,
            Some(_) => false,
            None => true,
        }
    }

    /// Notes what the host says; the time of the last change, if there was one since.
    pub(super) fn saw(&self, stat: FileStat) -> Option<Timestamp> {
        let mut seen = self.seen.lock();
        let before = std::mem::replace(&mut *seen, stat);
        (before.modified != stat.modified).then_some(stat.modified)
    }
}
