//! `apply`: what a branch changes is written out to the directory that the volume lies over, or to another that is as that
//! was. First all is looked at: when something there was changed by somebody else, nothing is written. Then all that is to be
//! put is prepared beside; then what is to be done is written down, and done.

mod commit;
mod journal;
mod plan;
mod reliance;
mod stage;
mod target;

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentfs_proto::record::{TokenEntry, WrittenEntry};
use agentfs_proto::request::{ApplyGate, ApplyNote, ApplyStart, KeepLower};
use agentfs_proto::result::ApplyResult;
use agentfs_proto::{Request, Response};
use rustix::io::Errno;

use self::commit::Outcome;
use self::journal::{FileState, Journal, Note, Source, Step, StoredPath, TICKS_NS};
use self::plan::{Dress, Plan, Planner, Put, Removal};
use self::reliance::Reliances;
use self::stage::Stage;
use self::target::Target;
use super::frozen::{Frozen, find_branch};
use super::job;
use crate::client::{Client, unexpected};
use crate::copy::{Place, Progress, enter_path, failed};
use crate::failure::Failure;
use crate::interrupt;
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
    interrupt::watch()?;
    let Response::Lower(lower) = client.call(Request::Lower)? else { return Err(unexpected()) };
    let target = Target::open(&lower, wish.to)?;
    target.lock()?;
    let found = find_branch(client, wish.branch)?;
    finish_left(client, &target, wish.is_dry)?;
    let branch = output::shown(&found.id);
    if !wish.is_dry {
        // What was changed before the command is known by its time from what is changed after.
        thread::sleep(Duration::from_nanos(TICKS_NS));
    }
    let frozen_ns = now_ns();
    let frozen = Frozen::grown(client, &branch, "apply")?;
    let ignored = if wish.all { Ignored::nothing() } else { Ignored::of(&frozen.view)? };
    let ignored = if wish.with_git { ignored } else { ignored.and_git() };
    let asked = ApplyStart { of: frozen.id.clone() };
    let changes = ApplyResult::decode(&job::run(client, "apply", asked)?).map_err(|_| unexpected())?;
    let view = target::open_directory(&frozen.view)?;
    let reliances = Reliances::new(&changes.relies_on, &changes.shown, changes.since_ns);
    let plan =
        Planner::new(view.as_fd(), &target, &ignored, changes.changes, reliances).plan(&changes.linked)?;
    if !plan.conflicts.is_empty() {
        return Err(refused(wish.branch, &plan.conflicts));
    }
    if !wish.is_dry {
        let outcome = write(client, &target, view.as_fd(), &plan, (&branch, frozen_ns))?;
        if !outcome.skipped.is_empty() {
            return Err(skipped(&outcome.skipped));
        }
    }
    tell_git(client, wish.branch, &ignored);
    let steps = plan.steps.iter().map(|(word, path)| (*word, path.as_os_str().as_bytes()));
    Ok(output::applied(wish.is_dry, &steps.collect::<Vec<_>>()))
}

/// Finishes what a run that was killed has begun.
fn finish_left(client: &Client, target: &Target, is_dry: bool) -> Result<(), Failure> {
    let Some((stage, journal)) = Stage::left(target.root.as_fd(), is_dry)? else { return Ok(()) };
    let Some(journal) = journal else { return Ok(()) }; // nothing was done
    if is_dry {
        return Err(Failure::with_errno(
            "an apply to this directory was interrupted: run apply without --dry-run, which finishes it first",
            Errno::BUSY,
        ));
    }
    let gate = if target.is_lower { Some(Gate::close(client)?) } else { None };
    if target.is_lower {
        // What was grown since relies on what is not done yet.
        keep_paths(client, commit::paths(&journal))?;
    }
    let outcome = commit::commit(target.root.as_fd(), &stage, &journal)?;
    for path in &outcome.skipped {
        let _ = writeln!(
            io::stderr(),
            "left\t{}\tit was changed by somebody else since an apply was interrupted",
            output::shown(path.as_os_str().as_bytes())
        );
    }
    if target.is_lower {
        match note(client, &journal.branch, &outcome) {
            // The branch is gone, or is another volume's.
            Err(failure) if failure.is(Errno::NOENT) => note(client, "", &outcome)?,
            noted => noted?,
        }
    }
    drop(gate);
    stage.finish()
}

/// Writes all of it.
fn write(
    client: &Client,
    target: &Target,
    view: BorrowedFd<'_>,
    plan: &Plan,
    (branch, frozen_ns): (&str, i128),
) -> Result<Outcome, Failure> {
    let root = target.root.as_fd();
    let mut stage = Stage::new(root)?;
    let journal = prepare(&mut stage, view, plan, (branch, frozen_ns))?;
    commit::check(root, &journal)?;
    let gate = if target.is_lower { Some(Gate::close(client)?) } else { None };
    if target.is_lower {
        keep(client, plan)?;
    }
    interrupt::check()?;
    if !journal.steps.is_empty() {
        stage.write(&journal)?;
    }
    let outcome = commit::commit(root, &stage, &journal)?;
    if target.is_lower {
        note(client, branch, &outcome)?;
    }
    drop(gate);
    stage.finish()?;
    Ok(outcome)
}

/// New snapshots and branches wait for it, that they do not rely on some files of before and some of after.
struct Gate<'a>(&'a Client);

impl<'a> Gate<'a> {
    fn close(client: &'a Client) -> Result<Self, Failure> {
        match client.call(ApplyGate { is_closed: true })? {
            Response::ApplyGate(_) => Ok(Self(client)),
            _ => Err(unexpected()),
        }
    }
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        // If it cannot be opened, the end of this process opens it.
        let _ = self.0.call(ApplyGate { is_closed: false });
    }
}

/// Prepares what is to be put, and says what is to be done, in order.
fn prepare(
    stage: &mut Stage<'_>,
    view: BorrowedFd<'_>,
    plan: &Plan,
    (branch, frozen_ns): (&str, i128),
) -> Result<Journal, Failure> {
    let mut progress = Progress::new("prepared");
    let (mut links, mut puts) = (Vec::new(), Vec::new());
    let mut staged = Staged::new(plan);
    for put in &plan.puts {
        interrupt::check()?;
        progress.count(&put.path);
        let (number, ino, link) = staged.put(stage, view, put).map_err(failed(&put.path))?;
        links.extend(link);
        puts.push(Step::Put {
            path: StoredPath::of(&put.path),
            staged: number,
            ino,
            found: put.expected,
            source: Source::of(&put.stat, frozen_ns),
        });
    }
    let mut dresses = Vec::new();
    for Dress { path, ino } in &plan.dresses {
        let source =
            enter_path(view, path).and_then(|source| source.ok_or(Errno::NOENT)).map_err(failed(path))?;
        let staged = stage.dress(source.as_fd()).map_err(failed(path))?;
        let is_new = plan.directories.iter().any(|made| made.path == *path);
        dresses.push(Step::Dress { path: StoredPath::of(path), staged, ino: *ino, is_new });
    }
    progress.finish();
    let removal = |removal: &Removal| match removal {
        Removal::File(path, found) => Step::Remove { path: StoredPath::of(path), found: *found },
        Removal::Directory(path) => Step::RemoveDirectory { path: StoredPath::of(path) },
    };
    let unlocks = plan.locked.iter().map(|path| Step::Unlock { path: StoredPath::of(path) });
    let directories =
        plan.directories.iter().map(|made| Step::MakeDirectory { path: StoredPath::of(&made.path) });
    let steps = links
        .into_iter()
        .chain(unlocks)
        .chain(plan.in_the_way.iter().map(removal))
        .chain(directories)
        .chain(puts)
        .chain(plan.removals.iter().map(removal))
        .chain(dresses)
        .collect();
    let done = plan.done.iter().map(|done| Note::File {
        path: StoredPath::of(&done.path),
        found: done.found,
        source: Source::of(&done.stat, frozen_ns),
    });
    let kept = plan.kept_directories.iter();
    let kept = kept.map(|kept| Note::Directory { path: StoredPath::of(&kept.path), ino: kept.ino });
    let gone = plan.gone.iter().map(|path| Note::Removed { path: StoredPath::of(path) });
    let notes = done.chain(kept).chain(gone).collect();
    let names = plan.linked.values().flatten();
    let linked = names.map(|(path, found)| (StoredPath::of(path), *found)).collect();
    Ok(Journal { branch: branch.into(), steps, notes, linked })
}

/// What was prepared of files that have several names.
struct Staged<'a> {
    /// By their inode numbers in the branch.
    files: HashMap<u64, (u64, u64)>,
    /// What is in the target already, as it is to be.
    done: HashMap<u64, (&'a Path, FileState)>,
    /// What was found in the target at paths from which files get another name.
    found: HashMap<&'a Path, FileState>,
}

impl<'a> Staged<'a> {
    fn new(plan: &'a Plan) -> Self {
        let done = plan.done.iter().filter(|done| done.stat.st_nlink > 1);
        let done = done.map(|done| (done.stat.st_ino, (&*done.path, done.found)));
        let found = plan.linked.values().flatten().map(|(path, found)| (&**path, *found));
        Self { files: HashMap::new(), done: done.collect(), found: found.collect() }
    }

    /// Prepares one file. Returns its number, its inode number and, where it is to get the name first, the step for that.
    fn put(
        &mut self,
        stage: &mut Stage<'_>,
        view: BorrowedFd<'_>,
        put: &Put,
    ) -> Result<(u64, u64, Option<Step>), Errno> {
        let known = self.files.get(&put.stat.st_ino).copied();
        if let Some((staged, ino)) = known.filter(|_| put.stat.st_nlink > 1) {
            return Ok((stage.again(staged)?, ino, None));
        }
        let done = self.done.get(&put.stat.st_ino).filter(|_| put.stat.st_nlink > 1);
        let same = put.from.as_deref().and_then(|from| Some((from, *self.found.get(from)?)));
        if let Some((from, found)) = done.copied().or(same) {
            let (number, from) = (stage.number(), StoredPath::of(from));
            let found = found.linked();
            return Ok((number, found.ino, Some(Step::Link { from, found, staged: number })));
        }
        let above = put.path.parent().unwrap_or(Path::new(""));
        let above = enter_path(view, above)?.ok_or(Errno::NOENT)?;
        let source = Place { directory: above.as_fd(), name: put.path.file_name().unwrap_or_default() };
        let (number, ino) = stage.copy(source, &put.stat)?;
        self.files.insert(put.stat.st_ino, (number, ino));
        Ok((number, ino, None))
    }
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

fn skipped(paths: &[PathBuf]) -> Failure {
    for path in paths {
        let _ = writeln!(
            io::stderr(),
            "left\t{}\tit was changed by somebody else meanwhile",
            output::shown(path.as_os_str().as_bytes())
        );
    }
    Failure::new(format!(
        "{} paths were changed by somebody else meanwhile: all others were written",
        paths.len()
    ))
}

/// Bytes of what is told in one request.
const AT_ONCE: usize = 3000;

/// Lists of as many things as a request takes.
fn batches<T>(all: impl Iterator<Item = T>, len: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut batches, mut room) = (Vec::<Vec<T>>::new(), 0);
    for one in all {
        let len = len(&one);
        match batches.last_mut().filter(|_| len <= room) {
            Some(batch) => batch.push(one),
            None => {
                batches.push(vec![one]);
                room = AT_ONCE;
            }
        }
        room = room.saturating_sub(len);
    }
    batches
}

/// Branches and snapshots that rely on what is about to be changed come to have it themselves.
fn keep(client: &Client, plan: &Plan) -> Result<(), Failure> {
    let removed = plan.in_the_way.iter().chain(&plan.removals).map(Removal::path);
    let replaced = plan.puts.iter().filter(|put| put.expected.is_some()).map(|put| &*put.path);
    let linked = plan.linked.values().flatten().map(|(path, _)| &**path);
    let is_made = |path: &Path| plan.directories.iter().any(|made| made.path == path);
    let dressed = plan.dresses.iter().map(|dress| &*dress.path).filter(|path| !is_made(path));
    let new = plan.new.iter().map(PathBuf::as_path);
    let paths = removed.chain(replaced).chain(linked).chain(dressed).chain(new);
    keep_paths(client, paths.map(Path::to_owned).collect())
}

fn keep_paths(client: &Client, mut paths: Vec<PathBuf>) -> Result<(), Failure> {
    paths.sort();
    paths.dedup();
    let paths = paths.into_iter().filter(|path| !path.as_os_str().is_empty());
    let paths = paths.map(|path| path.into_os_string().into_vec());
    for paths in batches(paths, |path| path.len() + 8) {
        interrupt::check()?;
        match client.call(KeepLower { paths, deep: false })? {
            Response::KeepLower(_) => {}
            _ => return Err(unexpected()),
        }
    }
    Ok(())
}

/// The branch relies on what was written, and whoever relied on what only got other names goes on to.
fn note(client: &Client, branch: &str, outcome: &Outcome) -> Result<(), Failure> {
    let call = |written: Vec<WrittenEntry>, tokens: Vec<TokenEntry>| match client.call(ApplyNote {
        branch: branch.into(),
        written,
        tokens,
    })? {
        Response::ApplyNote(_) => Ok(()),
        _ => Err(unexpected()),
    };
    if !branch.is_empty() {
        for written in batches(outcome.written.iter().cloned(), |entry| entry.path.len() + 64) {
            call(written, Vec::new())?;
        }
    }
    for tokens in batches(outcome.tokens.iter().cloned(), |entry| entry.path.len() + 32) {
        call(Vec::new(), tokens)?;
    }
    Ok(())
}

fn now_ns() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128)
}
