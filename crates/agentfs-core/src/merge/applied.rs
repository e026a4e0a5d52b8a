//! What `apply` has made common: a file that one side wrote out to the lower directory is, to a side that shows that
//! directory, the very file, as it was when it was written.

use std::collections::HashMap;
use std::sync::Arc;

use super::decide::{Keys, Triple};
use crate::branch::Lower;
use crate::compare::{Node, Sight};
use crate::error::{FsError, Result};
use crate::store::{LowerStat, split};
use crate::tree::{CopySource, DirectoryCopy, LowerEntry};
use crate::types::{FileKind, InodeId};

/// A file that was written out.
struct File {
    /// As it is in the lower directory.
    base: Node,
    path: Arc<[u8]>,
    ours: Option<InodeId>,
    theirs: Option<InodeId>,
    /// Neither side has changed it since.
    is_unchanged: bool,
}

/// All that one of two sides wrote out and the other shows.
#[derive(Default)]
pub(super) struct Applied {
    files: Vec<File>,
    by_ours: HashMap<InodeId, usize>,
    by_theirs: HashMap<InodeId, usize>,
    /// Directories that a side made, by those that they are below.
    pub(super) our_keys: Keys,
    /// See `our_keys`.
    pub(super) their_keys: Keys,
}

/// Which side wrote it out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    Ours,
    Theirs,
}

impl Applied {
    /// Between two sides.
    ///
    /// # Errors
    /// What the host answers.
    pub(super) fn between(ours: &Sight, theirs: &Sight) -> Result<Applied> {
        let mut applied = Applied::default();
        for (writer, written, shown) in [(Writer::Theirs, theirs, ours), (Writer::Ours, ours, theirs)] {
            for (path, entry) in written.version.lower_entries() {
                match entry {
                    LowerEntry::File { token, copy_of: Some(copy) } => {
                        applied.add_file(writer, (written, shown), (path, token), copy)?;
                    }
                    LowerEntry::Directory { copy_of: Some(copy) } => {
                        applied.add_directory(writer, (written, shown), path, copy)?;
                    }
                    _ => {}
                }
            }
        }
        Ok(applied)
    }

    fn add_file(
        &mut self,
        writer: Writer,
        (written, shown): (&Sight, &Sight),
        (path, token): (&Arc<[u8]>, u64),
        copy: CopySource,
    ) -> Result<()> {
        // What came from below and was not written to is known by its number.
        let own = written.version.get(copy.ino);
        let Some(lower) = shown.lower() else { return Ok(()) };
        let Some((below, stat)) = lower.find(path)? else { return Ok(()) };
        if stat.change_token() != token || below == copy.ino {
            return Ok(());
        }
        let shows = match shown.node(below, Some(path)) {
            // It relies on what was there before.
            Err(FsError::Changed(_)) => None,
            node => node?,
        };
        // It shows the one below, or has removed it.
        if shows.is_none() && shown.version.lower_entry(path).is_none() {
            return Ok(());
        }
        // Its successor, where it was saved as editors do.
        let (writers, is_same) = match own {
            Some(own) => (Some(copy.ino), own.meta.times.ctime == copy.changed),
            None => (written.at(path)?.filter(|node| !node.is_directory()).map(|node| node.ino), false),
        };
        self.add(
            writer,
            (path, below, &stat),
            (writers, shows),
            is_same && shown.version.get(below).is_none(),
            lower,
        )
    }

    fn add(
        &mut self,
        writer: Writer,
        (path, below, stat): (&Arc<[u8]>, InodeId, &LowerStat),
        (written, shows): (Option<InodeId>, Option<Node>),
        is_same: bool,
        lower: &Lower,
    ) -> Result<()> {
        let Some((above, name)) = split(path) else { return Ok(()) };
        let Some((dir, _)) = lower.find(&above.into())? else { return Ok(()) };
        let mut inode = lower.face(path, stat, dir)?;
        lower.dress(&mut inode, path);
        let base = Node { ino: below, inode: Arc::new(inode), places: vec![(dir, name)] };
        let is_unchanged = is_same && shows.is_some();
        let shows = shows.map(|node| node.ino);
        let (ours, theirs) = if writer == Writer::Ours { (written, shows) } else { (shows, written) };
        let number = self.files.len();
        self.by_ours.extend(ours.map(|ours| (ours, number)));
        self.by_theirs.extend(theirs.map(|theirs| (theirs, number)));
        self.files.push(File { base, path: path.clone(), ours, theirs, is_unchanged });
        Ok(())
    }

    fn add_directory(
        &mut self,
        writer: Writer,
        (written, shown): (&Sight, &Sight),
        path: &Arc<[u8]>,
        copy: DirectoryCopy,
    ) -> Result<()> {
        let (Some(lower), own) = (shown.lower(), written.version.get(copy.ino)) else { return Ok(()) };
        let Some((below, stat)) = lower.find(path)?.filter(|(_, stat)| stat.kind == FileKind::Directory)
        else {
            return Ok(());
        };
        if below == copy.ino {
            return Ok(());
        }
        if own.is_some() {
            match writer {
                Writer::Ours => self.our_keys.insert(copy.ino, below),
                Writer::Theirs => self.their_keys.insert(copy.ino, below),
            };
        }
        let shows = match shown.node(below, Some(path)) {
            Err(FsError::Changed(_)) => None,
            node => node?,
        };
        let Some(shows) = shows else { return Ok(()) };
        let is_same = own.is_some_and(|own| own.attributes() == copy.attributes);
        let is_same = is_same && shown.version.get(below).is_none();
        let written = own.map(|_| copy.ino);
        self.add(writer, (path, below, &stat), (written, Some(shows)), is_same, lower)
    }

    /// A file with its three states, where it was written out: from the state that was.
    ///
    /// # Errors
    /// What the host answers.
    pub(super) fn correct(
        &self,
        (ours, theirs): (&Sight, &Sight),
        triple: Triple,
        seen: &mut [bool],
    ) -> Result<Triple> {
        let by_theirs = triple.theirs.as_ref().and_then(|theirs| self.by_theirs.get(&theirs.ino));
        let by_ours = triple.ours.as_ref().and_then(|ours| self.by_ours.get(&ours.ino));
        let Some(number) = by_theirs.or(by_ours) else { return Ok(triple) };
        if let Some(seen) = seen.get_mut(*number) {
            *seen = true;
        }
        let Some(file) = self.files.get(*number) else { return Ok(triple) };
        let corrected = file.triple(ours, theirs)?;
        // Another file of the source may be where this one was.
        let theirs = triple.theirs.or(corrected.theirs);
        Ok(Triple { theirs, ..corrected })
    }

    /// How many files there are.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Files that one of the sides has changed since they were written out, and that were not `seen`, with their paths.
    ///
    /// # Errors
    /// What the host answers.
    pub(super) fn others(
        &self,
        (ours, theirs): (&Sight, &Sight),
        seen: &[bool],
    ) -> Result<Vec<(Arc<[u8]>, Triple)>> {
        let unseen = self.files.iter().zip(seen).filter(|(file, seen)| !**seen && !file.is_unchanged);
        unseen.map(|(file, _)| Ok((file.path.clone(), file.triple(ours, theirs)?))).collect()
    }
}

impl File {
    fn triple(&self, ours: &Sight, theirs: &Sight) -> Result<Triple> {
        let of = |sight: &Sight, ino: Option<InodeId>| match ino {
            Some(ino) => sight.node(ino, Some(&self.path)),
            None => Ok(None),
        };
        let base = Some(self.base.clone());
        Ok(Triple { base, ours: of(ours, self.ours)?, theirs: of(theirs, self.theirs)? })
    }
}
