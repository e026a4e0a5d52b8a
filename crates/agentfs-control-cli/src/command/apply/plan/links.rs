//! Files that have several names, and get or lose some.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::Stat;
use rustix::io::Errno;

use super::super::journal::{FileState, inode_number};
use super::super::reliance::path as path_of;
use super::{Done, Pair, Plan, Planner, Removal, is_claimed};
use crate::copy::{Place, enter, enter_path, is_directory, look, names};

impl Planner<'_> {
    /// Where in the target the file is that shows in a directory of the branch that was only moved.
    pub(super) fn moved_from(&self, path: &Path) -> Option<PathBuf> {
        let is_own = self.changes.contains_key(path);
        let mut above = path.ancestors().skip(1).filter(|_| !is_own);
        let (directory, from) =
            above.find_map(|above| Some((above, self.changes.get(above)?.from.as_deref()?)))?;
        Some(path_of(from).join(path.strip_prefix(directory).ok()?))
    }

    /// Returns whether a file in the target, of which the branch has the very same, may get another name instead of being
    /// copied.
    pub(super) fn is_linkable(&mut self, from: &Path, stat: &Stat) -> Result<bool, Errno> {
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            return Ok(false);
        }
        let Some((above, there)) = self.target.find(from)? else { return Ok(false) };
        let is_it = self.reliances.holds(from, &there)
            && there.st_mode == stat.st_mode
            && there.st_size == stat.st_size
            && self.is_counterpart(&there, stat);
        drop(above);
        if is_it {
            self.counterparts.insert(there.st_ino, stat.st_ino);
            self.link(&there, from);
        }
        Ok(is_it)
    }

    /// Returns whether a file in the target may be the one that the branch has, as far as their other names tell.
    pub(super) fn is_counterpart(&self, there: &Stat, stat: &Stat) -> bool {
        (there.st_nlink == 1 || stat.st_nlink > 1)
            && self.counterparts.get(&there.st_ino).is_none_or(|known| *known == stat.st_ino)
    }

    /// A file in the target loses a name.
    pub(super) fn note_linked(&mut self, there: &Stat, path: &Path) {
        if there.st_nlink > 1 {
            self.link(there, path);
        }
    }

    /// A file in the target loses or gets a name.
    fn link(&mut self, there: &Stat, path: &Path) {
        self.has_other_names |= there.st_nlink > 1;
        let names = self.plan.linked.entry(there.st_ino).or_default();
        if there.st_nlink == 1 && names.is_empty() {
            names.push((path.to_owned(), FileState::of(there)));
        }
    }

    /// Of names that a file has had in the directory below all along nothing is recorded: they are to lead to the file that is
    /// put. And names of files that lose or get one: their change tokens become others.
    pub(super) fn other_names(&mut self, linked: &[u64]) -> Result<(), Errno> {
        let changed: HashSet<u64> = linked.iter().copied().collect();
        let linked = self.plan.puts.iter().map(|put| put.stat).filter(|stat| stat.st_nlink > 1);
        let put: HashSet<u64> = linked.map(|stat| stat.st_ino).collect();
        // What is there already and gets another name.
        let done: Vec<Done> =
            self.plan.done.iter().filter(|done| put.contains(&done.stat.st_ino)).cloned().collect();
        for Done { path, .. } in done {
            if let Some((_, there)) = self.target.find(&path)? {
                self.link(&there, &path);
            }
        }
        if put.is_empty() && changed.is_empty() && !self.has_other_names {
            return Ok(());
        }
        let root = enter(Place { directory: self.target.root.as_fd(), name: OsStr::new(".") })?;
        let mut found = Vec::new();
        search(root.as_fd(), Path::new(""), &mut found)?;
        for (path, there) in &found {
            // A name that is left out keeps the file that it has.
            if self.planned.contains(path) || self.ignored.has(path, false) {
                continue;
            }
            let Some((source_above, stat)) = self.in_view(path)? else { continue };
            if put.contains(&stat.st_ino) || changed.contains(&inode_number(stat.st_ino)) {
                let Some((target_above, _)) = self.target.find(path)? else { continue };
                let name = path.file_name().unwrap_or_default();
                let source = Place { directory: source_above.as_fd(), name };
                let target = Place { directory: target_above.as_fd(), name };
                self.file(&Pair { path, source, stat: &stat, target, there: Some(there) }, true)?;
            }
        }
        for (path, there) in found {
            if let Some(names) = self.plan.linked.get_mut(&there.st_ino) {
                names.push((path, FileState::of(&there)));
            }
        }
        Ok(())
    }

    /// A file that loses or gets a name by what is done is told by less than its change token.
    pub(super) fn mark_linked(&mut self) {
        let Plan { in_the_way, removals, puts, linked, done, .. } = &mut self.plan;
        let removed = in_the_way.iter_mut().chain(removals).filter_map(|removal| match removal {
            Removal::File(_, state) => Some(state),
            Removal::Directory(_) => None,
        });
        let replaced = puts.iter_mut().filter_map(|put| put.expected.as_mut());
        let kept = done.iter_mut().map(|done| &mut done.found);
        for state in removed.chain(replaced).chain(kept) {
            state.is_linked |= linked.contains_key(&state.ino);
        }
    }

    /// What the branch has at a path, and the directory that it is in.
    pub(super) fn in_view(&self, path: &Path) -> Result<Option<(std::os::fd::OwnedFd, Stat)>, Errno> {
        let above = match enter_path(self.view, path.parent().unwrap_or(Path::new(""))) {
            Err(Errno::STALE) => None,
            above => above?,
        };
        let Some(above) = above else { return Ok(None) };
        let stat = match look(Place { directory: above.as_fd(), name: path.file_name().unwrap_or_default() })
        {
            // Others put it there: the view does not know of it.
            Err(Errno::STALE) => None,
            stat => stat?,
        };
        Ok(stat.map(|stat| (above, stat)))
    }
}

/// All files below a directory that have several names.
fn search(directory: BorrowedFd<'_>, path: &Path, found: &mut Vec<(PathBuf, Stat)>) -> Result<(), Errno> {
    for name in names(directory)? {
        let (place, path) = (Place { directory, name: &name }, path.join(&name));
        let Some(stat) = look(place)?.filter(|_| !is_claimed(&path)) else { continue };
        if is_directory(&stat) {
            match enter(place) {
                Err(Errno::XDEV) => {}
                inner => search(inner?.as_fd(), &path, found)?,
            }
        } else if stat.st_nlink > 1 {
            found.push((path, stat));
        }
    }
    Ok(())
}
