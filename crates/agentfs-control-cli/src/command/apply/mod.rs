//! `apply`: what a branch changes is written out to the directory that the volume lies over, or to another that is as that
//! was. First all is looked at: when something there was changed by somebody else, nothing is written.

mod begun;
mod plan;
mod target;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agentfs_proto::record::ChangeEntry;
use agentfs_proto::request::{Changes, KeepLower};
use agentfs_proto::{Request, Response};

use self::begun::Begun;
use self::plan::{Plan, Planner, Step};
use self::target::Target;
use super::frozen::Frozen;
use crate::client::{Client, all_pages, unexpected};
use crate::copy::{
    Copier, Place, Progress, dress_directory, enter, enter_path, failed, remove, remove_drafts, sync_all,
};
use crate::failure::Failure;
use crate::left_out::Ignored;
use crate::output::{self, Output};

/// What to apply, and how.
pub(super) struct Wish<'a> {
    pub(super) branch: &'a str,
    pub(super) to: Option<&'a Path>,
    pub(super) is_dry: bool,
    pub(super) all: bool,
}

pub(super) fn run(client: &Client, wish: &Wish<'_>) -> Result<Output, Failure> {
    let Response::Lower(lower) = client.call(Request::Lower)? else { return Err(unexpected()) };
    let target = Target::open(&lower, wish.to)?;
    let frozen = Frozen::branch(client, wish.branch, "apply")?;
    let ignored = if wish.all { Ignored::nothing() } else { Ignored::of(&frozen.view)? };
    let plan = plan(client, &frozen, &target, &ignored)?;
    if !plan.conflicts.is_empty() {
        for (path, why) in &plan.conflicts {
            let _ = writeln!(io::stderr(), "refused\t{}\t{why}", output::shown(path.as_os_str().as_bytes()));
        }
        return Err(Failure::new(format!(
            "{} of the paths that {:?} changes were changed by others since: nothing was written",
            plan.conflicts.len(),
            wish.branch
        )));
    }
    if !wish.is_dry {
        if target.is_lower {
            keep(client, &plan)?;
        }
        let cannot = |error| Failure::io("the target directory cannot be written to", &error);
        plan.begun.write(&target.root).map_err(cannot)?;
        carry_out(&plan, &frozen.view, &target, &ignored)?;
        Begun::remove(&target.root).map_err(|error| cannot(error.into()))?;
    }
    let steps = plan.steps.iter().map(|step| (step.word(), step.path().as_os_str().as_bytes()));
    Ok(output::applied(wish.is_dry, &steps.collect::<Vec<_>>()))
}

fn plan(client: &Client, frozen: &Frozen<'_>, target: &Target, ignored: &Ignored) -> Result<Plan, Failure> {
    let changes: Vec<ChangeEntry> = all_pages(|after| {
        let asked = Changes { snapshot: frozen.id.clone(), after };
        match client.call(asked)? {
            Response::Changes(page) => Ok(page),
            _ => Err(unexpected()),
        }
    })?;
    let view = target::open_directory(&frozen.view)?;
    let mut plan = Planner::new(view.as_fd(), target, ignored);
    for change in &changes {
        let path = PathBuf::from(OsStr::from_bytes(&change.path));
        plan.add(&path, change).map_err(failed(&path))?;
    }
    plan.add_other_names().map_err(failed(Path::new(".")))?;
    Ok(plan.finish())
}

/// Bytes of paths that fit a request together.
const AT_ONCE: usize = 3000;

/// Branches that rely on what is about to be changed come to have it themselves.
fn keep(client: &Client, plan: &Plan) -> Result<(), Failure> {
    let mut paths = plan.steps.iter().filter(|step| !matches!(step, Step::Attributes(_))).peekable();
    while paths.peek().is_some() {
        let (mut batch, mut room) = (Vec::new(), AT_ONCE);
        while let Some(step) = paths.next_if(|step| {
            let len = step.path().as_os_str().len() + 8;
            batch.is_empty() || len <= room
        }) {
            let path = step.path().as_os_str().as_bytes().to_vec();
            room = room.saturating_sub(path.len() + 8);
            batch.push(path);
        }
        match client.call(KeepLower { paths: batch })? {
            Response::KeepLower(_) => {}
            _ => return Err(unexpected()),
        }
    }
    Ok(())
}

/// Files first, each in its place at once, then what goes, then what is known of directories.
fn carry_out(plan: &Plan, view: &Path, target: &Target, ignored: &Ignored) -> Result<(), Failure> {
    let view = target::open_directory(view)?;
    let root = target.root.try_clone().map_err(|error| Failure::io("too many open files", &error))?;
    let left_out = |path: &Path, is_directory: bool| ignored.has(path, is_directory);
    let mut copier = Copier::new(root, &left_out, true, Progress::new("applied"));
    let parents = |path: &Path| {
        let above = path.parent().unwrap_or(Path::new(""));
        let source = enter_path(view.as_fd(), above).map_err(failed(path))?;
        let target = enter_path(target.root.as_fd(), above).map_err(failed(path))?;
        Ok::<_, Failure>((source, target))
    };
    let gone = |path: &Path| Failure::new(format!("{} is gone meanwhile", path.display()));
    let mut tidied = HashSet::new();
    for step in &plan.steps {
        let (path, name) = (step.path(), step.path().file_name().unwrap_or_default());
        match step {
            Step::Put(_) | Step::Replace(_) => {
                let (Some(source), Some(there)) = parents(path)? else { return Err(gone(path)) };
                if tidied.insert(path.parent()) {
                    remove_drafts(there.as_fd()).map_err(failed(path))?;
                }
                let place = Place { directory: there.as_fd(), name };
                if matches!(step, Step::Replace(_)) {
                    remove(place).map_err(failed(path))?;
                }
                copier.copy(Place { directory: source.as_fd(), name }, place, path)?;
            }
            Step::Remove(_) | Step::Attributes(_) => {}
        }
    }
    for step in plan.steps.iter().rev() {
        let (path, name) = (step.path(), step.path().file_name().unwrap_or_default());
        match step {
            Step::Remove(_) => {
                copier.progress.count(path);
                if let (_, Some(there)) = parents(path)? {
                    remove(Place { directory: there.as_fd(), name }).map_err(failed(path))?;
                }
            }
            Step::Attributes(_) => {
                let (Some(source), Some(there)) = parents(path)? else { return Err(gone(path)) };
                let inner = |directory| enter(Place { directory, name }).map_err(failed(path));
                let (source, there) = (inner(source.as_fd())?, inner(there.as_fd())?);
                dress_directory(source.as_fd(), there.as_fd()).map_err(failed(path))?;
            }
            Step::Put(_) | Step::Replace(_) => {}
        }
    }
    sync_all(copier.root())?;
    copier.progress.finish();
    Ok(())
}
