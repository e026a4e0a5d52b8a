//! The files of a dump, on the host.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::Dump;
use crate::types::FileKind;

/// Makes files of a dump. Answers false where this user may not.
pub fn plant(dump: &Dump, at: &Path) -> bool {
    let mut known: HashMap<u64, PathBuf> = HashMap::new();
    let place = |path: &[u8]| match path {
        [] => at.to_owned(),
        path => at.join(std::ffi::OsStr::from_bytes(path)),
    };
    for (path, node) in dump {
        let path = place(path);
        if let Some(other) = known.get(&node.ino) {
            fs::hard_link(other, &path).unwrap();
            continue;
        }
        known.insert(node.ino, path.clone());
        match node.stat.kind {
            FileKind::Directory if path == at => {}
            FileKind::Directory => fs::create_dir(&path).unwrap(),
            FileKind::File => fs::write(&path, &node.bytes.0).unwrap(),
            FileKind::Symlink => {
                rustix::fs::symlinkat(&node.bytes.0[..], CWD, &path).unwrap();
            }
            FileKind::Fifo => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap(),
            other => unreachable!("{other:?}"),
        }
        for (name, value) in &node.xattrs {
            if rustix::fs::setxattr(&path, &name[..], &value.0, XattrFlags::empty()).is_err() {
                return false;
            }
        }
    }
    // What is in a directory changes it: from below up.
    for (path, node) in dump.iter().rev() {
        let path = place(path);
        if node.stat.kind != FileKind::Symlink {
            rustix::fs::chmod(&path, Mode::from_raw_mode(node.stat.mode.into())).unwrap();
        }
        let (secs, nanos) = node.mtime.unwrap();
        let time = Timespec { tv_sec: secs, tv_nsec: nanos.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    true
}
