//! What is to be done to a directory, and what forbids it.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agentfs_proto::record::ChangeEntry;
use rustix::fs::{FileType, Mode, OFlags, Stat, openat, readlinkat};
use rustix::io::Errno;

use super::begun::Begun;
use super::target::{Target, has_same_bytes};
use crate::copy::{Expected, Place, enter, enter_path, is_directory, is_draft, is_same, kind, look, names};
use crate::left_out::Ignored;

/// What is done at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Put a file or a whole directory there.
    Put,
    /// The same, where something of another kind is.
    Replace,
    /// Remove what is there, with all in it.
    Remove,
    /// Give a directory its attributes.
    Attributes,
}

/// One thing to do.
pub(super) struct Step {
    pub(super) action: Action,
    pub(super) path: PathBuf,
    /// What is there.
    pub(super) expected: Expected,
    /// What the branch relies on there.
    pub(super) relied: Relied,
}

impl Step {
    pub(super) fn word(&self) -> &'static str {
        match self.action {
            Action::Put | Action::Replace => "put",
            Action::Remove => "remove",
            Action::Attributes => "attributes",
        }
    }
}

/// Makes a plan.
pub(super) struct Planner<'a> {
    view: BorrowedFd<'a>,
    target: &'a Target,
    ignored: &'a Ignored,
    pub(super) steps: Vec<Step>,
    pub(super) conflicts: Vec<(PathBuf, &'static str)>,
    /// Where something comes in directories that are there already.
    pub(super) new: Vec<PathBuf>,
    /// What a run that finishes this one must know.
    pub(super) begun: Begun,
    /// What stands for files below that the branch relies on, by path.
    seen: HashMap<PathBuf, u64>,
    /// Files that change and have other names in the view, by their inode numbers there, and what they were.
    linked: HashMap<u64, Relied>,
    planned: HashSet<PathBuf>,
    /// What a run before has put there.
    pub(super) done: Vec<PathBuf>,
    /// Of what main made nobody knows when: what others have is not taken for what it knew of.
    pub(super) is_main: bool,
}

/// What a change relies on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relied {
    seen: Option<u64>,
    not_after_ns: u64,
}

const CHANGED: &str = "it was changed by somebody else";
const GONE: &str = "it was removed by somebody else";
const LEFT_OUT: &str = "it is left out, and in what is to be removed: move it, or apply with --all";

impl<'a> Planner<'a> {
    /// Of changes that a view shows.
    pub(super) fn new(
        view: BorrowedFd<'a>,
        target: &'a Target,
        ignored: &'a Ignored,
        changes: &[ChangeEntry],
        begun: Begun,
    ) -> Self {
        let path = |change: &ChangeEntry| PathBuf::from(OsStr::from_bytes(&change.path));
        let seen = changes.iter().filter_map(|change| Some((path(change), change.seen?))).collect();
        let (steps, conflicts, new) = (Vec::new(), Vec::new(), Vec::new());
        let (linked, planned) = (HashMap::new(), HashSet::new());
        Self {
            view,
            target,
            ignored,
            steps,
            conflicts,
            new,
            begun,
            seen,
            linked,
            planned,
            done: Vec::new(),
            is_main: false,
        }
    }

    fn plan(&mut self, action: Action, path: &Path, there: Option<&Stat>, relied: Relied) {
        let expected = Expected::as_found(there);
        self.planned.insert(path.to_owned());
        self.steps.push(Step { action, path: path.to_owned(), expected, relied });
    }

    fn refuse(&mut self, path: &Path, why: &'static str) {
        self.conflicts.push((path.to_owned(), why));
    }

    /// Looks at what a change meets.
    pub(super) fn add(&mut self, path: &Path, change: &ChangeEntry) -> Result<(), Errno> {
        let (above, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let is_known = change.kind == b"gone" || !self.is_main;
        let relied =
            Relied { seen: change.seen, not_after_ns: if is_known { change.not_after_ns } else { 0 } };
        let source_above = enter_path(self.view, above)?;
        let target_above = enter_path(self.target.root.as_fd(), above)?;
        let is_gone = change.kind == b"gone";
        let (Some(source_above), Some(target_above)) = (source_above, target_above) else {
            // What is to go is gone with what it was in.
            if !is_gone && !self.ignored.has(path, change.kind != b"put") {
                self.refuse(path, "its directory was removed by somebody else");
            }
            return Ok(());
        };
        let source = Place { directory: source_above.as_fd(), name };
        let target = Place { directory: target_above.as_fd(), name };
        let there = look(target)?;
        let is_tree = match (&change.kind[..], &there) {
            (b"gone", Some(stat)) => is_directory(stat),
            (kind, _) => kind == b"tree" || kind == b"attributes",
        };
        if self.ignored.has(path, is_tree) {
            return Ok(());
        }
        match (&change.kind[..], there) {
            (b"inner", _) | (b"gone", None) => {}
            (b"gone", Some(stat)) => {
                if self.check_all((target, &stat), path, relied)? {
                    self.plan(Action::Remove, path, Some(&stat), relied);
                }
            }
            (b"attributes", Some(stat)) if is_directory(&stat) => {
                let is_done = look(source)?.is_some_and(|new| {
                    new.st_mtime == stat.st_mtime && is_same((source, &new), (target, &stat))
                });
                if !is_done {
                    self.plan(Action::Attributes, path, Some(&stat), relied);
                }
            }
            (b"attributes", _) => self.refuse(path, CHANGED),
            // A file that was there must still be.
            (_, None) if change.seen.is_some_and(|seen| seen != 0) => self.refuse(path, GONE),
            (_, None) => {
                self.note_links(source, relied)?;
                self.plan(Action::Put, path, None, relied);
            }
            (_, Some(stat)) => self.put_over(source, (target, &stat), path, relied)?,
        }
        Ok(())
    }

    fn note_links(&mut self, source: Place<'_>, relied: Relied) -> Result<(), Errno> {
        if let Some(new) = look(source)?.filter(|new| !is_directory(new) && new.st_nlink > 1) {
            self.linked.insert(new.st_ino, relied);
        }
        Ok(())
    }

    fn put_over(
        &mut self,
        source: Place<'_>,
        (target, stat): (Place<'_>, &Stat),
        path: &Path,
        relied: Relied,
    ) -> Result<(), Errno> {
        let Some(new) = look(source)? else { return Ok(()) };
        match (is_directory(&new), is_directory(stat)) {
            (true, true) => {
                let differs = self.merge(source, target, path, relied)?;
                if differs || !is_same((source, &new), (target, stat)) {
                    self.plan(Action::Put, path, Some(stat), relied);
                } else {
                    self.done.push(path.to_owned());
                }
            }
            (is_tree, was_tree) => {
                // What is there as it was is not what is to be, whatever it looks like.
                let is_old = !was_tree && relied.seen.is_some() && relied.holds(stat);
                let is_done = !is_tree && !is_old && is_same((source, &new), (target, stat));
                if is_done && new.st_nlink <= stat.st_nlink {
                    self.done.push(path.to_owned()); // by a run before
                    return Ok(());
                }
                if !is_done && was_tree && relied.seen.is_some() && !relied.holds(stat) {
                    self.refuse(path, CHANGED);
                    return Ok(());
                }
                if !is_done && !self.check_all((target, stat), path, relied)? {
                    return Ok(());
                }
                self.note_links(source, relied)?;
                let action = if was_tree { Action::Replace } else { Action::Put };
                self.plan(action, path, Some(stat), relied);
            }
        }
        Ok(())
    }

    /// A directory that is new in the view, where one is already: what is in that goes, or a run before has put it there.
    /// Is there anything to be put there?
    fn merge(
        &mut self,
        source: Place<'_>,
        target: Place<'_>,
        path: &Path,
        relied: Relied,
    ) -> Result<bool, Errno> {
        let (source, target) = (enter(source)?, enter(target)?);
        let mut differs = false;
        for name in names(source.as_fd())? {
            let (inner, path) = (Place { directory: source.as_fd(), name: &name }, path.join(&name));
            let is_directory = look(inner)?.is_some_and(|stat| is_directory(&stat));
            let is_missing = look(Place { directory: target.as_fd(), name: &name })?.is_none();
            if is_missing && !self.ignored.has(&path, is_directory) {
                self.new.push(path);
                differs = true;
            }
        }
        for name in names(target.as_fd())? {
            let (inner, path) = (Place { directory: target.as_fd(), name: &name }, path.join(&name));
            let Some(stat) = look(inner)?.filter(|_| !is_draft(&name)) else { continue };
            if self.ignored.has(&path, is_directory(&stat)) {
                continue;
            }
            let relied = Relied { seen: self.seen.get(&path).copied(), ..relied };
            let from = Place { directory: source.as_fd(), name: &name };
            match look(from)? {
                Some(new) if is_directory(&new) && is_directory(&stat) => {
                    differs |= self.merge(from, inner, &path, relied)?;
                }
                Some(new) if is_same((from, &new), (inner, &stat)) && new.st_nlink <= stat.st_nlink => {}
                Some(new) => {
                    differs = true;
                    if self.check_all((inner, &stat), &path, relied)?
                        && is_directory(&stat) != is_directory(&new)
                    {
                        self.plan(Action::Replace, &path, Some(&stat), relied);
                    }
                }
                None => {
                    if self.check_all((inner, &stat), &path, relied)? {
                        self.plan(Action::Remove, &path, Some(&stat), relied);
                    }
                }
            }
        }
        Ok(differs)
    }

    /// Is all that is there what the change relies on? Notes what is not.
    pub(super) fn check_all(
        &mut self,
        (place, stat): (Place<'_>, &Stat),
        path: &Path,
        relied: Relied,
    ) -> Result<bool, Errno> {
        if !is_directory(stat) {
            let is_as_it_was = self.is_as_it_was(place, stat, path, relied)?;
            if is_as_it_was {
                self.begun.note(stat);
            } else {
                self.refuse(path, CHANGED);
            }
            return Ok(is_as_it_was);
        }
        // What was moved into it keeps its own times.
        let is_it = relied.knew(stat) && relied.seen.is_none_or(|_| relied.holds(stat));
        if self.target.is_lower && !is_it && !self.begun.has(stat) {
            self.refuse(path, "what is in it was changed by somebody else");
            return Ok(false);
        }
        self.begun.note(stat);
        let (inner, mut is_as_it_was) = (enter(place)?, true);
        for name in names(inner.as_fd())? {
            let (place, path) = (Place { directory: inner.as_fd(), name: &name }, path.join(&name));
            let Some(stat) = look(place)?.filter(|_| !is_draft(&name)) else { continue };
            if self.ignored.has(&path, is_directory(&stat)) {
                self.refuse(&path, LEFT_OUT);
                is_as_it_was = false;
                continue;
            }
            // Only of the path itself is it known which file it was.
            let relied = Relied { seen: None, ..relied };
            is_as_it_was &= self.check_all((place, &stat), &path, relied)?;
        }
        Ok(is_as_it_was)
    }

    fn is_as_it_was(
        &self,
        place: Place<'_>,
        stat: &Stat,
        path: &Path,
        relied: Relied,
    ) -> Result<bool, Errno> {
        if self.begun.has(stat) {
            return Ok(true);
        }
        if self.target.is_lower {
            return Ok(relied.holds(stat));
        }
        // Of another directory only bytes tell.
        let above = enter_path(self.target.lower.as_fd(), path.parent().unwrap_or(Path::new("")))?;
        let Some(above) = above else { return Ok(false) };
        let below = Place { directory: above.as_fd(), name: path.file_name().unwrap_or_default() };
        match look(below)? {
            Some(known) if relied.holds(&known) && kind(&known) == kind(stat) => {
                same_content(below, place, stat)
            }
            _ => Ok(false),
        }
    }

    /// Of names that a file has had in the directory below all along nothing is recorded: they are to lead to the new one.
    pub(super) fn add_other_names(&mut self) -> Result<(), Errno> {
        if !self.linked.is_empty() {
            let root = enter(Place { directory: self.target.root.as_fd(), name: OsStr::new(".") })?;
            self.search(root.as_fd(), Path::new(""))?;
        }
        Ok(())
    }

    fn search(&mut self, directory: BorrowedFd<'_>, path: &Path) -> Result<(), Errno> {
        for name in names(directory)? {
            let (place, path) = (Place { directory, name: &name }, path.join(&name));
            let Some(stat) = look(place)? else { continue };
            if is_directory(&stat) {
                match enter(place) {
                    // Something is mounted there.
                    Err(Errno::XDEV) => {}
                    inner => self.search(inner?.as_fd(), &path)?,
                }
                continue;
            }
            let Some(above) = enter_path(self.view, path.parent().unwrap_or(Path::new("")))? else {
                continue;
            };
            let source = Place { directory: above.as_fd(), name: &name };
            let new = match look(source) {
                // Others put it there: the view does not know of it.
                Err(Errno::STALE) => None,
                new => new?,
            };
            let Some(new) = new.filter(|_| !self.planned.contains(&path)) else { continue };
            let Some(relied) = self.linked.get(&new.st_ino).copied() else { continue };
            let is_done = is_same((source, &new), (place, &stat));
            if is_done || self.check_all((place, &stat), &path, relied)? {
                self.plan(Action::Put, &path, Some(&stat), relied);
            }
        }
        Ok(())
    }

    /// What is to be done, in the order of paths.
    pub(super) fn sort(&mut self) {
        self.steps.sort_by(|a, b| a.path.cmp(&b.path));
    }
}

impl Relied {
    /// Is a file of the directory below what the change relies on?
    fn holds(self, stat: &Stat) -> bool {
        match self.seen {
            Some(seen) => agentfs_proto::stamp(stat.st_ino, changed_ns(stat)) == seen,
            None => self.knew(stat),
        }
    }

    /// Was it changed last before the branch came to rely on what there is?
    fn knew(self, stat: &Stat) -> bool {
        changed_ns(stat) <= self.not_after_ns
    }
}

fn changed_ns(stat: &Stat) -> u64 {
    let secs = u64::try_from(stat.st_ctime).unwrap_or(0);
    secs.saturating_mul(1_000_000_000).saturating_add(stat.st_ctime_nsec)
}

fn same_content(a: Place<'_>, b: Place<'_>, stat: &Stat) -> Result<bool, Errno> {
    match kind(stat) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let open = |place: Place<'_>| openat(place.directory, place.name, flags, Mode::empty());
            has_same_bytes(open(a)?, open(b)?)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
        FileType::Symlink => {
            let target = |place: Place<'_>| readlinkat(place.directory, place.name, Vec::new());
            Ok(target(a)? == target(b)?)
        }
        _ => Ok(true),
    }
}
