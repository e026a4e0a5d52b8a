//! `export` and `import`: whole trees, out of a volume and into it.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use super::frozen::Frozen;
use crate::client::Client;
use crate::copy::{Copier, Progress, enter_path, failed, names, sync_all};
use crate::failure::Failure;
use crate::left_out::Ignored;
use crate::output::{self, Output, shown};

/// What is exported as.
pub(super) enum Form<'a> {
    /// One file, or standard output for `-`.
    Tar(&'a Path),
    /// A directory that is new, or empty, or that an earlier export of the same began.
    Directory(&'a Path),
}

/// Beside a directory that is not complete yet: of what it is.
fn mark_of(to: &Path) -> PathBuf {
    to.with_file_name(format!(".{}.agentfs-export", to.file_name().unwrap_or_default().to_string_lossy()))
}

pub(super) fn export(client: &Client, of: &str, form: &Form<'_>, all: bool) -> Result<Output, Failure> {
    let frozen = Frozen::any(client, of, "export")?;
    let ignored = if all { Ignored::nothing() } else { Ignored::of(&frozen.view)? };
    let count = match form {
        Form::Tar(to) => to_tar(&frozen.view, to, &ignored)?,
        Form::Directory(to) => {
            let to = &begin(to, of)?;
            let count = copy_tree(&frozen.view, to, &ignored, "exported")?;
            fs::remove_file(mark_of(to))
                .map_err(|error| Failure::io("the export cannot be finished", &error))?;
            count
        }
    };
    Ok(output::transferred("EXPORTED", count))
}

pub(super) fn import(client: &Client, from: &Path, branch: &str, all: bool) -> Result<Output, Failure> {
    let ignored = if all { Ignored::nothing() } else { Ignored::of(from)? };
    let view = view_of(client, branch)?;
    let (inside, volume) = (from.canonicalize(), client.volume().canonicalize());
    if let (Ok(inside), Ok(volume)) = (inside, volume)
        && volume.starts_with(&inside)
    {
        return Err(Failure::new(format!("{} contains the volume itself", from.display())));
    }
    let count = copy_tree(from, &view, &ignored, "imported")?;
    Ok(output::transferred("IMPORTED", count))
}

/// The directory that shows a branch.
fn view_of(client: &Client, branch: &str) -> Result<PathBuf, Failure> {
    let view = client.volume().join(".agentfs/branches").join(branch);
    let by_id = client.volume().join(".agentfs/by-id").join(branch);
    let found = [view, by_id].into_iter().find(|view| view.is_dir());
    found.ok_or_else(|| {
        Failure::with_errno(
            format!("no branch that is seen from here is called {branch:?}"),
            rustix::io::Errno::NOENT,
        )
    })
}

/// A directory to export to.
fn begin(to: &Path, of: &str) -> Result<PathBuf, Failure> {
    let cannot = |error| Failure::io(&format!("{} cannot be written to", to.display()), &error);
    fs::create_dir_all(to).map_err(cannot)?;
    let to = to.canonicalize().map_err(cannot)?;
    let mark = mark_of(&to);
    let is_ours = read_own(&mark).is_ok_and(|text| text == of.as_bytes());
    // Written before anything is put there.
    let is_empty = fs::read_dir(&to).map_err(cannot)?.next().is_none();
    if !is_ours && !is_empty {
        return Err(Failure::new(format!(
            "{} is not empty: name a new directory, or one in which an export of {of:?} was interrupted",
            to.display()
        )));
    }
    if is_ours {
        return Ok(to);
    }
    match fs::remove_file(&mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
        _ => {}
    }
    fs::File::create_new(&mark).and_then(|mut file| file.write_all(of.as_bytes())).map_err(cannot)?;
    Ok(to)
}

/// What a file of our own says. Where others may make files, theirs say nothing.
fn read_own(path: &Path) -> io::Result<Vec<u8>> {
    let stat = fs::symlink_metadata(path)?;
    if !stat.is_file() || stat.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    fs::read(path)
}

fn copy_tree(from: &Path, to: &Path, ignored: &Ignored, what: &'static str) -> Result<u64, Failure> {
    let open = |path: &Path| {
        fs::File::open(path)
            .map_err(|error| Failure::io(&format!("{} cannot be opened", path.display()), &error))
    };
    let (source, target) = (open(from)?, open(to)?);
    let left_out =
        |path: &Path, is_directory: bool| path == Path::new(".agentfs") || ignored.has(path, is_directory);
    let root = target.try_clone().map_err(|error| Failure::io("too many open files", &error))?;
    let mut copier = Copier::new(root.into(), &left_out, Progress::new(what));
    copier.directory(source.as_fd(), target.as_fd(), Path::new(""))?;
    sync_all(copier.root())?;
    Ok(copier.progress.finish())
}

/// GNU tar knows holes, attributes and hard links better than any of us.
fn to_tar(view: &Path, to: &Path, ignored: &Ignored) -> Result<u64, Failure> {
    let mut list = Vec::new();
    let root = fs::File::open(view).map_err(|error| Failure::io("the tree cannot be opened", &error))?;
    list_below(root.as_fd(), Path::new(""), ignored, &mut list)?;
    let is_stream = to == Path::new("-");
    let unwritable = |error| Failure::io(&format!("{} cannot be written", to.display()), &error);
    let draft = if is_stream { None } else { Some(draft_beside(to).map_err(unwritable)?) };
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
    }
    let cannot = |error| Failure::io("tar cannot be run: it is needed to write archives", &error);
    let mut child = tar.stdin(Stdio::piped()).spawn().map_err(cannot)?;
    let fed = child.stdin.take().map_or(Ok(()), |mut stdin| {
        list.iter().try_for_each(|path| {
            stdin.write_all(b"./")?;
            stdin.write_all(path.as_os_str().as_bytes())?;
            stdin.write_all(&[0])
        })
    });
    let status = child.wait().map_err(cannot)?;
    if !status.success() || fed.is_err() {
        return Err(Failure::new(format!(
            "tar failed ({status}); {} was not written",
            shown(to.as_os_str().as_bytes())
        )));
    }
    if let Some(draft) = draft {
        let moved = draft.as_file().sync_all().and_then(|()| draft.persist(to).map_err(|error| error.error));
        moved.map_err(|error| Failure::io("the archive cannot be finished", &error))?;
    }
    Ok(list.len() as u64)
}

/// A file that comes into its place when it is complete, and goes with us when it never is. Nobody can guess its name.
fn draft_beside(to: &Path) -> io::Result<NamedTempFile> {
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(".agentfs-draft-")
        .permissions(fs::Permissions::from_mode(0o666)) // as far as the umask allows
        .tempfile_in(directory)
}

fn list_below(
    directory: std::os::fd::BorrowedFd<'_>,
    path: &Path,
    ignored: &Ignored,
    list: &mut Vec<PathBuf>,
) -> Result<(), Failure> {
    for name in names(directory).map_err(failed(path))? {
        let below = path.join(&name);
        let inner = enter_path(directory, Path::new(&name)).map_err(failed(&below))?;
        if ignored.has(&below, inner.is_some()) {
            continue;
        }
        list.push(below.clone());
        if let Some(inner) = inner {
            list_below(inner.as_fd(), &below, ignored, list)?;
        }
    }
    Ok(())
}
