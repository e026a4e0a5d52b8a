//! The directory in which an apply prepares what it puts, in the root of what it writes to: so each file is moved to its
//! place in one step. The daemon shows it nowhere. A run that is stopped before it begins to move removes it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use agentfs_proto::names::APPLY_DIRECTORY;
use rustix::fs::{AtFlags, Mode, OFlags, Stat, fstat, fsync, linkat, mkdirat, openat, renameat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::journal::{Journal, VERSION};
use crate::copy::{Place, dress_directory, enter, look, make, names, remove, sync_all};
use crate::failure::Failure;
use crate::output::shown;

/// The file that says what is to be done.
const JOURNAL: &str = "journal";
/// The same, before it is whole.
const DRAFT: &str = "journal.new";

/// The directory.
pub(super) struct Stage<'a> {
    root: BorrowedFd<'a>,
    directory: OwnedFd,
    count: u64,
    /// It stays when it goes out of use: what is in it is needed.
    is_kept: bool,
}

fn place(root: BorrowedFd<'_>) -> Place<'_> {
    Place { directory: root, name: OsStr::new(APPLY_DIRECTORY) }
}

fn cannot(error: Errno) -> Failure {
    Failure::with_errno("the target directory cannot be written to", error)
}

impl<'a> Stage<'a> {
    /// What a run that was killed has left, if it has. Without a journal it goes, unless the run `is_dry`.
    ///
    /// # Errors
    /// When it is another user's, or cannot be read.
    pub(super) fn left(
        root: BorrowedFd<'a>,
        is_dry: bool,
    ) -> Result<Option<(Stage<'a>, Option<Journal>)>, Failure> {
        let Some(stat) = look(place(root)).map_err(cannot)? else { return Ok(None) };
        // What others put there would be moved with our rights.
        if stat.st_uid != geteuid().as_raw() {
            return Err(Failure::new(format!(
                "{APPLY_DIRECTORY} in the target directory is of user {}: have that user finish the apply that was \
                 interrupted, or remove it",
                stat.st_uid
            )));
        }
        let directory = enter(place(root)).map_err(|error| {
            Failure::with_errno(format!("{APPLY_DIRECTORY} in the target directory cannot be opened"), error)
        })?;
        let mut stage = Stage { root, directory, count: 0, is_kept: true };
        let journal = stage.read()?;
        if journal.is_none() {
            stage.check_names()?;
        }
        stage.is_kept = is_dry || journal.is_some();
        Ok(Some((stage, journal)))
    }

    /// A new one.
    ///
    /// # Errors
    /// What the host answers.
    pub(super) fn new(root: BorrowedFd<'a>) -> Result<Stage<'a>, Failure> {
        mkdirat(root, APPLY_DIRECTORY, Mode::RWXU).map_err(cannot)?;
        let directory = enter(place(root)).map_err(cannot)?;
        Ok(Stage { root, directory, count: 0, is_kept: false })
    }

    /// Nobody but an apply may have made what is in it.
    fn check_names(&self) -> Result<(), Failure> {
        let is_ours = |name: &OsString| {
            name == DRAFT || name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        };
        match names(self.directory.as_fd()).map_err(cannot)?.iter().find(|name| !is_ours(name)) {
            None => Ok(()),
            Some(name) => Err(Failure::new(format!(
                "{APPLY_DIRECTORY} in the target directory has {} in it, which no apply made: move it away",
                shown(name.as_bytes())
            ))),
        }
    }

    fn read(&self) -> Result<Option<Journal>, Failure> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.directory, JOURNAL, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            file => file.map_err(cannot)?,
        };
        let is_ours = fstat(&file).is_ok_and(|stat| stat.st_uid == geteuid().as_raw());
        let mut bytes = Vec::new();
        let read = File::from(file).read_to_end(&mut bytes);
        let journal =
            postcard::from_bytes::<(u32, Journal)>(&bytes).ok().filter(|(version, _)| *version == VERSION);
        match journal {
            Some((_, journal)) if is_ours && read.is_ok() => Ok(Some(journal)),
            _ => Err(Failure::new(format!(
                "what is left of an apply that was interrupted cannot be read: finish it with the version that began \
                 it, or remove {APPLY_DIRECTORY} in the target directory"
            ))),
        }
    }

    /// Writes down what is to be done, durably: from now on it is finished, by this run or the next.
    ///
    /// # Errors
    /// What the host answers.
    pub(super) fn write(&mut self, journal: &Journal) -> Result<(), Failure> {
        // What it names is durable before it is.
        sync_all(self.directory.as_fd())?;
        let bytes = postcard::to_extend(&(VERSION, journal), Vec::new())
            .map_err(|error| Failure::new(format!("what is to be done cannot be written down: {error}")))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.directory, DRAFT, flags, Mode::RUSR | Mode::WUSR).map_err(cannot)?;
        let mut file = File::from(file);
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .map_err(|error| Failure::io("the target directory cannot be written to", &error))?;
        renameat(&self.directory, DRAFT, &self.directory, JOURNAL).map_err(cannot)?;
        self.is_kept = true;
        fsync(&self.directory).and_then(|()| fsync(self.root)).map_err(cannot)
    }

    /// A number that no staged file has.
    pub(super) fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Copies a file here. Returns its number and its inode number.
    ///
    /// # Errors
    /// What the host answers.
    pub(super) fn copy(&mut self, source: Place<'_>, stat: &Stat) -> Result<(u64, u64), Errno> {
        let number = self.number();
        let name = Stage::name(number);
        let to = Place { directory: self.directory.as_fd(), name: &name };
        make(source, to, stat)?;
        Ok((number, look(to)?.ok_or(Errno::NOENT)?.st_ino))
    }

    /// Gives a staged file another number.
    ///
    /// # Errors
    /// What the host answers.
    pub(super) fn again(&mut self, staged: u64) -> Result<u64, Errno> {
        let number = self.number();
        let (from, to) = (Stage::name(staged), Stage::name(number));
        linkat(&self.directory, &*from, &self.directory, &*to, AtFlags::empty())?;
        Ok(number)
    }

    /// Makes an empty directory here with the attributes of another. Returns its number.
    ///
    /// # Errors
    /// What the host answers.
    pub(super) fn dress(&mut self, source: BorrowedFd<'_>) -> Result<u64, Errno> {
        let number = self.number();
        let name = Stage::name(number);
        mkdirat(&self.directory, &*name, Mode::RWXU)?;
        let made = enter(Place { directory: self.directory.as_fd(), name: &name })?;
        dress_directory(source, made.as_fd())?;
        Ok(number)
    }

    /// The directory itself.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The name of a staged file.
    pub(super) fn name(number: u64) -> OsString {
        number.to_string().into()
    }

    /// All is done.
    ///
    /// # Errors
    /// What the host answers.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.is_kept = false;
        // Without it nothing here means anything.
        match rustix::fs::unlinkat(&self.directory, JOURNAL, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(cannot(error)),
        }
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            // What cannot be removed now is by the next run.
            let _ = remove(place(self.root));
        }
    }
}
