//! What an apply has begun, kept in the target until it is finished: replacing or removing one name of a file changes the
//! times of its other names, and removing what is in a directory those of the directory; a run that finishes another must
//! know that nobody else did.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags, Stat, fstat, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::copy::{draft_name, is_directory};

/// How the file's name begins; it is taken for one on its way into place.
const PREFIX: &str = ".agentfs-draft-apply-";

/// Files that have several names, and directories that are to go, as they were found.
pub(super) struct Begun {
    name: String,
    known: HashSet<Known>,
}

/// Inode number, size, and time of the last change of content; of directories the number alone.
type Known = (u64, i64, i64, u64);

fn known(stat: &Stat) -> Known {
    if is_directory(stat) {
        return (stat.st_ino, -1, 0, 0);
    }
    (stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec)
}

impl Begun {
    /// What a run before left in this directory, of the same branch.
    pub(super) fn read(directory: impl AsFd, branch: &str) -> Begun {
        let name = format!("{PREFIX}{branch}");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut text = String::new();
        let opened = openat(directory, &name, flags, Mode::empty()).map(File::from).map_err(io::Error::from);
        // Others who may write here could say what they like, but for root.
        let is_ours =
            |file: &File| fstat(file).is_ok_and(|stat| [0, geteuid().as_raw()].contains(&stat.st_uid));
        let read = match opened {
            Ok(mut file) if is_ours(&file) => file.read_to_string(&mut text).map(drop),
            Ok(_) => Err(Errno::PERM.into()),
            Err(error) => Err(error),
        };
        let parsed = |line: &str| {
            let mut words = line.split(' ');
            Some((
                words.next()?.parse().ok()?,
                words.next()?.parse().ok()?,
                words.next()?.parse().ok()?,
                words.next()?.parse().ok()?,
            ))
        };
        let known = if read.is_ok() { text.lines().filter_map(parsed).collect() } else { HashSet::new() };
        Begun { name, known }
    }

    /// Was a file found so by a run before?
    pub(super) fn has(&self, stat: &Stat) -> bool {
        self.known.contains(&known(stat))
    }

    /// A file is about to lose a name, or a directory what is in it.
    pub(super) fn note(&mut self, stat: &Stat) {
        if stat.st_nlink > 1 || is_directory(stat) {
            self.known.insert(known(stat));
        }
    }

    /// Keeps it, durably.
    pub(super) fn write(&self, directory: impl AsFd) -> io::Result<()> {
        if self.known.is_empty() {
            return Ok(());
        }
        let draft = draft_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&directory, &draft, flags, Mode::RUSR | Mode::WUSR)?);
        for (ino, size, secs, nanos) in &self.known {
            writeln!(file, "{ino} {size} {secs} {nanos}")?;
        }
        fsync(&file)?;
        Ok(renameat(&directory, &draft, &directory, &self.name)?)
    }

    /// All is done.
    pub(super) fn remove(&self, directory: impl AsFd) -> Result<(), Errno> {
        match unlinkat(directory, &self.name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => removed,
        }
    }
}
