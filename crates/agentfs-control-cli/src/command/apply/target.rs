//! Where changes are applied: the directory that the volume lies over, as the daemon has it, or another.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use agentfs_proto::response::LowerReply;
use rustix::fs::{FlockOperation, Mode, OFlags, Stat, flock, fstat, open};
use rustix::io::Errno;

use crate::copy::{Place, enter_path, look};
use crate::failure::Failure;

/// The two directories; mostly one.
pub(super) struct Target {
    /// What is written to.
    pub(super) root: OwnedFd,
    /// What the volume lies over.
    pub(super) lower: OwnedFd,
    /// Are they one?
    pub(super) is_lower: bool,
}

impl Target {
    /// Nobody else applies anything to it meanwhile.
    ///
    /// # Errors
    /// When somebody does.
    pub(super) fn lock(&self) -> Result<(), Failure> {
        let flags = FlockOperation::NonBlockingLockExclusive;
        let locked = flock(&self.root, flags)
            .and_then(|()| if self.is_lower { Ok(()) } else { flock(&self.lower, flags) });
        locked.map_err(|error| match error {
            Errno::AGAIN => {
                Failure::with_errno("something of this volume is being applied already", Errno::BUSY)
            }
            error => Failure::with_errno("the target directory cannot be locked", error),
        })
    }

    /// What is at a path, and the directory that it is in; `None` when nothing is.
    ///
    /// # Errors
    /// What the host answers.
    pub(super) fn find(&self, path: &Path) -> Result<Option<(OwnedFd, Stat)>, Errno> {
        let Some(name) = path.file_name() else { return Ok(None) };
        let above = enter_path(self.root.as_fd(), path.parent().unwrap_or(Path::new("")))?;
        let Some(above) = above else { return Ok(None) };
        Ok(look(Place { directory: above.as_fd(), name })?.map(|stat| (above, stat)))
    }

    /// The directory that the daemon tells of, or `to`.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub(super) fn open(told: &LowerReply, to: Option<&Path>) -> Result<Target, Failure> {
        // The volume may be mounted over it: then only the daemon has it.
        let place = format!("/proc/{}/fd/{}", told.pid, told.descriptor);
        let lower = open_directory(Path::new(&place))?;
        let stat = fstat(&lower)
            .map_err(|error| Failure::with_errno("the directory below cannot be looked at", error))?;
        if (stat.st_dev, stat.st_ino) != (told.device, told.inode) {
            return Err(Failure::new(
                "the directory below cannot be reached from here: ask where the daemon's processes are seen",
            ));
        }
        let root = open_directory(to.unwrap_or(Path::new(&place)))?;
        let root_stat = fstat(&root)
            .map_err(|error| Failure::with_errno("the target directory cannot be looked at", error))?;
        let is_lower = (stat.st_dev, stat.st_ino) == (root_stat.st_dev, root_stat.st_ino);
        Ok(Target { root, lower, is_lower })
    }
}

/// Opens a directory.
///
/// # Errors
/// One sentence that names it.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|error| {
        Failure::with_errno(format!("the directory {} cannot be opened", path.display()), error)
    })
}
