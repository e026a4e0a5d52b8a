//! `merge`: a branch takes over changes of another, all at once or not at all.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::carry_out::What;
use super::diff::tree_called;
use super::freeze::Moment;
use crate::branch::{Branch, BranchInfo, Origin, Snapshot, SnapshotInfo, Tree, learn};
use crate::compare::{Pair, Sight, compare};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::log::{NewSnapshot, Record};
use crate::merge::{self, Changed, Conflict, Labels, Policy, Request, Step, Wanted};
use crate::progress::Progress;
use crate::tree::{Body, Directory, Homes, Inode, Version};
use crate::types::{BranchId, Deed, Epoch, InodeId, Knows, Name, SnapshotId, Timestamp};

/// What to merge, and how.
pub struct MergeWish<'a> {
    /// The branch, or the snapshot.
    pub source: &'a str,
    /// The branch that is merged into; else the one that the source grew from.
    pub into: Option<&'a str>,
    /// What becomes of conflicts.
    pub policy: Policy,
    /// Is it only to be told what would be done?
    pub is_dry: bool,
    /// Are `.git` directories taken, each whole from the source?
    pub with_git: bool,
    /// Which paths of the source are not meant for others.
    pub left_out: &'a (dyn Fn(&[u8], bool) -> bool + Sync),
}

/// What was merged or restored, or would be.
#[derive(Default)]
pub struct Merged {
    /// The branch.
    pub into: Option<BranchInfo>,
    /// What was merged: its name, or its id.
    pub source: String,
    /// What was done, in the order of paths.
    pub steps: Vec<Step>,
    /// What conflicts.
    pub conflicts: Vec<Conflict>,
    /// The snapshot of the state before; `None` when nothing was changed.
    pub kept: Option<SnapshotInfo>,
    /// `.git` directories that were changed there and were left out.
    pub left_git: Vec<Arc<[u8]>>,
    /// Names that lead elsewhere now.
    pub names: Vec<(InodeId, Name)>,
    /// Inodes that have other attributes now.
    pub inodes: Vec<InodeId>,
    /// Was it noted as an event?
    pub is_noted: bool,
    /// Why a power cut may take it yet, though it is done.
    pub unsynced: Option<FsError>,
}

/// A state to merge from, and what it is called.
struct Source {
    snapshot: Arc<Snapshot>,
    info: SnapshotInfo,
    id: u128,
    name: Option<Arc<str>>,
    knows: Knows,
}

impl FsCore {
    /// Takes over what `wish.source` changed since it and the branch were last the same. Nothing is changed while it conflicts
    /// and the policy is to refuse; else the state before is kept as a snapshot, and the change is durable.
    ///
    /// # Errors
    /// `UnknownVersion`; `Refused` when the two have nothing in common or nothing to merge into is named; `Busy` when the
    /// branch is changed all the while in the same places; `Cancelled`, `Changed`, what the store answers.
    pub fn merge(&self, wish: &MergeWish<'_>, progress: &Progress) -> Result<Merged> {
        self.insist(|is_urgent| self.merge_once(wish, is_urgent, progress))
    }

    fn merge_once(&self, wish: &MergeWish<'_>, is_urgent: bool, progress: &Progress) -> Result<Merged> {
        let (info, branch) = {
            let into = self.merge_target_of(wish.source, wish.into)?.to_string();
            let catalog = self.catalog.read();
            let (info, branch) = catalog.branch(&into)?;
            (info.clone(), branch.clone())
        };
        let source = self.merge_source(wish, &info)?;
        let labels =
            Labels { ours: shown(&info.name, &info.id), theirs: shown(&source.name, &source.info.id) };
        let done = self.merge_from(wish, (&info, &branch, is_urgent), &source, &labels, progress);
        let points = {
            let _control = self.control.lock();
            self.catalog.write().ancestry.let_go(source.info.id);
            self.forget_points()
        };
        self.reclaim(points);
        done.map(|merged| Merged { source: labels.theirs, ..merged })
    }

    fn merge_from(
        &self,
        wish: &MergeWish<'_>,
        (info, branch, is_urgent): (&BranchInfo, &Arc<Branch>, bool),
        source: &Source,
        labels: &Labels,
        progress: &Progress,
    ) -> Result<Merged> {
        let theirs = Sight::of(&Tree::Snapshot(source.snapshot.clone()), self.lower.as_ref())?;
        let base = self.merge_base(info, &source.knows, progress)?;
        let changes = compare(&base, &theirs, &|| progress.step())?;
        if !wish.is_dry {
            self.pin(&Tree::Branch(branch.clone()), (&base, &theirs), &changes)?;
        }
        let _hush = (is_urgent && !wish.is_dry).then(|| branch.hush());
        let kept = if wish.is_dry { None } else { Some(self.keep_before(info, Deed::Merged)?) };
        let ours = self.sight_as_kept(kept.as_ref(), &Tree::Branch(branch.clone()))?;
        let git = RefCell::new(BTreeSet::new());
        let wanted = |changed: &Changed<'_>| Ok(wanted(wish, changed, &git));
        let roots = if wish.with_git { git_roots(&base, &theirs, &changes)? } else { BTreeSet::new() };
        let is_git = |path: &[u8]| git_root(path).is_some_and(|root| roots.contains(&root));
        let plan = merge::plan(
            self,
            &Request {
                base: &base,
                ours: &ours,
                theirs: &theirs,
                policy: wish.policy,
                labels,
                wanted: &wanted,
                whole: wish.with_git.then_some(&is_git),
                keeps_times: false,
                is_base: false,
                number: &|ino| self.number_in(branch.view, ino),
                progress,
            },
            &changes,
        );
        let mut knows = source.knows.clone();
        let deed = What {
            deed: Deed::Merged,
            source: source.id,
            name: source.name.clone(),
            state: source.info.id,
            begins_line: false,
        };
        let known = |mine: Knows| {
            learn(&mut knows, &mine);
            knows
        };
        let done = plan.and_then(|plan| {
            self.carry_out((info, branch), plan, wish.policy == Policy::Refuse, kept.as_ref(), deed, known)
        });
        let mut merged = done.inspect_err(|_| self.forget_kept(kept.as_ref()))?;
        merged.left_git = git.into_inner().into_iter().collect();
        let is_done = !wish.is_dry && (wish.policy != Policy::Refuse || merged.conflicts.is_empty());
        let is_taken = |path: &[u8], is_directory| {
            (wish.with_git || git_root(path).is_none()) && !(wish.left_out)(path, is_directory)
        };
        if is_done && let Err(error) = self.learn_applied(&Tree::Branch(branch.clone()), &theirs, &is_taken) {
            tracing::warn!(%error, "an apply of the branch will refuse what the merged one has written out");
        }
        Ok(merged)
    }

    /// The branch that `source` is merged into: `into`, or the one that it grew from.
    ///
    /// # Errors
    /// `UnknownVersion`; `Refused` when it grew from none, or that one is gone.
    pub fn merge_target_of(&self, source: &str, into: Option<&str>) -> Result<BranchId> {
        let catalog = self.catalog.read();
        let into = match into {
            Some(into) => into.to_owned(),
            None => {
                let (info, _) = catalog.branch(source)?;
                let parent = match info.origin {
                    Origin::Branch(id) => Some(id),
                    Origin::Snapshot(id) => catalog.state(id).map(|(info, _)| info.branch),
                    Origin::Empty => None,
                };
                let known = parent.filter(|id| catalog.branch(&id.to_string()).is_ok());
                let none = || {
                    FsError::Refused(format!(
                        "the branch that {source:?} grew from is gone, or there was none: name one with --into"
                    ))
                };
                known.ok_or_else(none)?.to_string()
            }
        };
        Ok(catalog.branch(&into)?.0.id)
    }

    /// The state that is merged, which is held: to be let go of.
    fn merge_source(&self, wish: &MergeWish<'_>, into: &BranchInfo) -> Result<Source> {
        let mut catalog = self.catalog.write();
        if let Tree::Snapshot(snapshot) = tree_called(&catalog, wish.source)? {
            let info = catalog.snapshot(&snapshot.id.to_string())?.0.clone();
            let knows = catalog.ancestry.of_snapshot(info.id);
            let (id, name) = (info.id.0, info.name.clone());
            catalog.ancestry.hold(info.id);
            return Ok(Source { snapshot, info, id, name, knows });
        }
        drop(catalog);
        let info = self.find_branch(wish.source)?;
        if info.id == into.id {
            return Err(FsError::Refused("a branch cannot be merged into itself".into()));
        }
        let (point, snapshot) = self.take_point(&info)?;
        let knows = self.catalog.read().ancestry.of_snapshot(point.id);
        Ok(Source { snapshot, info: point, id: info.id.0, name: info.name, knows })
    }

    /// Takes a hidden snapshot of a branch, and holds it.
    fn take_point(&self, of: &BranchInfo) -> Result<(SnapshotInfo, Arc<Snapshot>)> {
        let _control = self.await_replaced();
        let branch = self.catalog.read().branch(&of.id.to_string())?.1.clone();
        let epoch = self.fresh_epoch();
        let info =
            SnapshotInfo { id: SnapshotId::generate(), name: None, branch: of.id, created: Timestamp::now() };
        let record = NewSnapshot { id: info.id, name: None, branch: of.id, epoch, created: info.created };
        let version = self.freeze(&branch, epoch, &Record::PointCreated(record), Moment::One)?;
        self.await_lower(&version);
        let snapshot = Arc::new(Snapshot::new(info.id, version, self.lower.clone()));
        let mut catalog = self.catalog.write();
        catalog.ancestry.note_snapshot(info.id, of.id, epoch);
        catalog.ancestry.hold(info.id);
        catalog.insert_point(info.clone(), snapshot.clone());
        self.note_snapshot(info.id);
        Ok((info, snapshot))
    }

    /// The state that a branch and a state that knows this have in common, or one made of all they have.
    fn merge_base(&self, info: &BranchInfo, theirs: &Knows, progress: &Progress) -> Result<Sight> {
        let found = {
            let catalog = self.catalog.read();
            let mut ours = catalog.ancestry.of_branch(info.id);
            ours.insert(catalog.ancestry.line(info.id), Epoch(u64::MAX));
            catalog.ancestry.common(&ours, theirs)
        };
        let gone = || {
            FsError::Refused(
                "a state that the two have in common is not kept any more: merge them by a patch, or grow a new branch".into(),
            )
        };
        // What was let go of meanwhile is looked for anew.
        self.base_of(found.ok_or_else(gone)?, progress).map_err(|error| match error {
            FsError::Stale => FsError::Contended,
            error => error,
        })
    }

    /// One state made of several: they are merged first. Where they conflict, so will what is merged from there.
    fn base_of(&self, mut states: Vec<SnapshotId>, progress: &Progress) -> Result<Sight> {
        states.sort();
        let mut states = states.into_iter();
        let none = || {
            FsError::Refused(
                "the two have no state in common that is kept: there is nothing to merge from".into(),
            )
        };
        let first = states.next().ok_or_else(none)?;
        let mut base = self.sight_of(first)?;
        let mut known = self.catalog.read().ancestry.of_snapshot(first);
        for next in states {
            let knows = self.catalog.read().ancestry.of_snapshot(next);
            let common = self.catalog.read().ancestry.common(&known, &knows).unwrap_or_default();
            let theirs = self.sight_of(next)?;
            let below = match common.is_empty() {
                // What these have in common is too long ago: where they differ, the merge conflicts.
                true => nothing_of(&base)?,
                false => self.base_of(common, progress)?,
            };
            let labels = Labels { ours: "one".into(), theirs: "other".into() };
            let plan = merge::plan(
                self,
                &Request {
                    base: &below,
                    ours: &base,
                    theirs: &theirs,
                    policy: Policy::Markers,
                    labels: &labels,
                    wanted: &|_| Ok(Wanted::All),
                    whole: None,
                    keeps_times: true,
                    is_base: true,
                    number: &|ino| if ino.0 == 0 { self.fresh_inode() } else { Ok(ino) },
                    progress,
                },
                &compare(&below, &theirs, &|| progress.step())?,
            )?;
            if plan.is_stuck {
                return Err(FsError::Refused(
                    "both have merged what conflicts too often to be merged again: merge them by a patch"
                        .into(),
                ));
            }
            let version = crate::branch::draft_on(&base.version, |draft| merge::emit(&plan, draft))?;
            base = Sight::new(version, self.lower.as_ref());
            learn(&mut known, &knows);
        }
        Ok(base)
    }
}

/// The root alone.
fn nothing_of(sight: &Sight) -> Result<Sight> {
    let root = sight.node(InodeId::ROOT, None)?.ok_or(FsError::Stale)?;
    let body = Body::Directory(Directory::new(InodeId::ROOT));
    let root = Inode { lower: None, homes: Homes::default(), body, ..(*root.inode).clone() };
    Ok(Sight::new(Version::of_root(root), None))
}

pub(super) fn shown(name: &Option<Arc<str>>, id: &dyn std::fmt::Display) -> String {
    name.as_deref().map_or_else(|| id.to_string(), str::to_owned)
}

/// The `.git` directory that a path is, or lies in.
pub fn git_root(path: &[u8]) -> Option<Arc<[u8]>> {
    let mut at = 0;
    for part in path.split(|byte| *byte == b'/') {
        at += part.len();
        if part == b".git" {
            return path.get(..at).map(Arc::from);
        }
        at += 1;
    }
    None
}

/// The `.git` directories that were changed.
fn git_roots(base: &Sight, theirs: &Sight, changes: &[Pair]) -> Result<BTreeSet<Arc<[u8]>>> {
    let mut roots = BTreeSet::new();
    for pair in changes {
        for (sight, node) in [(base, &pair.a), (theirs, &pair.b)] {
            let paths = node.as_ref().map(|node| sight.paths(node)).transpose()?.unwrap_or_default();
            roots.extend(paths.iter().filter_map(|path| git_root(path)));
        }
    }
    Ok(roots)
}

/// What is taken of a change: neither what is in `.git`, nor what is left out.
fn wanted(wish: &MergeWish<'_>, changed: &Changed<'_>, git: &RefCell<BTreeSet<Arc<[u8]>>>) -> Wanted {
    let is_directory =
        |node: &Option<crate::compare::Node>| node.as_ref().is_some_and(|node| node.is_directory());
    let left = |paths: &[Arc<[u8]>], is_directory: bool| {
        paths.iter().any(|path| {
            let root = git_root(path);
            if !wish.with_git {
                git.borrow_mut().extend(root.clone());
            }
            root.is_some() || (wish.left_out)(path, is_directory)
        })
    };
    let was_left = left(&changed.before, is_directory(&changed.pair.a));
    let is_left = left(&changed.after, is_directory(&changed.pair.b));
    match (changed.before.is_empty(), changed.after.is_empty()) {
        (true, _) if is_left => Wanted::Nothing,
        (_, true) if was_left => Wanted::Nothing,
        (false, false) if is_left => Wanted::Nothing,
        (false, false) if was_left => Wanted::After,
        _ => Wanted::All,
    }
}
