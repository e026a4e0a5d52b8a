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
use agentfs_proto::request::{Applied, Changes, KeepLower};
use agentfs_proto::{Request, Response};

use self::begun::Begun;
use self::plan::{Action, Planner, Step};
use self::target::Target;
use super::frozen::{Frozen, find_branch};
use crate::client::{Client, all_pages, unexpected};
use crate::copy::{
    Copier, Expected, Place, Progress, changed_meanwhile, dress_directory, enter, enter_path, failed,
    is_directory, look, remove, remove_drafts, sync_all,
};
use crate::failure::Failure;
use crate::left_out::Ignored;
use crate::output::{self, Output};

/// What to apply, and how.
pub(super) struct Wish<'a> {
    pub(super) branch: &'a str,
    pub(super) to: Option<&'a Path>,
    pub(super) is_dry: bool,
    pub(super) with_git: bool,
    pub(super) all: bool,
}

pub(super) fn run(client: &Client, wish: &Wish<'_>) -> Result<Output, Failure> {
    let Response::Lower(lower) = client.call(Request::Lower)? else { return Err(unexpected()) };
    let target = Target::open(&lower, wish.to)?;
    target.lock()?;
    let found = find_branch(client, wish.branch)?;
    let branch = output::shown(&found.id);
    let frozen = Frozen::grown(client, &branch, "apply")?;
    let ignored = if wish.all { Ignored::nothing() } else { Ignored::of(&frozen.view)? };
    let ignored = if wish.with_git { ignored } else { ignored.and_git() };
    let changes: Vec<ChangeEntry> = all_pages(|after| {
        let asked = Changes { of: frozen.id.clone(), after };
        match client.call(asked)? {
            Response::Changes(page) => Ok(page),
            _ => Err(unexpected()),
        }
    })?;
    let view = target::open_directory(&frozen.view)?;
    let begun = Begun::read(&target.root, &branch);
    let mut planner = Planner::new(view.as_fd(), &target, &ignored, &changes, begun);
    planner.is_main = found.parent.is_none();
    for change in &changes {
        let path = PathBuf::from(OsStr::from_bytes(&change.path));
        planner.add(&path, change).map_err(failed(&path))?;
    }
    planner.add_other_names().map_err(failed(Path::new(".")))?;
    planner.sort();
    if !planner.conflicts.is_empty() {
        return Err(refused(wish.branch, &planner.conflicts));
    }
    if !wish.is_dry {
        let cannot = |error| Failure::io("the target directory cannot be written to", &error);
        if target.is_lower {
            keep(client, &planner)?;
        }
        planner.begun.write(&target.root).map_err(cannot)?;
        carry_out(&mut planner, &target, view.as_fd(), &ignored)?;
        if target.is_lower {
            tell(client, (&branch, &frozen.id), &planner)?;
        }
        planner.begun.remove(&target.root).map_err(|error| cannot(error.into()))?;
    }
    tell_git(client, wish.branch, &ignored);
    let steps = planner.steps.iter().map(|step| (step.word(), step.path.as_os_str().as_bytes()));
    Ok(output::applied(wish.is_dry, &steps.collect::<Vec<_>>()))
}

/// What was left out, and how to take it.
fn tell_git(client: &Client, branch: &str, ignored: &Ignored) {
    let volume = client.volume().join(".agentfs/branches").join(branch);
    for git in ignored.left_git() {
        let source = volume.join(git.parent().unwrap_or(Path::new("")));
        let _ = writeln!(
            io::stderr(),
            "left out: {}; to take its commits: git fetch {} where they are to go, or --with-git to write it as it is",
            output::shown(git.as_os_str().as_bytes()),
            output::shown(source.as_os_str().as_bytes())
        );
    }
}

fn refused(branch: &str, conflicts: &[(PathBuf, &str)]) -> Failure {
    for (path, why) in conflicts {
        let _ = writeln!(io::stderr(), "refused\t{}\t{why}", output::shown(path.as_os_str().as_bytes()));
    }
    let count = conflicts.len();
    Failure::new(format!(
        "{count} of the paths that {branch:?} changes cannot be changed: nothing was written"
    ))
}

/// Bytes of paths that fit a request together.
const AT_ONCE: usize = 3000;

/// Paths, as many at a time as a request takes.
fn batches<'a>(paths: impl Iterator<Item = &'a Path>) -> Vec<Vec<Vec<u8>>> {
    let (mut batches, mut room) = (Vec::<Vec<Vec<u8>>>::new(), 0);
    for path in paths {
        let path = path.as_os_str().as_bytes().to_vec();
        let len = path.len() + 8;
        match batches.last_mut().filter(|_| len <= room) {
            Some(batch) => batch.push(path),
            None => {
                batches.push(vec![path]);
                room = AT_ONCE;
            }
        }
        room = room.saturating_sub(len);
    }
    batches
}

/// Branches and snapshots that rely on what is about to be changed come to have it themselves.
fn keep(client: &Client, planner: &Planner<'_>) -> Result<(), Failure> {
    let is_attributes = |step: &&Step| step.action == Action::Attributes;
    let shallow = planner.steps.iter().filter(is_attributes).map(|step| &*step.path);
    let deep = planner.steps.iter().filter(|step| !is_attributes(step)).map(|step| &*step.path);
    let deep = batches(deep.chain(planner.new.iter().map(PathBuf::as_path)));
    let all = batches(shallow).into_iter().map(|paths| (paths, false));
    for (paths, deep) in all.chain(deep.into_iter().map(|paths| (paths, true))) {
        match client.call(KeepLower { paths, deep })? {
            Response::KeepLower(_) => {}
            _ => return Err(unexpected()),
        }
    }
    Ok(())
}

/// The branch relies on what was written.
fn tell(client: &Client, (branch, frozen): (&str, &[u8]), planner: &Planner<'_>) -> Result<(), Failure> {
    let is_put = |step: &&Step| matches!(step.action, Action::Put | Action::Replace);
    let put = planner.steps.iter().filter(is_put).map(|step| &*step.path);
    for paths in batches(put.chain(planner.done.iter().map(PathBuf::as_path))) {
        match client.call(Applied { branch: branch.into(), frozen: frozen.into(), paths })? {
            Response::Applied(_) => {}
            _ => return Err(unexpected()),
        }
    }
    Ok(())
}

/// What is copied from, and to.
struct Places<'a> {
    view: std::os::fd::BorrowedFd<'a>,
    target: &'a Target,
}

/// The directories above a path in both.
type Above = (Option<std::os::fd::OwnedFd>, Option<std::os::fd::OwnedFd>);

impl Places<'_> {
    fn above(&self, path: &Path) -> Result<Above, Failure> {
        let above = path.parent().unwrap_or(Path::new(""));
        let source = enter_path(self.view, above).map_err(failed(path))?;
        let target = enter_path(self.target.root.as_fd(), above).map_err(failed(path))?;
        Ok((source, target))
    }
}

/// Files first, each in its place at once, then what goes, then what is known of directories.
fn carry_out(
    planner: &mut Planner<'_>,
    target: &Target,
    view: std::os::fd::BorrowedFd<'_>,
    ignored: &Ignored,
) -> Result<(), Failure> {
    let root = target.root.try_clone().map_err(|error| Failure::io("too many open files", &error))?;
    let left_out = |path: &Path, is_directory: bool| ignored.has(path, is_directory);
    let mut copier = Copier::new(root, &left_out, true, Progress::new("applied"));
    let places = Places { view, target };
    let steps = std::mem::take(&mut planner.steps);
    // What stands in the way of directories that are put.
    for step in steps.iter().filter(|step| step.action == Action::Replace) {
        take_away(planner, &places, step)?;
    }
    let mut tidied = HashSet::new();
    for step in steps.iter().filter(|step| matches!(step.action, Action::Put | Action::Replace)) {
        let (path, name) = (&*step.path, step.path.file_name().unwrap_or_default());
        let (Some(source), Some(there)) = places.above(path)? else { return Err(changed_meanwhile(path)) };
        if tidied.insert(path.parent()) {
            remove_drafts(there.as_fd()).map_err(failed(path))?;
        }
        let (source, place) =
            (Place { directory: source.as_fd(), name }, Place { directory: there.as_fd(), name });
        let expected = match step.action {
            // It may have been copied with what it is in.
            Action::Replace => Expected::Anything,
            _ => step.expected,
        };
        copier.copy(source, place, path, expected)?;
    }
    for step in steps.iter().rev().filter(|step| step.action == Action::Remove) {
        copier.progress.count(&step.path);
        take_away(planner, &places, step)?;
    }
    for step in steps.iter().rev().filter(|step| step.action == Action::Attributes) {
        let (path, name) = (&*step.path, step.path.file_name().unwrap_or_default());
        let (Some(source), Some(there)) = places.above(path)? else { return Err(changed_meanwhile(path)) };
        let inner = |directory| enter(Place { directory, name }).map_err(failed(path));
        let (source, there) = (inner(source.as_fd())?, inner(there.as_fd())?);
        dress_directory(source.as_fd(), there.as_fd()).map_err(failed(path))?;
    }
    sync_all(copier.root())?;
    copier.progress.finish();
    planner.steps = steps;
    Ok(())
}

/// Removes what is at a path, if it still is what the branch relies on.
fn take_away(planner: &mut Planner<'_>, places: &Places<'_>, step: &Step) -> Result<(), Failure> {
    let (path, name) = (&*step.path, step.path.file_name().unwrap_or_default());
    let (_, Some(there)) = places.above(path)? else { return Ok(()) };
    let place = Place { directory: there.as_fd(), name };
    let Some(stat) = look(place).map_err(failed(path))? else { return Ok(()) };
    let is_as_planned = match is_directory(&stat) {
        true => planner.check_all((place, &stat), path, step.relied).map_err(failed(path))?,
        false => Expected::as_found(Some(&stat)) == step.expected,
    };
    if !is_as_planned {
        return Err(changed_meanwhile(path));
    }
    remove(place).map_err(failed(path))
}
