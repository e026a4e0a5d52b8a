//! What an apply has begun, kept in the target until it is finished: replacing or removing one name of a file changes the
//! times of its other names, and a run that finishes another must know that nobody else did.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags, Stat, fsync, openat, unlinkat};
use rustix::io::Errno;

/// The file; it is taken for one on its way into place.
const FILE: &str = ".agentfs-draft-apply";

/// Files that have several names, as they were found.
#[derive(Default)]
pub(super) struct Begun(HashSet<Known>);

/// Inode number, size, and time of the last change of content.
type Known = (u64, i64, i64, u64);

fn known(stat: &Stat) -> Known {
    (stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec)
}

impl Begun {
    /// What a run before left in this directory.
    pub(super) fn read(directory: impl AsFd) -> Begun {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut text = String::new();
        let read = openat(directory, FILE, flags, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|file| File::from(file).read_to_string(&mut text));
        if read.is_err() {
            return Begun::default();
        }
        let parsed = |line: &str| {
            let mut words = line.split(' ');
            Some((
                words.next()?.parse().ok()?,
                words.next()?.parse().ok()?,
                words.next()?.parse().ok()?,
                words.next()?.parse().ok()?,
            ))
        };
        Begun(text.lines().filter_map(parsed).collect())
    }

    /// Was a file found so by a run before?
    pub(super) fn has(&self, stat: &Stat) -> bool {
        self.0.contains(&known(stat))
    }

    /// A file is about to lose a name.
    pub(super) fn note(&mut self, stat: &Stat) {
        if stat.st_nlink > 1 {
            self.0.insert(known(stat));
        }
    }

    /// Keeps it, durably.
    pub(super) fn write(&self, directory: impl AsFd) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(directory, FILE, flags, Mode::RUSR | Mode::WUSR)?);
        for (ino, size, secs, nanos) in &self.0 {
            writeln!(file, "{ino} {size} {secs} {nanos}")?;
        }
        Ok(fsync(&file)?)
    }

    /// All is done.
    pub(super) fn remove(directory: impl AsFd) -> Result<(), Errno> {
        match unlinkat(directory, FILE, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => removed,
        }
    }
}
