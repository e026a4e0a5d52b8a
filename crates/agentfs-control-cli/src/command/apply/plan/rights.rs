//! Who may write to what is to be changed.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, accessat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::{Dress, Planner, Removal, UNWRITABLE};
use crate::copy::enter_path;

impl Planner<'_> {
    /// All directories in which something is done have to let us; those of our own that do not are opened for the time.
    pub(super) fn check_writable(&mut self) -> Result<(), Errno> {
        let removed = self.plan.in_the_way.iter().chain(&self.plan.removals).map(Removal::path);
        let put = self.plan.puts.iter().map(|put| &*put.path);
        let made = self.plan.directories.iter().map(|made| &*made.path);
        let above: HashSet<PathBuf> =
            removed.chain(put).chain(made).filter_map(Path::parent).map(Path::to_owned).collect();
        for path in above {
            let Some(directory) = enter_path(self.target.root.as_fd(), &path)? else { continue };
            let may = accessat(&directory, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
            if may.is_ok() {
                continue;
            }
            let stat = rustix::fs::fstat(&directory)?;
            if stat.st_uid != geteuid().as_raw() {
                self.refuse(&path, UNWRITABLE);
                continue;
            }
            let is_dressed = self.plan.dresses.iter().any(|dress| dress.path == path);
            let is_removed =
                self.plan.removals.iter().chain(&self.plan.in_the_way).any(|removal| removal.path() == path);
            if !is_dressed && !is_removed {
                let Some((_, own)) = self.in_view(&path)? else { continue };
                self.plan.dresses.push(Dress { path: path.clone(), ino: own.st_ino });
            }
            self.plan.locked.push(path);
        }
        self.plan.locked.sort();
        Ok(())
    }
}
