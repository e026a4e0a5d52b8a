//! What `apply` has made common: a file that one side wrote out to the lower directory is, to a side that shows that
//! directory, the very file, as it was when it was written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::decide::{Keys, Triple};
use crate::branch::Lower;
use crate::compare::{Node, Pair, Sight};
use crate::error::{FsError, Result};
use crate::store::{LowerStat, split};
use crate::tree::{CopySource, DirectoryCopy, LowerEntry, Replaces};
use crate::types::{FileKind, InodeId};

/// A file that was written out.
struct File {
    /// As it is in the lower directory.
    base: Node,
    /// Its paths there.
    paths: Vec<Arc<[u8]>>,
    /// Of what is no directory, its change token.
    token: Option<u64>,
    ours: Option<InodeId>,
    theirs: Option<InodeId>,
    /// Neither side has changed it since.
    is_unchanged: bool,
    /// It was written out before the two were merged last: that is what they have in common.
    is_before_base: bool,
}

/// All that one of two sides wrote out and the other shows.
#[derive(Default)]
pub(super) struct Applied {
    files: Vec<File>,
    by_ours: HashMap<InodeId, usize>,
    by_theirs: HashMap<InodeId, usize>,
    by_below: HashMap<InodeId, usize>,
    /// Directories of ours that were written out, and what they are below.
    our_directories: Vec<(InodeId, InodeId)>,
    /// Those of the other.
    their_directories: Vec<(InodeId, InodeId)>,
    /// Files of the other that ours has twice: itself, as they were merged before, and as they lie in the lower directory since.
    pub(super) twins: HashMap<InodeId, InodeId>,
}

/// A file that was written out and of which the other has changed nothing since the base.
pub(super) struct Other {
    /// Where it was written out to.
    pub(super) paths: Vec<Arc<[u8]>>,
    pub(super) triple: Triple,
}

/// By what number a directory goes that each side has by another.
#[derive(Default)]
pub(super) struct SharedKeys {
    pub(super) base: Keys,
    pub(super) ours: Keys,
    pub(super) theirs: Keys,
}

/// Which side wrote it out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    Ours,
    Theirs,
}

impl Applied {
    /// Finds what one of two sides wrote out and the other shows, or has seen; `base` is the state that they were merged at last.
    ///
    /// # Errors
    /// What the host answers.
    pub(super) fn between(base: &Sight, ours: &Sight, theirs: &Sight) -> Result<Applied> {
        let mut applied = Applied::default();
        let (ours, theirs) = (Side::of(ours), Side::of(theirs));
        for (writer, written, shown) in [(Writer::Theirs, &theirs, &ours), (Writer::Ours, &ours, &theirs)] {
            for (path, entry) in written.sight.version.lower_entries() {
                match entry {
                    LowerEntry::File { token, copy_of: Some(copy) } => {
                        applied.add_file(writer, (base, written, shown), (path, token), copy)?;
                    }
                    LowerEntry::Directory { copy_of: Some(copy) } => {
                        applied.add_directory(writer, (written.sight, shown.sight), path, copy)?;
                    }
                    _ => {}
                }
            }
        }
        for file in &mut applied.files {
            let known = file.paths.iter().filter_map(|path| base.version.lower_entry(path));
            let mut tokens = known.map(|entry| match entry {
                LowerEntry::File { token, .. } => Some(token),
                LowerEntry::Absent | LowerEntry::Directory { .. } => None,
            });
            file.is_before_base = file.token.is_some() && tokens.any(|token| token == file.token);
        }
        Ok(applied)
    }

    fn add_file(
        &mut self,
        writer: Writer,
        (base, written, shown): (&Sight, &Side<'_>, &Side<'_>),
        (path, token): (&Arc<[u8]>, u64),
        copy: CopySource,
    ) -> Result<()> {
        let own = written.sight.version.get(copy.ino);
        // What was taken over and not written out is known without a look below: that is most of it.
        let origin = own.and_then(|own| own.lower.as_ref());
        if origin.is_some_and(|origin| origin.path == *path && origin.since == Some(copy.changed)) {
            return Ok(());
        }
        let Some(lower) = shown.sight.lower() else { return Ok(()) };
        let Some((below, stat)) = lower.find(path)? else { return Ok(()) };
        // What is known by its number still: not moved below, or taken over only.
        let is_known = below == copy.ino
            && match own {
                Some(_) => is_taken_over(written.sight, lower, copy, (path, &stat))?,
                // It had it there when they were the same.
                None if base.version.get(below).is_none() => shows_at(base, below, path)?,
                None => is_taken_over(base, lower, copy, (path, &stat))?,
            };
        if stat.change_token() != token || is_known {
            return Ok(());
        }
        let Some(shows) = shown_of((base, shown), (path, token), below)? else { return Ok(()) };
        let (writers, is_same) = match own {
            Some(own) => (Some(copy.ino), own.meta.times.ctime == copy.changed),
            None => (written.successor(base, path)?.map(|node| node.ino), false),
        };
        self.add(
            writer,
            (path, below, &stat),
            (writers, shows),
            is_same && shown.sight.version.get(below).is_none(),
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
        let is_other_name = |file: &&mut File| {
            file.base.ino == below && (file.ours, file.theirs) == (ours, theirs) && !base.is_directory()
        };
        if let Some(file) =
            self.by_below.get(&below).and_then(|at| self.files.get_mut(*at)).filter(is_other_name)
        {
            file.base.places.extend(base.places);
            file.paths.push(path.clone());
            return Ok(());
        }
        let number = self.files.len();
        self.by_below.insert(below, number);
        self.by_ours.extend(ours.map(|ours| (ours, number)));
        self.by_theirs.extend(theirs.map(|theirs| (theirs, number)));
        let token = (stat.kind != FileKind::Directory).then(|| stat.change_token());
        let paths = vec![path.clone()];
        self.files.push(File { base, paths, token, ours, theirs, is_unchanged, is_before_base: false });
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
        if below == copy.ino && own.is_none_or(|own| !own.is_from_elsewhere(path)) {
            return Ok(());
        }
        let shows = match shown.node(below, Some(path)) {
            Err(FsError::Changed(_)) => None,
            node => node?,
        };
        // It has taken it over there as it was written out, or has merged that.
        let is_seen = shown.version.get(below).is_none_or(|inode| {
            let known = match shown.version.lower_entry(path) {
                Some(LowerEntry::Directory { copy_of: Some(copy) }) => Some(copy.attributes),
                Some(LowerEntry::Directory { copy_of: None }) => {
                    inode.lower.as_ref().map(|origin| origin.base)
                }
                _ => None,
            };
            known == Some(copy.attributes) && !inode.is_from_elsewhere(path)
        });
        let Some(shows) = shows.filter(|_| is_seen) else { return Ok(()) };
        if own.is_some() {
            match writer {
                Writer::Ours => self.our_directories.push((copy.ino, below)),
                Writer::Theirs => self.their_directories.push((copy.ino, below)),
            }
        }
        let is_same = own.is_some_and(|own| own.attributes() == copy.attributes);
        let is_same = is_same && shown.version.get(below).is_none();
        let written = own.map(|_| copy.ino);
        self.add(writer, (path, below, &stat), (written, Some(shows)), is_same, lower)
    }

    /// Returns the three states of a file with the state that was written out as their base, where there was one; also what it
    /// was taken for till then, if that is gone. Files that were met are marked in `seen`.
    ///
    /// # Errors
    /// What the host answers.
    pub(super) fn correct(
        &self,
        (ours, theirs): (&Sight, &Sight),
        triple: Triple,
        seen: &mut [bool],
    ) -> Result<Vec<Triple>> {
        let by_theirs = triple.theirs.as_ref().and_then(|theirs| self.by_theirs.get(&theirs.ino));
        let by_ours = triple.ours.as_ref().and_then(|ours| self.by_ours.get(&ours.ino));
        let Some(number) = by_theirs.or(by_ours) else {
            let is_new = is_moved_away((ours, theirs), &triple)?;
            return Ok(vec![if is_new { Triple { base: None, ..triple } } else { triple }]);
        };
        if triple.theirs.as_ref().is_some_and(|theirs| self.twins.contains_key(&theirs.ino)) {
            return Ok(vec![triple]);
        }
        if let Some(seen) = seen.get_mut(*number) {
            *seen = true;
        }
        let Some(file) = self.files.get(*number) else { return Ok(vec![triple]) };
        if file.is_before_base && (triple.ours.is_some() || file.ours.is_none()) {
            return Ok(vec![triple]);
        }
        let corrected = file.triple(ours, theirs)?;
        let mut triples = Vec::new();
        // What was where the other has moved it to, and was taken for it, is gone.
        let is_replaced = triple.base.as_ref().is_some_and(|base| {
            let is_it =
                |theirs: &Node| theirs.inode.identities(theirs.ino).any(|identity| identity == base.ino);
            base.ino != file.base.ino && !triple.theirs.as_ref().is_none_or(is_it)
        });
        if is_replaced && triple.ours.as_ref().is_some_and(|ours| Some(ours.ino) != file.ours) {
            triples.push(Triple { theirs: None, ..triple.clone() });
        }
        // Another file of the source may be where this one was.
        let theirs = triple.theirs.or(corrected.theirs);
        triples.push(Triple { theirs, ..corrected });
        Ok(triples)
    }

    /// Finds what ours has twice, by how it differs from the base: what it has itself goes on, and takes the other's place.
    pub(super) fn find_twins(&mut self, ours: &Sight, pairs: &[Pair]) {
        let nodes = pairs.iter().filter_map(|pair| pair.b.as_ref());
        let identities =
            nodes.flat_map(|node| node.inode.identities(node.ino).map(|identity| (identity, node.ino)));
        let by_identity: HashMap<InodeId, InodeId> = identities.collect();
        for file in &self.files {
            let (Some(theirs), Some(shown)) = (file.theirs, file.ours) else { continue };
            let own = by_identity.get(&theirs).copied().unwrap_or(theirs);
            if own != shown && ours.version.get(own).is_some() {
                self.twins.insert(theirs, shown);
            }
        }
        self.their_directories.retain(|(written, _)| !self.twins.contains_key(written));
    }

    /// Adds to what is known of directories that took the place of another what was written out: each goes by its number below,
    /// or by that of the base, where that has it.
    pub(super) fn add_keys(&self, keys: &mut SharedKeys) {
        for (written, below) in &self.their_directories {
            match keys.ours.get(below) {
                Some(base) => drop(keys.base.insert(*below, *base)),
                None => drop(keys.theirs.insert(*written, *below)),
            }
        }
        for (written, below) in &self.our_directories {
            match keys.theirs.get(below) {
                Some(base) => drop(keys.base.insert(*below, *base)),
                None => drop(keys.ours.insert(*written, *below)),
            }
        }
    }

    /// Returns what ours has of the directories that it wrote out, by their numbers below.
    pub(super) fn our_directories(&self) -> impl Iterator<Item = (InodeId, Option<InodeId>)> {
        self.our_directories.iter().map(|(ours, below)| (*below, Some(*ours)))
    }

    /// Returns the files that ours has itself and that are one with files of the other from now on, wherever they go and
    /// whatever is written out after that.
    pub(super) fn learnt(&self, (ours, theirs): (&Sight, &Sight)) -> Vec<(InodeId, Replaces)> {
        let mut learnt = Vec::new();
        for file in &self.files {
            let (Some(our_ino), Some(their_ino)) = (file.ours, file.theirs) else { continue };
            let (Some(own), Some(their)) = (ours.version.get(our_ino), theirs.version.get(their_ino)) else {
                continue;
            };
            let known: Vec<InodeId> = own.identities(our_ino).collect();
            if their.identities(their_ino).any(|identity| !known.contains(&identity)) {
                let all = known.into_iter().chain(their.identities(their_ino));
                learnt.push((our_ino, Replaces::all(all)));
            }
        }
        learnt
    }

    /// Returns the number of files.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Returns the files that one of the sides has changed since they were written out and that were not `seen`.
    ///
    /// # Errors
    /// What the host answers.
    pub(super) fn others(&self, (ours, theirs): (&Sight, &Sight), seen: &[bool]) -> Result<Vec<Other>> {
        let mut found = Vec::new();
        for (file, seen) in self.files.iter().zip(seen) {
            let is_twin = file.theirs.is_some_and(|theirs| self.twins.contains_key(&theirs));
            let triple = match is_twin {
                // Ours shows it twice: it goes from where the other does not have it any more.
                true if file.is_where_it_was(theirs)? => continue,
                true => Triple { theirs: None, ..file.triple(ours, theirs)? },
                false if *seen || file.is_unchanged || file.is_before_base => continue,
                false => file.triple(ours, theirs)?,
            };
            found.push(Other { paths: file.paths.clone(), triple });
        }
        Ok(found)
    }
}

/// Returns whether a path of the lower directory is as a version wrote it out, and did not only take it over.
///
/// # Errors
/// What the host answers.
pub fn is_applied(of: &Sight, lower: &Lower, path: &Arc<[u8]>, written: LowerEntry) -> Result<bool> {
    let found = lower.find(path)?;
    match (written, found) {
        (LowerEntry::Absent, found) => Ok(found.is_none()),
        (LowerEntry::Directory { copy_of: Some(_) }, Some((_, stat))) => Ok(stat.kind == FileKind::Directory),
        (LowerEntry::File { token, copy_of: Some(copy) }, Some((found, stat))) => {
            let is_new = found != copy.ino || !is_taken_over(of, lower, copy, (path, &stat))?;
            Ok(is_new && stat.change_token() == token)
        }
        _ => Ok(false),
    }
}

/// Returns whether a version shows this file of the lower directory from this path.
fn shows_at(of: &Sight, below: InodeId, path: &Arc<[u8]>) -> Result<bool> {
    match of.node(below, Some(path)) {
        Err(FsError::Changed(_)) => Ok(false), // it relies on what was there before
        node => Ok(node?.is_some()),
    }
}

/// Returns whether a version has only taken over what lies at a path below, and has that file still.
fn is_taken_over(
    of: &Sight,
    lower: &Lower,
    copy: CopySource,
    (path, stat): (&Arc<[u8]>, &LowerStat),
) -> Result<bool> {
    let Some(origin) = of.version.get(copy.ino).and_then(|own| own.lower.as_ref()) else { return Ok(false) };
    if copy.changed != stat.ctime {
        return Ok(false);
    }
    // Files of a directory that is moved are not changed by that; and it may have several names.
    Ok(origin.path == *path || lower.find(&origin.path)?.is_some_and(|(found, _)| found == copy.ino))
}

/// Returns whether a file is missing in ours for the only reason that the other wrote something else out where ours showed it.
fn is_moved_away((ours, theirs): (&Sight, &Sight), triple: &Triple) -> Result<bool> {
    let (Some(base), None, Some(_), Some(lower)) = (&triple.base, &triple.ours, &triple.theirs, ours.lower())
    else {
        return Ok(false);
    };
    let Some(path) = base.inode.lower.as_ref().map(|origin| &origin.path) else { return Ok(false) };
    let Some(written) = theirs.version.lower_entry(path) else { return Ok(false) };
    if !is_applied(theirs, lower, path, written)? || lower.find(path)?.is_some_and(|(ino, _)| ino == base.ino)
    {
        return Ok(false);
    }
    // It has taken over nothing there, or what was written out.
    Ok(match (ours.version.lower_entry(path), written) {
        (None, _) => true,
        (Some(LowerEntry::File { token: known, .. }), LowerEntry::File { token, .. }) => known == token,
        (Some(LowerEntry::Directory { .. }), LowerEntry::Directory { .. }) => !base.is_directory(),
        _ => false,
    })
}

/// What a side has of a file that lies at a path below, of the number `below`, since it was written out; `None` when it has not
/// seen that one.
#[allow(clippy::option_option, reason = "gone, and not seen")]
fn shown_of(
    (base, side): (&Sight, &Side<'_>),
    (path, token): (&Arc<[u8]>, u64),
    below: InodeId,
) -> Result<Option<Option<Node>>> {
    let shown = match side.sight.node(below, Some(path)) {
        Err(FsError::Changed(_)) => None, // it relies on what was there before
        node => node?,
    };
    if shown.is_some() && side.sight.version.get(below).is_none() {
        return Ok(Some(shown));
    }
    // It has taken it over, or has merged what was written out.
    let Some(LowerEntry::File { token: known, copy_of }) = side.sight.version.lower_entry(path) else {
        return Ok(None);
    };
    if known != token {
        return Ok(None);
    }
    Ok(Some(match shown.filter(|_| copy_of.is_some_and(|copy| copy.ino == below)) {
        Some(shown) => Some(shown),
        // It has put something in its place, or has removed it.
        None => side.successor(base, path)?,
    }))
}

/// A side, and what of it was written out and it has still.
struct Side<'a> {
    sight: &'a Sight,
    written: HashSet<InodeId>,
}

impl Side<'_> {
    fn of(sight: &Sight) -> Side<'_> {
        let copied = sight.version.lower_entries().filter_map(|(_, entry)| match entry {
            LowerEntry::File { copy_of, .. } => copy_of.map(|copy| copy.ino),
            LowerEntry::Absent | LowerEntry::Directory { .. } => None,
        });
        Side { sight, written: copied.collect() }
    }

    /// What lies where a file was, made since the side and the base were the same: the file, saved as editors do.
    fn successor(&self, base: &Sight, path: &Arc<[u8]>) -> Result<Option<Node>> {
        let is_new = |node: &Node| {
            // Nor was it written out itself, elsewhere.
            let is_known = node.ino.is_lower() || self.written.contains(&node.ino);
            !is_known && base.version.get(node.ino).is_none()
        };
        Ok(self.sight.at(path)?.filter(|node| !node.is_directory() && is_new(node)))
    }
}

impl File {
    /// Returns whether the other has it still at one of the paths where it was written out.
    fn is_where_it_was(&self, theirs: &Sight) -> Result<bool> {
        for path in &self.paths {
            if theirs.walk(path)?.is_some_and(|(_, ino)| Some(ino) == self.theirs) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn triple(&self, ours: &Sight, theirs: &Sight) -> Result<Triple> {
        let of = |sight: &Sight, ino: Option<InodeId>| match ino {
            Some(ino) => sight.node(ino, self.paths.first()),
            None => Ok(None),
        };
        let base = Some(self.base.clone());
        Ok(Triple { base, ours: of(ours, self.ours)?, theirs: of(theirs, self.theirs)? })
    }
}
