//! The specification: what every operation does, in plain maps. A snapshot or branch is a deep copy of a tree.
//! Written from POSIX and the order in which Linux checks; shares no code with what it judges.

mod tree;

use rustix::io::Errno;

use self::tree::{Body, Ino, Tree};
use super::compare::{Answer, Driver, Outcome};
use super::dump::Dump;
use super::op::{
    FileOp, KeptOp, MAX_BRANCHES, MAX_SNAPSHOTS, Op, Path, Place, SLOTS, TARGETS, VolumeOp, XATTRS, pattern,
    pick,
};

/// The reference model of a volume.
#[derive(Clone)]
pub struct Model {
    branches: Vec<Line>,
    snapshots: Vec<Line>,
    slots: [Option<Kept>; SLOTS],
    next_line: u64,
    next_inode: Ino,
}

/// A branch or snapshot. Ids are never given again; `grew_from` may name one that is gone.
#[derive(Clone)]
struct Line {
    id: u64,
    grew_from: u64,
    tree: Tree,
}

/// A file kept open.
#[derive(Clone, Copy)]
struct Kept {
    line: u64,
    ino: Ino,
    writable: bool,
}

impl Default for Model {
    fn default() -> Model {
        Model::new()
    }
}

impl Model {
    /// A new volume: the branch `main` with an empty root.
    pub fn new() -> Model {
        let main = Line { id: 1, grew_from: 0, tree: Tree::default() };
        Model {
            branches: vec![main],
            snapshots: Vec::new(),
            slots: [None; SLOTS],
            next_line: 2,
            next_inode: 2,
        }
    }

    fn line(&mut self, place: Place) -> Result<&mut Line, Errno> {
        let (lines, index) = match place {
            Place::Branch(index) => (&mut self.branches, index),
            Place::Snapshot(index) => (&mut self.snapshots, index),
        };
        let at = pick(index, lines.len()).ok_or(Errno::NOENT)?;
        Ok(&mut lines[at])
    }

    fn tree_of(&mut self, line: u64) -> &mut Tree {
        let mut lines = self.branches.iter_mut().chain(&mut self.snapshots);
        &mut lines.find(|known| known.id == line).expect("a kept file keeps its tree alive").tree
    }

    /// Lets go of inodes without a name that no slot keeps.
    fn sweep(&mut self) {
        for line in &mut self.branches {
            let kept =
                |ino: Ino| self.slots.iter().flatten().any(|kept| (kept.line, kept.ino) == (line.id, ino));
            line.tree.sweep(kept);
        }
    }

    fn file_op(&mut self, place: Place, op: &FileOp) -> Outcome {
        let fresh = self.next_inode;
        self.next_inode += 1;
        let tree = &mut self.line(place)?.tree;
        match place {
            Place::Branch(_) => change(tree, op, fresh),
            Place::Snapshot(_) => look(tree, op),
        }
    }

    fn kept_op(&mut self, slot: u8, op: &KeptOp) -> Outcome {
        let slot = usize::from(slot) % SLOTS;
        if let KeptOp::Open(place, path) = op {
            self.slots[slot] = None;
            let writable = matches!(place, Place::Branch(_));
            let line = self.line(*place)?;
            let ino = line.tree.regular(path)?;
            self.slots[slot] = Some(Kept { line: line.id, ino, writable });
            return Ok(Answer::Done);
        }
        let Kept { line, ino, writable } = self.slots[slot].ok_or(Errno::BADF)?;
        let tree = self.tree_of(line);
        match op {
            KeptOp::Open(..) => {}
            KeptOp::Write(..) if !writable => return Err(Errno::BADF),
            KeptOp::Truncate(_) if !writable => return Err(Errno::INVAL),
            KeptOp::Write(offset, len, fill) => return Ok(tree.write(ino, *offset, *len, *fill)),
            KeptOp::Read(offset, len) => return Ok(tree.read(ino, *offset, *len)),
            KeptOp::Truncate(size) => tree.resize(ino, *size),
            KeptOp::Stat => return Ok(Answer::Stat(tree.stat(ino))),
            KeptOp::Close => self.slots[slot] = None,
        }
        Ok(Answer::Done)
    }

    fn volume_op(&mut self, op: &VolumeOp) -> Result<(), Errno> {
        match op {
            VolumeOp::Snapshot(branch) => {
                let copy = self.copy(Place::Branch(*branch), self.snapshots.len() < MAX_SNAPSHOTS)?;
                self.snapshots.push(copy);
            }
            VolumeOp::Branch(from) => {
                let copy = self.copy(*from, self.branches.len() < MAX_BRANCHES)?;
                self.branches.push(copy);
            }
            VolumeOp::DeleteBranch(branch, force) => {
                let at = pick(*branch, self.branches.len()).ok_or(Errno::NOENT)?;
                self.check_branch_unused(at, *force)?;
                self.branches.remove(at);
            }
            VolumeOp::DeleteSnapshot(snapshot) => {
                let at = pick(*snapshot, self.snapshots.len()).ok_or(Errno::NOENT)?;
                let id = self.snapshots[at].id;
                if self.is_open(id) || self.branches.iter().any(|line| line.grew_from == id) {
                    return Err(Errno::BUSY);
                }
                self.snapshots.remove(at);
            }
        }
        Ok(())
    }

    /// A deep copy, under a new id, of what has names.
    fn copy(&mut self, from: Place, has_room: bool) -> Result<Line, Errno> {
        let id = self.next_line;
        let line = self.line(from)?;
        if !has_room {
            return Err(Errno::NOSPC);
        }
        let mut copy = Line { id, grew_from: line.id, tree: line.tree.clone() };
        copy.tree.sweep(|_| false);
        self.next_line += 1;
        Ok(copy)
    }

    fn check_branch_unused(&self, at: usize, force: bool) -> Result<(), Errno> {
        let id = self.branches[at].id;
        if at == 0 {
            return Err(Errno::PERM);
        }
        let grown = self.branches.iter().chain(&self.snapshots).any(|line| line.grew_from == id);
        if self.is_open(id) || (grown && !force) { Err(Errno::BUSY) } else { Ok(()) }
    }

    fn is_open(&self, line: u64) -> bool {
        self.slots.iter().flatten().any(|kept| kept.line == line)
    }
}

impl Driver for Model {
    fn apply(&mut self, op: &Op) -> Outcome {
        let outcome = match op {
            Op::File(place, op) => self.file_op(*place, op),
            Op::Kept(slot, op) => self.kept_op(*slot, op),
            Op::Volume(op) => self.volume_op(op).map(|()| Answer::Done),
        };
        self.sweep();
        outcome
    }

    fn branches(&self) -> usize {
        self.branches.len()
    }

    fn snapshots(&self) -> usize {
        self.snapshots.len()
    }

    fn dump_branch(&mut self, index: usize) -> Dump {
        self.branches[index].tree.dump()
    }

    fn dump_snapshot(&mut self, index: usize) -> Dump {
        self.snapshots[index].tree.dump()
    }

    fn close(&mut self) {
        self.slots = [None; SLOTS];
        self.sweep();
    }
}

/// An operation in a branch. `fresh` is the number of an inode it may make.
fn change(tree: &mut Tree, op: &FileOp, fresh: Ino) -> Outcome {
    match op {
        FileOp::CreateFile(path, mode) => tree.create(path, fresh, *mode, Body::File(Vec::new()))?,
        FileOp::Mkdir(path, mode) => tree.create(path, fresh, *mode, Body::Directory(Default::default()))?,
        FileOp::Mkfifo(path, mode) => tree.create(path, fresh, *mode, Body::Fifo)?,
        FileOp::Symlink(path, target) => {
            let target = TARGETS[usize::from(*target) % TARGETS.len()].to_vec();
            tree.create(path, fresh, 0o777, Body::Symlink(target))?;
        }
        FileOp::Link(from, to) => tree.link(from, to)?,
        FileOp::Unlink(path) => tree.unlink(path)?,
        FileOp::Rmdir(path) => tree.rmdir(path)?,
        FileOp::Rename(from, to, mode) => tree.rename(from, to, *mode)?,
        FileOp::Write { .. }
        | FileOp::Copy { .. }
        | FileOp::Truncate(..)
        | FileOp::OpenTruncate(..)
        | FileOp::Punch(..)
        | FileOp::Allocate { .. } => return change_content(tree, op),
        FileOp::Chmod(path, mode) => {
            let ino = may_chmod(tree, path)?;
            tree.node_mut(ino).mode = *mode;
        }
        FileOp::SetTimes(path, secs, nanos) => {
            let ino = tree.find(path)?;
            tree.node_mut(ino).mtime = Some((*secs, *nanos));
        }
        FileOp::SetXattr { path, name, len, fill, mode } => {
            tree.set_xattr(path, xattr(*name), vec![*fill; usize::from(*len)], *mode)?;
        }
        FileOp::RemoveXattr(path, name) => tree.remove_xattr(path, xattr(*name))?,
        FileOp::Fsync(path) => drop(tree.regular(path)?),
        FileOp::Read { .. } | FileOp::Readlink(_) | FileOp::Stat(_) => return look(tree, op),
    }
    Ok(Answer::Done)
}

fn change_content(tree: &mut Tree, op: &FileOp) -> Outcome {
    match op {
        FileOp::Write { path, offset, len, fill } => {
            let ino = tree.regular(path)?;
            return Ok(tree.write(ino, *offset, *len, *fill));
        }
        FileOp::Copy { from, from_at, to, to_at, len } => {
            let (from, to) = (tree.regular(from)?, tree.regular(to)?);
            if from == to {
                return Err(Errno::INVAL);
            }
            return Ok(tree.copy(from, *from_at, to, *to_at, *len));
        }
        FileOp::OpenTruncate(path, len, fill) => {
            let ino = tree.regular(path)?;
            tree.resize(ino, 0);
            return Ok(tree.write(ino, 0, *len, *fill));
        }
        FileOp::Truncate(path, size) => {
            let ino = tree.regular(path)?;
            tree.resize(ino, *size);
        }
        FileOp::Punch(path, offset, len) => {
            let ino = tree.regular(path)?;
            tree.punch(ino, *offset, *len);
        }
        FileOp::Allocate { path, offset, len, keep_size } => {
            let ino = tree.regular(path)?;
            tree.allocate(ino, *offset, *len, *keep_size);
        }
        other => unreachable!("{other:?} does not change content"),
    }
    Ok(Answer::Done)
}

/// An operation that changes nothing, or is refused because it would.
fn look(tree: &mut Tree, op: &FileOp) -> Outcome {
    match op {
        FileOp::Read { path, offset, len } => {
            let ino = tree.regular(path)?;
            Ok(tree.read(ino, *offset, *len))
        }
        FileOp::Stat(path) => Ok(Answer::Stat(tree.stat(tree.find(path)?))),
        FileOp::Readlink(path) => match &tree.node(tree.find(path)?).body {
            Body::Symlink(target) => Ok(Answer::Data(target.clone())),
            Body::File(_) | Body::Directory(_) | Body::Fifo => Err(Errno::INVAL),
        },
        FileOp::Write { path, .. } => tree.regular(path).and(Err(Errno::ROFS)),
        FileOp::Chmod(path, _) => may_chmod(tree, path).and(Err(Errno::ROFS)),
        other => unreachable!("{other:?} is not asked for in a snapshot"),
    }
}

fn may_chmod(tree: &Tree, path: &Path) -> Result<Ino, Errno> {
    let ino = tree.find(path)?;
    if matches!(tree.node(ino).body, Body::Symlink(_)) { Err(Errno::OPNOTSUPP) } else { Ok(ino) }
}

fn xattr(index: u8) -> &'static [u8] {
    XATTRS[usize::from(index) % XATTRS.len()]
}

/// The bytes of a write, placed in what a file holds.
fn overwrite(bytes: &mut Vec<u8>, offset: u32, len: u16, fill: u8) {
    let (start, len) = (offset as usize, usize::from(len));
    let end = start + len;
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(&pattern(fill, u64::from(offset), len));
}
