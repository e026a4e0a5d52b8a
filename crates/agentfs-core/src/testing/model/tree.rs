//! One tree of the model. Link counts are not kept but counted; nothing is shared but by inode number.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::overwrite;
use crate::testing::compare::{Answer, Stat};
use crate::testing::dump::{self, Bytes, Dump};
use crate::testing::op::{Path, ROOT_MODE};
use crate::{FileKind, RenameMode, XattrMode};

pub(super) type Ino = u64;
type Name = Vec<u8>;

const ROOT: Ino = 1;
const SGID: u16 = 0o2000;

#[derive(Clone)]
pub(super) struct Tree {
    nodes: BTreeMap<Ino, Node>,
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) mode: u16,
    /// When it was modified; `None` when the clock decided.
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) body: Body,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone)]
pub(super) enum Body {
    File(Vec<u8>),
    Directory(BTreeMap<Name, Ino>),
    Symlink(Vec<u8>),
    Fifo,
}

impl Node {
    fn new(mode: u16, body: Body) -> Node {
        Node { mode, mtime: None, body, xattrs: BTreeMap::new() }
    }

    fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }
}

impl Default for Tree {
    fn default() -> Tree {
        let root = Node::new(ROOT_MODE, Body::Directory(BTreeMap::new()));
        Tree { nodes: BTreeMap::from([(ROOT, root)]) }
    }
}

impl Tree {
    pub(super) fn node(&self, ino: Ino) -> &Node {
        &self.nodes[&ino]
    }

    pub(super) fn node_mut(&mut self, ino: Ino) -> &mut Node {
        self.nodes.get_mut(&ino).expect("the inode lives")
    }

    fn entries(&self, dir: Ino) -> Result<&BTreeMap<Name, Ino>, Errno> {
        match &self.node(dir).body {
            Body::Directory(entries) => Ok(entries),
            Body::File(_) | Body::Symlink(_) | Body::Fifo => Err(Errno::NOTDIR),
        }
    }

    /// The entries of a directory, to change: it is modified by that.
    fn change_entries(&mut self, dir: Ino) -> &mut BTreeMap<Name, Ino> {
        let node = self.node_mut(dir);
        node.mtime = None;
        match &mut node.body {
            Body::Directory(entries) => entries,
            Body::File(_) | Body::Symlink(_) | Body::Fifo => unreachable!("checked to be a directory"),
        }
    }

    /// The directories from the root to the one that holds the last name.
    fn chain(&self, path: &Path) -> Result<Vec<Ino>, Errno> {
        let mut chain = vec![ROOT];
        for name in path.above() {
            let next = *self.entries(chain[chain.len() - 1])?.get(name).ok_or(Errno::NOENT)?;
            chain.push(next);
        }
        self.entries(chain[chain.len() - 1])?;
        Ok(chain)
    }

    /// The directory of the last name, and what that leads to.
    fn place(&self, path: &Path) -> Result<(Ino, Option<Ino>), Errno> {
        let chain = self.chain(path)?;
        let dir = chain[chain.len() - 1];
        Ok((dir, self.entries(dir)?.get(path.last()).copied()))
    }

    pub(super) fn find(&self, path: &Path) -> Result<Ino, Errno> {
        self.place(path)?.1.ok_or(Errno::NOENT)
    }

    /// A regular file, for its content.
    pub(super) fn regular(&self, path: &Path) -> Result<Ino, Errno> {
        let ino = self.find(path)?;
        match self.node(ino).body {
            Body::File(_) => Ok(ino),
            Body::Directory(_) => Err(Errno::ISDIR),
            Body::Symlink(_) | Body::Fifo => Err(Errno::INVAL),
        }
    }

    pub(super) fn create(&mut self, path: &Path, ino: Ino, mode: u16, body: Body) -> Result<(), Errno> {
        let (dir, taken) = self.place(path)?;
        if taken.is_some() {
            return Err(Errno::EXIST);
        }
        let mut node = Node::new(mode, body);
        if node.is_directory() {
            node.mode |= self.node(dir).mode & SGID;
        }
        self.nodes.insert(ino, node);
        self.change_entries(dir).insert(path.last().to_vec(), ino);
        Ok(())
    }

    pub(super) fn link(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let ino = self.find(from)?;
        let (dir, taken) = self.place(to)?;
        if taken.is_some() {
            return Err(Errno::EXIST);
        }
        if self.node(ino).is_directory() {
            return Err(Errno::PERM);
        }
        self.change_entries(dir).insert(to.last().to_vec(), ino);
        Ok(())
    }

    pub(super) fn unlink(&mut self, path: &Path) -> Result<(), Errno> {
        let (dir, found) = self.place(path)?;
        if self.node(found.ok_or(Errno::NOENT)?).is_directory() {
            return Err(Errno::ISDIR);
        }
        self.change_entries(dir).remove(path.last());
        Ok(())
    }

    pub(super) fn rmdir(&mut self, path: &Path) -> Result<(), Errno> {
        let (dir, found) = self.place(path)?;
        if !self.entries(found.ok_or(Errno::NOENT)?)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.change_entries(dir).remove(path.last());
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, mode: RenameMode) -> Result<(), Errno> {
        let (from_chain, to_chain) = (self.chain(from)?, self.chain(to)?);
        let (from_dir, to_dir) = (from_chain[from_chain.len() - 1], to_chain[to_chain.len() - 1]);
        let moved = self.find(from)?;
        let target = self.place(to)?.1;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EXIST),
            (RenameMode::Exchange, None) => return Err(Errno::NOENT),
            _ => {}
        }
        if to_chain.contains(&moved) {
            return Err(Errno::INVAL);
        }
        if target.is_some_and(|target| from_chain.contains(&target)) {
            return Err(if mode == RenameMode::Exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        if target == Some(moved) {
            return Ok(());
        }
        match target {
            Some(target) if mode == RenameMode::Exchange => {
                self.change_entries(from_dir).insert(from.last().to_vec(), target);
            }
            _ => {
                target.map_or(Ok(()), |target| self.check_replaceable(moved, target))?;
                self.change_entries(from_dir).remove(from.last());
            }
        }
        self.change_entries(to_dir).insert(to.last().to_vec(), moved);
        Ok(())
    }

    fn check_replaceable(&self, moved: Ino, target: Ino) -> Result<(), Errno> {
        match (self.node(moved).is_directory(), self.node(target).is_directory()) {
            (true, false) => Err(Errno::NOTDIR),
            (false, true) => Err(Errno::ISDIR),
            (true, true) if !self.entries(target)?.is_empty() => Err(Errno::NOTEMPTY),
            _ => Ok(()),
        }
    }

    fn bytes(&self, ino: Ino) -> &[u8] {
        match &self.node(ino).body {
            Body::File(bytes) => bytes,
            Body::Directory(_) | Body::Symlink(_) | Body::Fifo => {
                unreachable!("checked to be a regular file")
            }
        }
    }

    /// The bytes of a regular file, to change: it is modified by that.
    fn change_bytes(&mut self, ino: Ino) -> &mut Vec<u8> {
        let node = self.node_mut(ino);
        node.mtime = None;
        match &mut node.body {
            Body::File(bytes) => bytes,
            Body::Directory(_) | Body::Symlink(_) | Body::Fifo => {
                unreachable!("checked to be a regular file")
            }
        }
    }

    pub(super) fn write(&mut self, ino: Ino, offset: u32, len: u16, fill: u8) -> Answer {
        if len > 0 {
            overwrite(self.change_bytes(ino), offset, len, fill);
        }
        Answer::Count(usize::from(len))
    }

    pub(super) fn read(&self, ino: Ino, offset: u32, len: u16) -> Answer {
        let bytes = self.bytes(ino);
        let start = bytes.len().min(offset as usize);
        let end = bytes.len().min(start + usize::from(len));
        Answer::Data(bytes[start..end].to_vec())
    }

    pub(super) fn copy(&mut self, from: Ino, from_at: u32, to: Ino, to_at: u32, len: u32) -> Answer {
        let bytes = self.bytes(from);
        let start = bytes.len().min(from_at as usize);
        let copied = bytes[start..bytes.len().min(start.saturating_add(len as usize))].to_vec();
        if !copied.is_empty() {
            let (target, end) = (self.change_bytes(to), to_at as usize + copied.len());
            target.resize(target.len().max(end), 0);
            target[to_at as usize..end].copy_from_slice(&copied);
        }
        Answer::Count(copied.len())
    }

    pub(super) fn resize(&mut self, ino: Ino, size: u32) {
        self.change_bytes(ino).resize(size as usize, 0);
    }

    pub(super) fn punch(&mut self, ino: Ino, offset: u32, len: u32) {
        let bytes = self.change_bytes(ino);
        let start = bytes.len().min(offset as usize);
        let end = bytes.len().min(start + len as usize);
        bytes[start..end].fill(0);
    }

    pub(super) fn allocate(&mut self, ino: Ino, offset: u32, len: u32, keep_size: bool) {
        let bytes = self.change_bytes(ino);
        let end = offset as usize + len as usize;
        if bytes.len() < end && !keep_size {
            bytes.resize(end, 0);
        }
    }

    fn may_have_xattrs(&mut self, path: &Path) -> Result<&mut BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
        let ino = self.find(path)?;
        let node = self.node_mut(ino);
        match node.body {
            Body::File(_) | Body::Directory(_) => Ok(&mut node.xattrs),
            Body::Symlink(_) | Body::Fifo => Err(Errno::PERM),
        }
    }

    pub(super) fn set_xattr(
        &mut self,
        path: &Path,
        name: &[u8],
        value: Vec<u8>,
        mode: XattrMode,
    ) -> Result<(), Errno> {
        let xattrs = self.may_have_xattrs(path)?;
        match (mode, xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(Errno::EXIST),
            (XattrMode::Replace, false) => return Err(Errno::NODATA),
            _ => {}
        }
        xattrs.insert(name.to_vec(), value);
        Ok(())
    }

    pub(super) fn remove_xattr(&mut self, path: &Path, name: &[u8]) -> Result<(), Errno> {
        self.may_have_xattrs(path)?.remove(name).map(|_| ()).ok_or(Errno::NODATA)
    }

    pub(super) fn stat(&self, ino: Ino) -> Stat {
        let node = self.node(ino);
        let names = || {
            self.nodes.values().filter_map(|node| match &node.body {
                Body::Directory(entries) => Some(entries.values()),
                Body::File(_) | Body::Symlink(_) | Body::Fifo => None,
            })
        };
        let (kind, nlink, size) = match &node.body {
            Body::File(bytes) => (FileKind::File, 0, bytes.len()),
            Body::Symlink(target) => (FileKind::Symlink, 0, target.len()),
            Body::Fifo => (FileKind::Fifo, 0, 0),
            Body::Directory(entries) => {
                let inner = entries.values().filter(|child| self.node(**child).is_directory()).count();
                (FileKind::Directory, 2 + inner as u64, 0)
            }
        };
        let counted = || names().flatten().filter(|child| **child == ino).count() as u64;
        let nlink = if nlink == 0 { counted() } else { nlink };
        Stat { kind, mode: node.mode, nlink, size: size as u64 }
    }

    /// Removes what no name leads to, unless it is kept.
    pub(super) fn sweep(&mut self, kept: impl Fn(Ino) -> bool) {
        let mut reached = vec![ROOT];
        let mut at = 0;
        while let Some(ino) = reached.get(at) {
            at += 1;
            if let Body::Directory(entries) = &self.node(*ino).body {
                reached.extend(entries.values());
            }
        }
        self.nodes.retain(|ino, _| reached.contains(ino) || kept(*ino));
    }

    pub(super) fn dump(&self) -> Dump {
        let mut dump = Dump::new();
        self.dump_below(Vec::new(), ROOT, &mut dump);
        dump
    }

    fn dump_below(&self, path: Vec<u8>, ino: Ino, into: &mut Dump) {
        let node = self.node(ino);
        let bytes = match &node.body {
            Body::File(bytes) | Body::Symlink(bytes) => Bytes(bytes.clone()),
            Body::Fifo => Bytes::default(),
            Body::Directory(entries) => {
                for (name, child) in entries {
                    let path = if path.is_empty() { name.clone() } else { [&path[..], b"/", name].concat() };
                    self.dump_below(path, *child, into);
                }
                Bytes::default()
            }
        };
        let xattrs = node.xattrs.iter().map(|(name, value)| (name.clone(), Bytes(value.clone()))).collect();
        into.insert(path, dump::Node { stat: self.stat(ino), ino, bytes, xattrs, mtime: node.mtime });
    }
}
