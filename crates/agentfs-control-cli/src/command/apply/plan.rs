//! What is to be done to a directory, and what forbids it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use agentfs_proto::record::{ChangeEntry, SeenFile};
use rustix::fs::{FileType, Mode, OFlags, Stat, openat, readlinkat};
use rustix::io::Errno;

use super::begun::Begun;
use super::target::{Target, has_same_bytes};
use crate::copy::{Place, enter, enter_path, is_directory, is_draft, is_same, kind, look, names};
use crate::left_out::Ignored;

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Put a file or a whole directory there.
    Put(PathBuf),
    /// The same, where something of another kind is.
    Replace(PathBuf),
    /// Remove what is there, with all in it.
    Remove(PathBuf),
    /// Give a directory its attributes.
    Attributes(PathBuf),
}

impl Step {
    pub(super) fn path(&self) -> &Path {
        match self {
            Step::Put(path) | Step::Replace(path) | Step::Remove(path) | Step::Attributes(path) => path,
        }
    }

    pub(super) fn word(&self) -> &'static str {
        match self {
            Step::Put(_) | Step::Replace(_) => "put",
            Step::Remove(_) => "remove",
            Step::Attributes(_) => "attributes",
        }
    }
}

/// All of it.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) conflicts: Vec<(PathBuf, &'static str)>,
    /// What a run that finishes this one must know.
    pub(super) begun: Begun,
}

/// Makes a plan.
pub(super) struct Planner<'a> {
    view: BorrowedFd<'a>,
    target: &'a Target,
    ignored: &'a Ignored,
    plan: Plan,
    /// Files that change and have other names in the view, by their inode numbers there.
    linked: HashSet<u64>,
    begun: Begun,
}

/// What a change relies on.
#[derive(Clone, Copy)]
struct Relied<'a> {
    seen: Option<&'a SeenFile>,
    not_after_ns: u64,
}

const CHANGED: &str = "it was changed by somebody else";
const GONE: &str = "it was removed by somebody else";

impl<'a> Planner<'a> {
    /// Of what a view shows.
    pub(super) fn new(view: BorrowedFd<'a>, target: &'a Target, ignored: &'a Ignored) -> Self {
        Self {
            view,
            target,
            ignored,
            plan: Plan::default(),
            linked: HashSet::new(),
            begun: Begun::read(&target.root),
        }
    }

    /// Looks at what a change meets.
    pub(super) fn add(&mut self, path: &Path, change: &ChangeEntry) -> Result<(), Errno> {
        let (above, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let is_tree = matches!(&change.kind[..], b"tree" | b"attributes");
        if self.ignored.has(path, is_tree) {
            return Ok(());
        }
        let relied = Relied { seen: change.seen.as_ref(), not_after_ns: change.not_after_ns };
        let source_above = enter_path(self.view, above)?;
        let target_above = enter_path(self.target.root.as_fd(), above)?;
        let is_gone = change.kind == b"gone";
        let (Some(source_above), Some(target_above)) = (source_above, target_above) else {
            // What is to go is gone with what it was in.
            if !is_gone {
                self.plan.conflicts.push((path.to_owned(), "its directory was removed by somebody else"));
            }
            return Ok(());
        };
        let source = Place { directory: source_above.as_fd(), name };
        let target = Place { directory: target_above.as_fd(), name };
        let there = look(target)?;
        match (&change.kind[..], there) {
            (b"gone", None) => {}
            (b"gone", Some(stat)) => {
                if self.check_all((target, &stat), path, relied)? {
                    self.plan.steps.push(Step::Remove(path.to_owned()));
                }
            }
            (b"attributes", Some(stat)) if is_directory(&stat) => {
                self.plan.steps.push(Step::Attributes(path.to_owned()));
            }
            (b"attributes", _) => self.plan.conflicts.push((path.to_owned(), CHANGED)),
            // A file that was there must still be.
            (_, None) if change.seen.is_some() => self.plan.conflicts.push((path.to_owned(), GONE)),
            (_, None) => self.plan.steps.push(Step::Put(path.to_owned())),
            (_, Some(stat)) => self.put_over(source, (target, &stat), path, relied)?,
        }
        Ok(())
    }

    fn put_over(
        &mut self,
        source: Place<'_>,
        (target, stat): (Place<'_>, &Stat),
        path: &Path,
        relied: Relied<'_>,
    ) -> Result<(), Errno> {
        let Some(new) = look(source)? else { return Ok(()) };
        match (is_directory(&new), is_directory(stat)) {
            (true, true) => {
                let differs = self.merge(source, target, path, relied)?;
                if differs || !is_same((source, &new), (target, stat)) {
                    self.plan.steps.push(Step::Put(path.to_owned()));
                }
            }
            (is_tree, was_tree) => {
                let is_linked = !is_tree && new.st_nlink > 1;
                // By a run before; its other names are still to come.
                let is_done = !is_tree && is_same((source, &new), (target, stat));
                let has_all_names = is_done && new.st_nlink <= stat.st_nlink;
                if has_all_names || !is_done && !self.check_all((target, stat), path, relied)? {
                    return Ok(());
                }
                if is_linked {
                    self.linked.insert(new.st_ino);
                }
                let step = if was_tree { Step::Replace } else { Step::Put };
                self.plan.steps.push(step(path.to_owned()));
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
        relied: Relied<'_>,
    ) -> Result<bool, Errno> {
        let (source, target) = (enter(source)?, enter(target)?);
        let mut differs = false;
        for name in names(source.as_fd())? {
            let (inner, path) = (Place { directory: source.as_fd(), name: &name }, path.join(&name));
            let is_directory = look(inner)?.is_some_and(|stat| is_directory(&stat));
            let is_missing = look(Place { directory: target.as_fd(), name: &name })?.is_none();
            differs |= is_missing && !self.ignored.has(&path, is_directory);
        }
        for name in names(target.as_fd())? {
            let (inner, path) = (Place { directory: target.as_fd(), name: &name }, path.join(&name));
            let Some(stat) = look(inner)?.filter(|_| !is_draft(&name)) else { continue };
            if self.ignored.has(&path, is_directory(&stat)) {
                continue;
            }
            let from = Place { directory: source.as_fd(), name: &name };
            match look(from)? {
                Some(new) if is_directory(&new) && is_directory(&stat) => {
                    differs |= self.merge(from, inner, &path, relied)?;
                }
                Some(new) if is_same((from, &new), (inner, &stat)) && new.st_nlink <= stat.st_nlink => {}
                Some(_) => {
                    differs = true;
                    if self.check_all((inner, &stat), &path, relied)? && is_directory(&stat) {
                        self.plan.steps.push(Step::Replace(path));
                    }
                }
                None => {
                    if self.check_all((inner, &stat), &path, relied)? {
                        self.plan.steps.push(Step::Remove(path));
                    }
                }
            }
        }
        Ok(differs)
    }

    /// Is all that is there what the change relies on? Notes what is not.
    fn check_all(
        &mut self,
        (place, stat): (Place<'_>, &Stat),
        path: &Path,
        relied: Relied<'_>,
    ) -> Result<bool, Errno> {
        if !is_directory(stat) {
            let is_as_it_was = self.is_as_it_was(place, stat, path, relied)?;
            if is_as_it_was {
                self.begun.note(stat);
            } else {
                self.plan.conflicts.push((path.to_owned(), CHANGED));
            }
            return Ok(is_as_it_was);
        }
        let (inner, mut is_as_it_was) = (enter(place)?, true);
        for name in names(inner.as_fd())? {
            let (place, path) = (Place { directory: inner.as_fd(), name: &name }, path.join(&name));
            if let Some(stat) = look(place)?.filter(|_| !is_draft(&name)) {
                // Only of the path itself is it known which file it was.
                let relied = Relied { seen: None, ..relied };
                is_as_it_was &= self.check_all((place, &stat), &path, relied)?;
            }
        }
        Ok(is_as_it_was)
    }

    fn is_as_it_was(
        &self,
        place: Place<'_>,
        stat: &Stat,
        path: &Path,
        relied: Relied<'_>,
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
                self.search(enter(place)?.as_fd(), &path)?;
                continue;
            }
            let Some(above) = enter_path(self.view, path.parent().unwrap_or(Path::new("")))? else {
                continue;
            };
            let new = match look(Place { directory: above.as_fd(), name: &name }) {
                // Others put it there: the view does not know of it.
                Err(Errno::STALE) => None,
                new => new?,
            };
            let is_planned = || self.plan.steps.iter().any(|step| step.path() == path);
            if new.is_some_and(|new| self.linked.contains(&new.st_ino)) && !is_planned() {
                self.plan.steps.push(Step::Put(path));
            }
        }
        Ok(())
    }

    /// What is to be done, in the order of paths.
    pub(super) fn finish(self) -> Plan {
        let mut plan = Plan { begun: self.begun, ..self.plan };
        plan.steps.sort_by(|a, b| a.path().cmp(b.path()));
        plan
    }
}

impl Relied<'_> {
    /// Is a file of the directory below what the change relies on?
    fn holds(&self, stat: &Stat) -> bool {
        let secs = u64::try_from(stat.st_ctime).unwrap_or(0);
        let changed = secs.saturating_mul(1_000_000_000).saturating_add(stat.st_ctime_nsec);
        match self.seen {
            Some(seen) => (stat.st_ino, changed) == (seen.inode, seen.changed_ns),
            None => changed <= self.not_after_ns,
        }
    }
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
