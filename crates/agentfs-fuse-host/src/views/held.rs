//! Names that hold a mount: something is mounted on them, or below. The kernel takes a mount away, for everybody, when the
//! name under it leads to another node than it was told of, or to none. So such a name leads every process to the node that
//! it led to when it was mounted on, whatever its branch has there, and is neither removed nor moved.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use agentfs_core::{Attr, FileKind, FsCore, InodeId, Name, ViewId};
use parking_lot::{Mutex, RwLock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::NodeId;

/// Where the kernel tells what is mounted.
const TABLE: &str = "/proc/self/mountinfo";

/// A name in a directory of the mount point.
pub(super) type HeldKey = (NodeId, Name);

/// What a held name leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldName {
    /// The node that the kernel knows it by.
    pub(crate) node: NodeId,
    /// The inode that it is in main.
    pub(crate) inode: InodeId,
    kind: FileKind,
}

impl HeldName {
    /// Returns whether it is a directory.
    pub(crate) fn is_directory(self) -> bool {
        self.kind == FileKind::Directory
    }
}

/// All names that hold mounts.
pub(super) struct Held {
    /// Where the volume is mounted.
    root: PathBuf,
    /// The table, open: it tells when it has changed.
    table: Mutex<File>,
    names: RwLock<HashMap<HeldKey, HeldName>>,
    any: AtomicBool,
    /// The mount namespace of this daemon.
    namespace: u64,
}

impl Held {
    /// For a volume that is mounted at `root`.
    pub(super) fn new(root: &Path) -> std::io::Result<Held> {
        let table = Mutex::new(File::open(TABLE)?);
        let namespace = namespace("self").unwrap_or(0);
        let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let held = Held { root, table, names: RwLock::default(), any: AtomicBool::new(false), namespace };
        Ok(held)
    }

    /// Returns whether a thread sees the mounts that this daemon sees.
    pub(super) fn is_seen_by(&self, tid: u32) -> bool {
        namespace(&tid.to_string()) == Some(self.namespace)
    }

    /// What a name leads to, if it holds a mount.
    pub(super) fn get(&self, parent: NodeId, name: &Name) -> Option<HeldName> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.names.read().get(&(parent, name.clone())).copied()
    }

    /// Returns whether a node is that of a held name.
    pub(super) fn has_node(&self, node: NodeId) -> bool {
        self.any.load(Ordering::Acquire) && self.names.read().values().any(|held| held.node == node)
    }

    /// Looks at the table again if it has changed. `node` is the common node of a directory, by its parent and name, or main's
    /// own.
    pub(super) fn refresh(&self, core: &FsCore, is_first: bool, node: impl Fn(&HeldKey, InodeId) -> NodeId) {
        let table = self.table.lock();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut polled = [PollFd::new(&*table, PollFlags::PRI)];
        let has_changed = poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0);
        if !has_changed && !is_first {
            return;
        }
        let mut names = self.names.write();
        let mut found = HashMap::new();
        for path in self.mounts() {
            let (mut parent, mut dir) = (NodeId::MOUNT_POINT, InodeId::ROOT);
            for name in path.iter().filter_map(|part| Name::new(part.as_bytes()).ok()) {
                let key = (parent, name);
                // What was told last stays, also when main has it no more.
                let held = names.get(&key).copied().or_else(|| {
                    let attr: Attr = core.lookup(ViewId::MAIN, dir, &key.1).ok().flatten()?;
                    let (inode, kind) = (attr.ino, attr.kind);
                    Some(HeldName { node: node(&key, inode), inode, kind })
                });
                let Some(held) = held else { break };
                (parent, dir) = (held.node, held.inode);
                found.insert(key, held);
            }
        }
        *names = found;
        self.any.store(!names.is_empty(), Ordering::Release);
    }

    /// Where something is mounted in the volume, from its root on: by whichever of its mounts, if it is bound elsewhere.
    fn mounts(&self) -> HashSet<PathBuf> {
        let table = fs::read(TABLE).unwrap_or_default();
        let mounts: Vec<Mount<'_>> = table.split(|byte| *byte == b'\n').filter_map(Mount::of).collect();
        let Some(own) = mounts.iter().rev().find(|mount| mount.point == self.root) else {
            return HashSet::new();
        };
        let own: HashMap<&[u8], &Mount<'_>> =
            mounts.iter().filter(|mount| mount.device == own.device).map(|mount| (mount.id, mount)).collect();
        let place = |mount: &Mount<'_>| {
            let on = own.get(mount.parent)?;
            let inner = on.root.join(mount.point.strip_prefix(&on.point).ok()?);
            inner.strip_prefix("/").ok().map(Path::to_owned)
        };
        let within = mounts.iter().filter_map(place);
        within
            .filter(|path| path.components().next().is_some_and(|first| first.as_os_str() != ".agentfs"))
            .collect()
    }
}

/// A line of the table.
struct Mount<'a> {
    id: &'a [u8],
    /// The mount that it lies in.
    parent: &'a [u8],
    device: &'a [u8],
    /// What of the filesystem it shows.
    root: PathBuf,
    point: PathBuf,
}

impl<'a> Mount<'a> {
    fn of(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let (id, parent, device) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self { id, parent, device, root: unescaped(fields.next()?), point: unescaped(fields.next()?) })
    }
}

fn namespace(pid: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/mnt")).ok().map(|namespace| namespace.ino())
}

/// A path as the kernel writes it in its tables: some characters as a backslash and three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let (mut path, mut rest) = (Vec::new(), text);
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        path.push(code.unwrap_or(*first));
        rest = if code.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    std::ffi::OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescaped(br"/a\040b\134c\011"), Path::new("/a b\\c\t"));
        assert_eq!(unescaped(br"/plain\x"), Path::new(r"/plain\x"));
    }
}
