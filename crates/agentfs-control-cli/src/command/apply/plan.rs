//! What is to be done to a directory, and what forbids it. Nothing is changed here.

mod links;
mod rights;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use agentfs_proto::names::CLAIMED;
use agentfs_proto::result::ChangeRecord;
use rustix::fs::Stat;
use rustix::io::Errno;

use super::journal::FileState;
use super::reliance::{Reliances, path as path_of};
use super::target::Target;
use crate::copy::{
    Place, Sameness, compare, enter, enter_path, failed, has_same_attributes, has_same_content, is_directory,
    look, names,
};
use crate::failure::Failure;
use crate::interrupt;
use crate::left_out::Ignored;

const CHANGED: &str = "it was changed by somebody else";
const GONE: &str = "it was removed by somebody else";
const HIDDEN: &str = "it was made by somebody else";
const LEFT_OUT: &str = "it is left out, and in what is to be removed: move it, or apply with --all";
const MOUNTED: &str = "something is mounted there";
const UNWRITABLE: &str = "you may not write to it";

/// Something that is to go.
#[derive(Clone, Debug)]
pub(super) enum Removal {
    /// A file, as it was found.
    File(PathBuf, FileState),
    /// A directory that is empty by then.
    Directory(PathBuf),
}

/// A file that is to be put somewhere.
#[derive(Clone, Debug)]
pub(super) struct Put {
    pub(super) path: PathBuf,
    /// What the branch has there.
    pub(super) stat: Stat,
    /// What is there; `None` when nothing is, or something that is removed before.
    pub(super) expected: Option<FileState>,
    /// A file in the target that is the same.
    pub(super) from: Option<PathBuf>,
}

/// A directory with the attributes that the branch has for it.
#[derive(Clone, Debug)]
pub(super) struct Dress {
    pub(super) path: PathBuf,
    pub(super) ino: u64,
}

/// A file that is there already as it is to be.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) path: PathBuf,
    /// What the branch has there.
    pub(super) stat: Stat,
    /// What is there.
    pub(super) found: FileState,
}

/// What is to be done. Each list is in the order in which it is done.
#[derive(Default)]
pub(super) struct Plan {
    /// What stands in the way of what is put.
    pub(super) in_the_way: Vec<Removal>,
    /// Directories of ours that cannot be written to now.
    pub(super) locked: Vec<PathBuf>,
    pub(super) directories: Vec<Dress>,
    pub(super) puts: Vec<Put>,
    pub(super) removals: Vec<Removal>,
    pub(super) dresses: Vec<Dress>,
    /// Directories that the branch made anew and that are there.
    pub(super) kept_directories: Vec<Dress>,
    pub(super) done: Vec<Done>,
    /// Paths at which nothing is, as it is to be.
    pub(super) gone: Vec<PathBuf>,
    /// Where the first of something new comes into a directory that is there.
    pub(super) new: Vec<PathBuf>,
    pub(super) conflicts: Vec<(PathBuf, &'static str)>,
    /// What is told of it: a word and a path.
    pub(super) steps: Vec<(&'static str, PathBuf)>,
    /// All names of files that lose or get one, by inode number, with what was found there.
    pub(super) linked: HashMap<u64, Vec<(PathBuf, FileState)>>,
}

/// Makes a plan.
pub(super) struct Planner<'a> {
    view: BorrowedFd<'a>,
    target: &'a Target,
    ignored: &'a Ignored,
    changes: BTreeMap<PathBuf, ChangeRecord>,
    reliances: Reliances,
    plan: Plan,
    /// Paths at which it is known what becomes of them.
    planned: HashSet<PathBuf>,
    /// Which file of the branch one in the target is.
    counterparts: HashMap<u64, u64>,
    /// Some of `linked` have names that are not known yet.
    has_other_names: bool,
}

/// A file in the branch, and what is at its place in the target.
struct Pair<'a> {
    path: &'a Path,
    source: Place<'a>,
    stat: &'a Stat,
    target: Place<'a>,
    there: Option<&'a Stat>,
}

impl<'a> Planner<'a> {
    /// For the changes of a branch that `view` shows.
    pub(super) fn new(
        view: BorrowedFd<'a>,
        target: &'a Target,
        ignored: &'a Ignored,
        changes: Vec<ChangeRecord>,
        reliances: Reliances,
    ) -> Self {
        let changes = changes.into_iter().map(|change| (path_of(&change.path), change)).collect();
        let (plan, planned, counterparts) = (Plan::default(), HashSet::new(), HashMap::new());
        let has_other_names = false;
        Self { view, target, ignored, changes, reliances, plan, planned, counterparts, has_other_names }
    }

    /// Looks at everything. `linked`: the numbers of files of which names in the target lead to another file than in the branch,
    /// though no change tells of these names.
    ///
    /// # Errors
    /// What the host answers; when the command was told to end.
    pub(super) fn plan(mut self, linked: &[u64]) -> Result<Plan, Failure> {
        let mut trees = HashSet::new();
        for (path, change) in self.changes.clone() {
            interrupt::check()?;
            if path.ancestors().skip(1).any(|above| trees.contains(above)) {
                continue; // it was looked at with what it is in
            }
            if change.kind == b"tree" {
                trees.insert(path.clone());
            }
            self.change(&path, &change).map_err(failed(&path))?;
        }
        self.other_names(linked).map_err(failed(Path::new(".")))?;
        self.check_writable().map_err(failed(Path::new(".")))?;
        self.mark_linked();
        let made: HashSet<&Path> = self.plan.directories.iter().map(|made| &*made.path).collect();
        self.plan.new.retain(|path| !path.ancestors().skip(1).any(|above| made.contains(above)));
        self.plan.in_the_way.sort_by(Removal::deeper_first);
        self.plan.removals.sort_by(Removal::deeper_first);
        self.plan.dresses.sort_by(|a, b| b.path.cmp(&a.path));
        self.plan.steps.sort_by(|a, b| a.1.cmp(&b.1));
        Ok(self.plan)
    }

    fn refuse(&mut self, path: &Path, why: &'static str) {
        self.plan.conflicts.push((path.to_owned(), why));
    }

    fn step(&mut self, word: &'static str, path: &Path) {
        self.plan.steps.push((word, path.to_owned()));
    }

    /// Looks at what a change meets.
    fn change(&mut self, path: &Path, change: &ChangeRecord) -> Result<(), Errno> {
        if is_claimed(path) {
            return Ok(());
        }
        let Some(name) = path.file_name() else { return self.root_attributes(change) };
        let above = path.parent().unwrap_or(Path::new(""));
        let Some(target_above) = enter_path(self.target.root.as_fd(), above)? else {
            // What is to go is gone with what it was in.
            let is_tree = matches!(change.kind.as_slice(), b"tree" | b"attributes");
            if change.kind == b"gone" {
                self.plan.gone.push(path.to_owned());
            } else if !self.ignored.has(path, is_tree) {
                self.refuse(path, "its directory was removed by somebody else");
            }
            return Ok(());
        };
        let target = Place { directory: target_above.as_fd(), name };
        let there = look(target)?;
        if change.kind == b"gone" {
            return self.gone(path, target, there.as_ref());
        }
        let Some(source_above) = enter_path(self.view, above)? else { return Ok(()) };
        let source = Place { directory: source_above.as_fd(), name };
        let Some(stat) = self.wanted(source, path)? else { return Ok(()) };
        let pair = Pair { path, source, stat: &stat, target, there: there.as_ref() };
        match change.kind.as_slice() {
            b"attributes" => self.attributes(&pair, change),
            _ if is_directory(&stat) => self.tree(&pair, true).map(drop),
            _ => self.file(&pair, true),
        }
    }

    fn gone(&mut self, path: &Path, target: Place<'_>, there: Option<&Stat>) -> Result<(), Errno> {
        let Some(stat) = there else {
            self.plan.gone.push(path.to_owned());
            return Ok(());
        };
        if self.ignored.has(path, is_directory(stat)) {
            return Ok(());
        }
        self.step("remove", path);
        let removals = self.remove((target, stat), path)?;
        self.plan.removals.extend(removals);
        Ok(())
    }

    fn root_attributes(&mut self, change: &ChangeRecord) -> Result<(), Errno> {
        let here = |directory| Place { directory, name: OsStr::new(".") };
        let (source, target) = (here(self.view), here(self.target.root.as_fd()));
        let (Some(stat), Some(there)) = (look(source)?, look(target)?) else { return Ok(()) };
        let pair = Pair { path: Path::new(""), source, stat: &stat, target, there: Some(&there) };
        self.attributes(&pair, change)
    }

    /// A directory that is there, and is to have other attributes.
    fn attributes(&mut self, pair: &Pair<'_>, change: &ChangeRecord) -> Result<(), Errno> {
        let Some(there) = pair.there.filter(|there| is_directory(there)) else {
            self.refuse(pair.path, if pair.there.is_some() { CHANGED } else { GONE });
            return Ok(());
        };
        let dress = Dress { path: pair.path.to_owned(), ino: pair.stat.st_ino };
        if self.has_its_attributes(pair, there)? {
            self.plan.kept_directories.push(dress);
        } else if self.target.is_lower && !change.is_as_relied_on {
            self.refuse(pair.path, "its attributes were changed by somebody else");
        } else {
            self.step("attributes", pair.path);
            self.plan.dresses.push(dress);
        }
        Ok(())
    }

    fn has_its_attributes(&self, pair: &Pair<'_>, there: &Stat) -> Result<bool, Errno> {
        let (source, target) = (enter(pair.source)?, enter(pair.target)?);
        has_same_attributes((source.as_fd(), pair.stat), (target.as_fd(), there))
    }

    /// A file that the branch has. `is_told`: it is no part of a directory that is told of.
    fn file(&mut self, pair: &Pair<'_>, is_told: bool) -> Result<(), Errno> {
        let Pair { path, source, stat, target, there } = *pair;
        let change = self.changes.get(path);
        let is_copied = change.is_some_and(|change| change.kind == b"copied");
        let from = change.and_then(|change| change.from.as_deref()).map(path_of);
        self.planned.insert(path.to_owned());
        let expected = match there {
            // What others did to what the branch has not changed since it was written out stays.
            None | Some(_) if is_copied && !there.is_some_and(|there| self.reliances.holds(path, there)) => {
                return Ok(());
            }
            None if self.reliances.has_anything(path) => {
                self.refuse(path, GONE);
                return Ok(());
            }
            None => {
                self.plan.new.push(path.to_owned());
                None
            }
            Some(there) if is_directory(there) => {
                let removals = self.remove((target, there), path)?;
                self.plan.in_the_way.extend(removals);
                None
            }
            Some(there) => {
                let is_relied_on = self.is_relied_on(target, there, path)?;
                let is_counterpart = self.is_counterpart(there, stat);
                let is_done = is_counterpart
                    && match compare((source, stat), (target, there))? {
                        Sameness::Same => true,
                        // Somebody did the same.
                        Sameness::ButTime => !is_relied_on,
                        Sameness::Different => false,
                    };
                if is_done {
                    self.counterparts.insert(there.st_ino, stat.st_ino);
                    let (path, stat, found) = (path.to_owned(), *stat, FileState::of(there));
                    self.plan.done.push(Done { path, stat, found });
                    return Ok(());
                }
                if !is_relied_on {
                    self.refuse(path, CHANGED);
                    return Ok(());
                }
                self.note_linked(there, path);
                Some(FileState::of(there))
            }
        };
        if is_told {
            self.step("put", path);
        }
        let from = from.or_else(|| self.moved_from(path)).filter(|_| self.target.is_lower);
        let from = match from {
            Some(from) if self.is_linkable(&from, stat)? => Some(from),
            _ => None,
        };
        self.plan.puts.push(Put { path: path.to_owned(), stat: *stat, expected, from });
        Ok(())
    }

    /// A directory that is not the one that was there, and all in it. Returns whether anything is to be done.
    fn tree(&mut self, pair: &Pair<'_>, is_told: bool) -> Result<bool, Errno> {
        let Pair { path, source, stat, target, there } = *pair;
        self.planned.insert(path.to_owned());
        let dress = Dress { path: path.to_owned(), ino: stat.st_ino };
        let Some(there) = there else {
            if self.reliances.has_anything(path) {
                self.refuse(path, GONE);
                return Ok(false);
            }
            self.plan.new.push(path.to_owned());
            self.make_directory(pair, dress, is_told)?;
            return Ok(true);
        };
        if !is_directory(there) {
            let removals = self.remove((target, there), path)?;
            self.plan.in_the_way.extend(removals);
            self.make_directory(pair, dress, is_told)?;
            return Ok(true);
        }
        let before = (self.plan.puts.len(), self.plan.directories.len());
        let (inner, target_inner) = (enter(source)?, enter(target)?);
        let mut shown = HashSet::new();
        for name in names(inner.as_fd())? {
            let place = Place { directory: target_inner.as_fd(), name: &name };
            self.inside((inner.as_fd(), Some(place)), &path.join(&name))?;
            shown.insert(name);
        }
        for name in names(target_inner.as_fd())?.into_iter().filter(|name| !shown.contains(name)) {
            let (place, path) = (Place { directory: target_inner.as_fd(), name: &name }, path.join(&name));
            let Some(stat) = look(place)? else { continue };
            if !self.ignored.has(&path, is_directory(&stat)) {
                self.step("remove", &path);
                let removals = self.remove((place, &stat), &path)?;
                self.plan.removals.extend(removals);
            }
        }
        let is_dressed = self.has_its_attributes(pair, there)?;
        let differs = before != (self.plan.puts.len(), self.plan.directories.len()) || !is_dressed;
        if is_dressed {
            self.plan.kept_directories.push(dress);
        } else {
            self.plan.dresses.push(dress);
        }
        if is_told && differs {
            self.step("put", path);
        }
        Ok(differs)
    }

    fn make_directory(&mut self, pair: &Pair<'_>, dress: Dress, is_told: bool) -> Result<(), Errno> {
        if is_told {
            self.step("put", pair.path);
        }
        self.plan.directories.push(dress.clone());
        self.plan.dresses.push(dress);
        let inner = enter(pair.source)?;
        for name in names(inner.as_fd())? {
            self.inside((inner.as_fd(), None), &pair.path.join(&name))?;
        }
        Ok(())
    }

    /// What the branch has, unless it is left out; what it does not have any more, as others changed it, is refused.
    fn wanted(&mut self, source: Place<'_>, path: &Path) -> Result<Option<Stat>, Errno> {
        match look(source) {
            Err(Errno::STALE) => {
                self.refuse(path, CHANGED);
                Ok(None)
            }
            found => Ok(found?.filter(|stat| !self.ignored.has(path, is_directory(stat)))),
        }
    }

    /// What is in a directory that is put; nothing is in the target where that is made.
    fn inside(
        &mut self,
        (source, target): (BorrowedFd<'_>, Option<Place<'_>>),
        path: &Path,
    ) -> Result<(), Errno> {
        let source = Place { directory: source, name: path.file_name().unwrap_or_default() };
        let Some(stat) = self.wanted(source, path)? else { return Ok(()) };
        let there = target.map(look).transpose()?.flatten();
        let target = target.unwrap_or(source);
        let pair = Pair { path, source, stat: &stat, target, there: there.as_ref() };
        match is_directory(&stat) {
            true => self.tree(&pair, false).map(drop),
            false => self.file(&pair, false),
        }
    }

    /// What it takes to remove what is at a path, what is in it first. Refuses what others have changed.
    fn remove(&mut self, (place, stat): (Place<'_>, &Stat), path: &Path) -> Result<Vec<Removal>, Errno> {
        self.planned.insert(path.to_owned());
        if !is_directory(stat) {
            if !self.is_relied_on(place, stat, path)? {
                self.refuse(path, CHANGED);
            }
            self.note_linked(stat, path);
            return Ok(vec![Removal::File(path.to_owned(), FileState::of(stat))]);
        }
        if !self.has_directory(path)? {
            self.refuse(path, HIDDEN);
            return Ok(Vec::new());
        }
        let inner = match enter(place) {
            Err(Errno::XDEV) => {
                self.refuse(path, MOUNTED);
                return Ok(Vec::new());
            }
            inner => inner?,
        };
        let mut removals = Vec::new();
        for name in names(inner.as_fd())? {
            let (place, path) = (Place { directory: inner.as_fd(), name: &name }, path.join(&name));
            let Some(stat) = look(place)? else { continue };
            if self.ignored.has(&path, is_directory(&stat)) {
                self.refuse(&path, LEFT_OUT);
            } else {
                removals.extend(self.remove((place, &stat), &path)?);
            }
        }
        removals.push(Removal::Directory(path.to_owned()));
        Ok(removals)
    }

    /// Returns whether a file in the target is the one that the branch relies on.
    fn is_relied_on(&self, place: Place<'_>, stat: &Stat, path: &Path) -> Result<bool, Errno> {
        if self.target.is_lower {
            return Ok(self.reliances.holds(path, stat));
        }
        // Of another directory only bytes tell.
        let above = enter_path(self.target.lower.as_fd(), path.parent().unwrap_or(Path::new("")))?;
        let Some(above) = above else { return Ok(false) };
        let below = Place { directory: above.as_fd(), name: path.file_name().unwrap_or_default() };
        match look(below)? {
            Some(known) if self.reliances.holds(path, &known) => {
                has_same_content((below, &known), (place, stat))
            }
            _ => Ok(false),
        }
    }

    fn has_directory(&self, path: &Path) -> Result<bool, Errno> {
        let is_below = || Ok(enter_path(self.target.lower.as_fd(), path)?.is_some());
        Ok(self.reliances.has_directory(path) && (self.target.is_lower || is_below()?))
    }
}

impl Removal {
    pub(super) fn path(&self) -> &Path {
        match self {
            Removal::File(path, _) | Removal::Directory(path) => path,
        }
    }

    fn deeper_first(&self, other: &Self) -> std::cmp::Ordering {
        other.path().cmp(self.path())
    }
}

/// Returns whether a path is the volume's own, or in what is.
fn is_claimed(path: &Path) -> bool {
    path.components()
        .next()
        .is_some_and(|first| CLAIMED.iter().any(|name| first.as_os_str() == OsStr::new(name)))
}
