//! `export` and `import`: whole trees, out of a volume and into it. What is interrupted leaves nothing of itself behind.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use agentfs_proto::record::EventEntry;
use agentfs_proto::request::{Events, ImportBegin};
use agentfs_proto::response::ImportReply;
use agentfs_proto::{Request, Response};
use rustix::fs::{FileType, FlockOperation, flock};
use tempfile::NamedTempFile;

use super::frozen::{Frozen, find_branch, view_of};
use super::job;
use crate::client::{Client, all_pages, unexpected};
use crate::copy::{
    Copier, Place, Progress, enter, failed, is_directory, kind, look, names, remove, sync_all,
};
use crate::failure::Failure;
use crate::interrupt;
use crate::left_out::Ignored;
use crate::output::{self, Output, shown};

/// What is exported as.
pub(super) enum Form<'a> {
    /// One file, or standard output for `-`.
    Tar(&'a Path),
    /// A directory that is new, or empty.
    Directory(&'a Path),
}

pub(super) fn export(client: &Client, of: &str, form: &Form<'_>, all: bool) -> Result<Output, Failure> {
    interrupt::watch()?;
    let frozen = Frozen::any(client, of, "export")?;
    let ignored = if all { Ignored::nothing() } else { Ignored::of(&frozen.view)? };
    match form {
        Form::Tar(to) => {
            let count = to_tar(&frozen.view, to, &ignored)?;
            let told = output::transferred("EXPORTED", count);
            // Standard output is the archive.
            Ok(if *to == Path::new("-") { told.aside() } else { told })
        }
        Form::Directory(to) => {
            check_outside(client, to)?;
            Ok(output::transferred("EXPORTED", to_directory(&frozen.view, to, &ignored)?))
        }
    }
}

/// What the volume lies over shows in what is exported: nothing is exported into that.
fn check_outside(client: &Client, to: &Path) -> Result<(), Failure> {
    let Ok(Response::Lower(lower)) = client.call(Request::Lower) else { return Ok(()) };
    let absolute = std::path::absolute(to)
        .map_err(|error| Failure::io(&format!("{} cannot be found", to.display()), &error))?;
    let is_lower = |path: &Path| {
        fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (lower.device, lower.inode))
    };
    let there = absolute.ancestors().find_map(|above| above.canonicalize().ok());
    if there.iter().flat_map(|there| there.ancestors()).any(is_lower) {
        return Err(Failure::new(format!(
            "{} is in the directory that the volume lies over: name one elsewhere, or write there with apply",
            to.display()
        )));
    }
    Ok(())
}

pub(super) fn import(client: &Client, from: &Path, branch: &str, all: bool) -> Result<Output, Failure> {
    interrupt::watch()?;
    let ignored = if all { Ignored::nothing() } else { Ignored::of(from)? };
    let view = view_of(client, &find_branch(client, branch)?.id)?;
    let (inside, volume) = (from.canonicalize(), client.volume().canonicalize());
    if let (Ok(inside), Ok(volume)) = (inside, volume)
        && volume.starts_with(&inside)
    {
        return Err(Failure::new(format!("{} contains the volume itself", from.display())));
    }
    let Response::ImportBegin(begun) = client.call(ImportBegin { branch: branch.into() })? else {
        return Err(unexpected());
    };
    let copied = copy_tree(from, &view, &ignored, "imported");
    let count = copied.map_err(|failure| take_back(client, &begun, failure))?;
    Ok(output::transferred("IMPORTED", count))
}

/// Puts the branch back to what it was before an import that failed, unless something else was done to it since.
fn take_back(client: &Client, begun: &ImportReply, failure: Failure) -> Failure {
    let is_last = || {
        let events: Vec<EventEntry> = all_pages(|after| match client.call(Events { after })? {
            Response::Events(page) => Ok(page),
            _ => Err(unexpected()),
        })?;
        let last = events.iter().rev().find(|event| !event.is_undone && event.deed != b"undo");
        Ok::<bool, Failure>(last.is_some_and(|last| last.kept.as_ref() == Some(&begun.kept.id)))
    };
    let undone = is_last().and_then(|is_last| match is_last {
        true => job::run_to_its_end(client, "undo", Request::UndoStart).map(|_| true),
        false => Ok(false),
    });
    let kept = begun.kept.name.as_deref().unwrap_or(&begun.kept.id);
    failure.and(match undone {
        Ok(true) => "what was imported was taken back".to_owned(),
        Ok(false) | Err(_) => format!(
            "some of it was imported: restore {} --from {} takes it back",
            shown(&begun.branch),
            shown(kept)
        ),
    })
}

/// Beside a directory: where it is made before it takes that one's place.
fn stage_of(to: &Path) -> Option<PathBuf> {
    let mut name = OsString::from(".");
    name.push(to.file_name()?);
    name.push(".agentfs-export");
    Some(to.with_file_name(name))
}

/// A directory that is being exported to, which goes with this unless it is finished.
struct Stage {
    path: PathBuf,
    directory: fs::File,
    is_finished: bool,
}

impl Stage {
    /// Takes the place of what an export that was killed has left.
    fn new(to: &Path) -> Result<Stage, Failure> {
        let cannot = |error| Failure::io(&format!("{} cannot be written to", to.display()), &error);
        let path = stage_of(to).ok_or_else(|| Failure::new(format!("{} has no name", to.display())))?;
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot(error)),
            // Where others may make files, theirs say nothing.
            Ok(left) if left.is_dir() && left.uid() == rustix::process::geteuid().as_raw() => {
                lock(&open(&path)?, to)?;
                remove_all(&path).map_err(cannot)?;
            }
            Ok(_) => {
                return Err(Failure::new(format!(
                    "{} is in the way, which an export makes and this is not one of yours: remove it",
                    path.display()
                )));
            }
        }
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(cannot)?;
        let directory = open(&path)?;
        lock(&directory, to)?;
        Ok(Stage { path, directory, is_finished: false })
    }

    /// Moves it to its place.
    fn finish(mut self, to: &Path) -> Result<(), Failure> {
        rustix::fs::rename(&self.path, to).map_err(|error| {
            let place = to.display();
            Failure::with_errno(
                format!("{place} cannot be replaced: name a directory that does not exist"),
                error,
            )
        })?;
        self.is_finished = true;
        let above = to.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = fs::File::open(above).and_then(|above| above.sync_all());
        synced.map_err(|error| Failure::io("the export may not be durable", &error))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.is_finished {
            // What cannot be removed now is by the next export to this place.
            let _ = remove_all(&self.path);
        }
    }
}

fn remove_all(path: &Path) -> io::Result<()> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let above = fs::File::open(above)?;
    Ok(remove(Place { directory: above.as_fd(), name: path.file_name().unwrap_or_default() })?)
}

fn open(path: &Path) -> Result<fs::File, Failure> {
    fs::File::open(path).map_err(|error| Failure::io(&format!("{} cannot be opened", path.display()), &error))
}

fn lock(directory: &fs::File, to: &Path) -> Result<(), Failure> {
    flock(directory, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        Failure::with_errno(format!("something is being exported to {}", to.display()), error)
    })
}

/// Copies a tree to a directory that appears when it is complete.
fn to_directory(view: &Path, to: &Path, ignored: &Ignored) -> Result<u64, Failure> {
    let cannot = |error| Failure::io(&format!("{} cannot be written to", to.display()), &error);
    if let Some(above) = to.parent() {
        fs::create_dir_all(above).map_err(cannot)?;
    }
    // One that is there is replaced where it is, whatever link leads there.
    let to = match to.canonicalize() {
        Ok(to) => to,
        Err(error) if error.kind() == io::ErrorKind::NotFound => to.to_owned(),
        Err(error) => return Err(cannot(error)),
    };
    let is_empty = match fs::read_dir(&to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        listed => listed.map_err(cannot)?.next().is_none(),
    };
    if !is_empty {
        return Err(Failure::new(format!("{} is not empty: name a new directory", to.display())));
    }
    let stage = Stage::new(&to)?;
    let count = copy_into(view, &stage.directory, ignored, "exported")?;
    stage.finish(&to)?;
    Ok(count)
}

fn copy_tree(from: &Path, to: &Path, ignored: &Ignored, what: &'static str) -> Result<u64, Failure> {
    copy_into(from, &open(to)?, ignored, what)
}

fn copy_into(from: &Path, target: &fs::File, ignored: &Ignored, what: &'static str) -> Result<u64, Failure> {
    let source = open(from)?;
    let left_out = |path: &Path, is_directory: bool| {
        path == Path::new(agentfs_proto::names::CONTROL_DIRECTORY) || ignored.has_itself(path, is_directory)
    };
    let root = target.try_clone().map_err(|error| Failure::io("too many open files", &error))?;
    let mut copier = Copier::new(root.into(), &left_out, Progress::new(what));
    copier.directory(source.as_fd(), target.as_fd(), Path::new(""))?;
    sync_all(copier.root())?;
    Ok(copier.progress.finish())
}

/// What goes into an archive.
#[derive(Default)]
struct Listed {
    paths: Vec<PathBuf>,
    /// No archive has those.
    sockets: u64,
}

/// Where an archive goes through a link, or into a pipe or device, which stay what they are.
fn reached(to: &Path) -> io::Result<(PathBuf, bool)> {
    let to = if to.is_symlink() { to.canonicalize()? } else { to.to_owned() };
    let kind = match fs::symlink_metadata(&to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((to, true)),
        found => found?.file_type(),
    };
    Ok((to, kind.is_file()))
}

/// GNU tar knows holes, attributes and hard links better than any of us.
fn to_tar(view: &Path, to: &Path, ignored: &Ignored) -> Result<u64, Failure> {
    let mut listed = Listed::default();
    let root = fs::File::open(view).map_err(|error| Failure::io("the tree cannot be opened", &error))?;
    list_below(root.as_fd(), Path::new(""), ignored, &mut listed)?;
    let is_stream = to == Path::new("-");
    let unwritable = |error| Failure::io(&format!("{} cannot be written", to.display()), &error);
    let (reached, is_file) =
        if is_stream { (to.to_owned(), false) } else { reached(to).map_err(unwritable)? };
    let draft = if is_file { Some(draft_beside(&reached).map_err(unwritable)?) } else { None };
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(view).args([
        "--format=posix",
        "--sparse",
        "--acls",
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
    ]);
    // What the time of the run would differ in.
    tar.arg("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime");
    tar.args(["--null", "--no-recursion", "--verbatim-files-from", "-T", "-", "-cf"]);
    tar.arg("-");
    if let Some(draft) = &draft {
        tar.stdout(draft.as_file().try_clone().map_err(unwritable)?);
    } else if !is_stream {
        tar.stdout(fs::OpenOptions::new().write(true).open(&reached).map_err(unwritable)?);
    }
    let cannot = |error| Failure::io("tar cannot be run: it is needed to write archives", &error);
    let mut child = tar.stdin(Stdio::piped()).spawn().map_err(cannot)?;
    let stdin = child.stdin.take();
    let paths = listed.paths.iter();
    let fed = thread::scope(|scope| {
        let feeder = scope.spawn(move || {
            stdin.map_or(Ok(()), |mut stdin| {
                let mut paths = paths;
                paths.try_for_each(|path| {
                    let line = [b"./", path.as_os_str().as_bytes(), &[0]].concat();
                    stdin.write_all(&line)
                })
            })
        });
        let ended = wait(&mut child);
        let fed = feeder.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        ended.map(|is_success| is_success && fed.is_ok())
    });
    if !fed? {
        return Err(Failure::new(format!(
            "tar failed; {} was not written",
            shown(to.as_os_str().as_bytes())
        )));
    }
    if let Some(draft) = draft {
        let moved =
            draft.as_file().sync_all().and_then(|()| draft.persist(&reached).map_err(|error| error.error));
        moved.map_err(|error| Failure::io("the archive cannot be finished", &error))?;
    }
    if listed.sockets > 0 {
        let _ = writeln!(io::stderr(), "left out: {} sockets, which no archive can have", listed.sockets);
    }
    Ok(listed.paths.len() as u64)
}

/// How often a program that runs for us is looked after.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits for a program, and ends it when the command is told to end. Returns whether it succeeded.
fn wait(child: &mut Child) -> Result<bool, Failure> {
    let cannot = |error| Failure::io("tar cannot be waited for", &error);
    loop {
        if let Some(status) = child.try_wait().map_err(cannot)? {
            interrupt::check()?;
            return Ok(status.success());
        }
        if let Err(interrupted) = interrupt::check() {
            let _ = child.kill();
            child.wait().map_err(cannot)?;
            return Err(interrupted);
        }
        thread::sleep(PAUSE);
    }
}

/// A file that comes into its place when it is complete, and goes with us when it never is. Nobody can guess its name. It
/// has the permissions of the one that it replaces.
fn draft_beside(to: &Path) -> io::Result<NamedTempFile> {
    let replaced = fs::metadata(to).map_or(0o666, |found| found.permissions().mode() & 0o777);
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(".agentfs-draft-")
        .permissions(fs::Permissions::from_mode(replaced)) // as far as the umask allows
        .tempfile_in(directory)
}

fn list_below(
    directory: BorrowedFd<'_>,
    path: &Path,
    ignored: &Ignored,
    listed: &mut Listed,
) -> Result<(), Failure> {
    interrupt::check()?;
    for name in names(directory).map_err(failed(path))? {
        let (place, path) = (Place { directory, name: &name }, path.join(&name));
        let Some(stat) = look(place).map_err(failed(&path))? else { continue };
        if ignored.has_itself(&path, is_directory(&stat)) {
            continue;
        }
        if kind(&stat) == FileType::Socket {
            listed.sockets += 1;
            continue;
        }
        listed.paths.push(path.clone());
        if is_directory(&stat) {
            let inner = enter(place).map_err(failed(&path))?;
            list_below(inner.as_fd(), &path, ignored, listed)?;
        }
    }
    Ok(())
}
