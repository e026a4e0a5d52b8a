//! `restore`: a branch goes back to a snapshot, all of it or some paths.

use super::carry_out::What;
use super::merge::{Merged, shown};
use crate::branch::Tree;
use crate::compare::{Sight, compare};
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::merge::{self, Labels, Policy, Request, Wanted};
use crate::progress::Progress;
use crate::types::{Deed, Knows};

impl FsCore {
    /// Puts a branch back to a snapshot: all of it, or what lies at these paths. The state before is kept as a snapshot.
    ///
    /// # Errors
    /// `UnknownVersion`, `NotFound` when neither has anything at a path; else as [`FsCore::merge`].
    pub fn restore(
        &self,
        branch: &str,
        from: &str,
        paths: &[Vec<u8>],
        is_dry: bool,
        progress: &Progress,
    ) -> Result<Merged> {
        self.insist(|is_urgent| self.restore_once(branch, from, paths, (is_dry, is_urgent, None), progress))
    }

    pub(super) fn restore_once(
        &self,
        branch: &str,
        from: &str,
        paths: &[Vec<u8>],
        (is_dry, is_urgent, undoes): (bool, bool, Option<Deed>),
        progress: &Progress,
    ) -> Result<Merged> {
        let deed = if undoes.is_some() { Deed::Undone } else { Deed::Restored };
        // A merge that is undone was not: not for those either who have heard of it since.
        let begins_line = undoes == Some(Deed::Merged);
        let (info, branch, source, snapshot, knows) = {
            let catalog = self.catalog.read();
            let (info, branch) = catalog.branch(branch)?;
            let (source, snapshot) = catalog.snapshot(from)?;
            let knows = catalog.ancestry.of_snapshot(source.id);
            (info.clone(), branch.clone(), source.clone(), snapshot.clone(), knows)
        };
        let theirs = Sight::of(&Tree::Snapshot(snapshot), self.lower.as_ref())?;
        let tree = Tree::Branch(branch.clone());
        if !is_dry {
            let now = Sight::of(&tree, self.lower.as_ref())?;
            let changes = match paths {
                [] => compare(&theirs, &now, &|| progress.step())?,
                paths => merge::touched(&theirs, &now, paths, progress)?,
            };
            self.pin(&tree, (&theirs, &now), &changes)?;
        }
        let _hush = (is_urgent && !is_dry).then(|| branch.hush());
        let kept = if is_dry { None } else { Some(self.keep_before(&info, deed)?) };
        let ours = self.sight_as_kept(kept.as_ref(), &tree)?;
        let labels = Labels { ours: shown(&info.name, &info.id), theirs: shown(&source.name, &source.id) };
        let request = Request {
            base: &ours,
            ours: &ours,
            theirs: &theirs,
            policy: Policy::Theirs,
            labels: &labels,
            wanted: &|_| Ok(Wanted::All),
            whole: None,
            keeps_times: true,
            is_base: false,
            number: &|ino| self.number_in(branch.view, ino),
            progress,
        };
        let plan = match paths {
            [] => compare(&ours, &theirs, &|| progress.step())
                .and_then(|changes| merge::plan(self, &request, &changes)),
            paths => merge::plan_paths(self, &request, paths),
        };
        let is_whole = paths.is_empty();
        let known = |mine: Knows| if is_whole { knows } else { mine };
        let what =
            What { deed, source: source.id.0, name: source.name.clone(), state: source.id, begins_line };
        let done =
            plan.and_then(|plan| self.carry_out((&info, &branch), plan, false, kept.as_ref(), what, known));
        let merged = done.inspect_err(|_| self.forget_kept(kept.as_ref()))?;
        Ok(Merged { source: labels.theirs, ..merged })
    }
}
