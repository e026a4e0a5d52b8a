//! The mount point: every process sees its own branch there. Files have a node id in each branch; directories have one
//! for all branches, or `getcwd` fails while others look up the same name. What a directory node means is decided for
//! each request by who asks. A branch whose directory has another mode or owner than that of the others, or is about to
//! be moved or removed, gets a node of its own for it: the kernel keeps one mode a node, and one life.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use agentfs_core::{Attr, FileKind, FsCore, FsError, InodeId, Name, Result, ViewId};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::held::{Held, HeldName};
use super::shared::{Face, Shared, Table};
use super::{Node, NodeId};
use crate::processes::Bindings;

/// The directories at the mount point.
pub(crate) struct PidView {
    pub(super) core: Arc<FsCore>,
    pub(super) bindings: Arc<Bindings>,
    table: RwLock<Table>,
    /// Is there anything in the table?
    pub(super) used: AtomicBool,
    /// Is any of main's directories known by two nodes?
    doubled: AtomicBool,
    /// Open descriptors of directories whose meaning depends on who asks.
    opened: Mutex<HashMap<NodeId, u32>>,
    /// Names that hold mounts.
    held: OnceLock<Held>,
}

impl PidView {
    pub(crate) fn new(core: Arc<FsCore>, bindings: Arc<Bindings>) -> PidView {
        let (table, opened) = (RwLock::default(), Mutex::default());
        PidView {
            core,
            bindings,
            table,
            used: AtomicBool::new(false),
            doubled: AtomicBool::new(false),
            opened,
            held: OnceLock::new(),
        }
    }

    /// From now on names in the volume at `root` on which something is mounted lead everybody to the same node.
    ///
    /// # Errors
    /// When it cannot be told what is mounted.
    pub(crate) fn hold_mounts(&self, root: &Path) -> std::io::Result<()> {
        let held = Held::new(root)?;
        held.refresh(&self.core, true, |_, ino| NodeId::of(ViewId::MAIN, ino));
        let _ = self.held.set(held);
        Ok(())
    }

    /// What a name in a directory of the mount point leads to, if it holds a mount and processes are bound: then branches may
    /// have something else there.
    pub(crate) fn held(&self, parent: NodeId, name: &Name) -> Option<HeldName> {
        let held = self.held.get().filter(|_| self.bindings.any())?;
        held.refresh(&self.core, false, |key, ino| {
            self.read().names.get(key).copied().unwrap_or(NodeId::of(ViewId::MAIN, ino))
        });
        held.get(parent, name)
    }

    /// Returns whether a node is that of a name that holds a mount.
    pub(super) fn is_held(&self, node: NodeId) -> bool {
        self.bindings.any() && self.held.get().is_some_and(|held| held.has_node(node))
    }

    /// Returns whether a thread sees the mounts in the volume.
    pub(crate) fn sees_mounts(&self, tid: u32) -> bool {
        self.held.get().is_some_and(|held| held.is_seen_by(tid))
    }

    /// The kernel is about to be told of a held name, to one who sees the branch of a view and has this directory there.
    pub(crate) fn tell_held(
        &self,
        (parent, name): (NodeId, &Name),
        held: HeldName,
        of: Option<(ViewId, InodeId)>,
    ) {
        if !held.is_directory() {
            self.core.remember(ViewId::MAIN, held.inode);
            return;
        }
        self.used.store(true, Ordering::Release);
        let mut table = self.write();
        if !table.nodes.contains_key(&held.node) {
            let (pins, name) = (HashMap::new(), name.clone());
            let mut shared = Shared { parent, name: name.clone(), face: None, pins, told: 0 };
            shared.told = self.told_in_the_tree(&table, held.inode);
            self.pin(&mut shared, ViewId::MAIN, held.inode);
            table.nodes.insert(held.node, shared);
            table.names.insert((parent, name), held.node);
        }
        if let Some(shared) = table.nodes.get_mut(&held.node) {
            shared.told += 1;
            if let Some((view, ino)) = of {
                self.pin(shared, view, ino);
            }
        }
        if let Node::Tree(view, ino) = held.node.node() {
            self.core.remember(view, ino);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read()
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write()
    }

    /// Has nobody ever seen another branch here? Then all is main's.
    pub(super) fn is_plain(&self) -> bool {
        !self.bindings.any() && !self.used.load(Ordering::Acquire)
    }

    /// Is this a node whose meaning depends on who asks?
    pub(super) fn is_common(&self, node: NodeId) -> bool {
        match node.node() {
            Node::Tree(ViewId::MAIN, ino) => {
                self.core.kind(ViewId::MAIN, ino).map_or(true, |kind| kind == FileKind::Directory)
            }
            Node::Shared(_) | Node::Private(..) => true,
            Node::Tree(..) | Node::Special(..) => false,
        }
    }

    /// The file or directory that a node is to a process or thread.
    ///
    /// # Errors
    /// `NotFound` when its branch has no such directory, `UnknownCaller`, `NotPermitted` for the volume's own nodes.
    pub(crate) fn place(&self, node: NodeId, tid: u32) -> Result<(ViewId, InodeId)> {
        match node.node() {
            Node::Special(..) => Err(FsError::NotPermitted),
            Node::Tree(ViewId::MAIN, ino) if self.is_plain() => Ok((ViewId::MAIN, ino)),
            Node::Tree(view, ino) if !self.is_common(node) => Ok((view, ino)),
            _ => {
                let view = self.bindings.view_of(tid)?;
                Ok((view, self.inode_in(node, view)?))
            }
        }
    }

    /// The inode that a common node is in a branch.
    fn inode_in(&self, node: NodeId, view: ViewId) -> Result<InodeId> {
        if node == NodeId::MOUNT_POINT {
            return Ok(InodeId::ROOT);
        }
        if let Node::Private(own, ino) = node.node()
            && own == view
        {
            return Ok(ino);
        }
        {
            let table = self.read();
            if let Some(pinned) = table.nodes.get(&node).and_then(|shared| shared.pins.get(&view)) {
                return Ok(*pinned);
            }
            if let Node::Tree(_, ino) = node.node()
                && view == ViewId::MAIN
                && !table.nodes.contains_key(&node)
            {
                return Ok(ino);
            }
        }
        // Not looked up in this branch yet, as the directory somebody stood in when it was bound.
        let names = self.names_of(node)?;
        let ino = self.core.find_directory(view, &names)?;
        let mut table = self.write();
        if let Some(shared) = table.nodes.get_mut(&node) {
            self.pin(shared, view, ino);
        }
        Ok(ino)
    }

    /// Where a node lies.
    fn names_of(&self, node: NodeId) -> Result<Vec<Name>> {
        let (mut names, mut at) = (Vec::new(), node);
        let table = self.read();
        while let Some(shared) = table.nodes.get(&at) {
            names.push(shared.name.clone());
            at = shared.parent;
        }
        drop(table);
        let mut path = match at.node() {
            Node::Tree(view, ino) | Node::Private(view, ino) => self.core.directory_path(view, ino)?,
            Node::Shared(_) | Node::Special(..) => return Err(FsError::Stale),
        };
        path.extend(names.into_iter().rev());
        Ok(path)
    }

    fn pin(&self, shared: &mut Shared, view: ViewId, ino: InodeId) {
        if shared.pins.get(&view) != Some(&ino) {
            // It lives as long as somebody may stand in it.
            self.core.remember(view, ino);
            if let Some(before) = shared.pins.insert(view, ino) {
                self.core.forget(view, before, 1);
            }
        }
    }

    /// A node is common no more: all branches but one let go of it.
    pub(super) fn keep_for(&self, shared: &mut Shared, view: ViewId) {
        let (own, others): (HashMap<_, _>, HashMap<_, _>) =
            std::mem::take(&mut shared.pins).into_iter().partition(|(of, _)| *of == view);
        shared.pins = own;
        others.into_iter().for_each(|(of, ino)| self.core.forget(of, ino, 1));
    }

    pub(super) fn face(&self, view: ViewId, attr: &Attr) -> Face {
        let acl = self.core.getxattr(view, attr.ino, b"system.posix_acl_access").ok();
        Face { mode: attr.mode, uid: attr.uid, gid: attr.gid, acl }
    }

    /// The kernel is about to be told of what `name` leads to in `parent`, to one who sees the branch of `view`.
    pub(crate) fn tell(&self, parent: NodeId, name: &Name, view: ViewId, attr: &Attr) -> NodeId {
        let ino = attr.ino;
        let depends = match parent.node() {
            Node::Tree(ViewId::MAIN, _) | Node::Shared(_) => !self.is_plain(),
            Node::Private(..) => true,
            Node::Tree(..) | Node::Special(..) => false,
        };
        if !depends || attr.kind != FileKind::Directory {
            self.core.remember(view, ino);
            return NodeId::of(view, ino);
        }
        self.used.store(true, Ordering::Release);
        let face = self.face(view, attr);
        let mut table = self.write();
        let node = match parent.node() {
            Node::Private(..) => table.own(view, ino),
            _ => self.node_for(&mut table, (parent, name), (view, ino), &face),
        };
        if let Some(shared) = table.nodes.get_mut(&node) {
            shared.told += 1;
        }
        match node.node() {
            Node::Tree(view, ino) => self.core.remember(view, ino),
            Node::Private(view, ino) => {
                self.core.remember(view, ino);
                *table.private.entry((view, ino)).or_insert(0) += 1;
                if view == ViewId::MAIN && self.told_in_the_tree(&table, ino) > 0 {
                    table.doubled.insert(ino);
                }
            }
            Node::Shared(_) | Node::Special(..) => {}
        }
        self.note_doubled(&table);
        node
    }

    /// How often the kernel was told of one of main's directories by main's own node, and has not forgotten it.
    fn told_in_the_tree(&self, table: &Table, ino: InodeId) -> u64 {
        table.nodes.get(&NodeId::of(ViewId::MAIN, ino)).map_or_else(
            || {
                let own = table.private.get(&(ViewId::MAIN, ino)).copied().unwrap_or_default();
                self.core.times_remembered(ViewId::MAIN, ino).saturating_sub(own)
            },
            |shared| shared.told,
        )
    }

    pub(super) fn note_doubled(&self, table: &Table) {
        self.doubled.store(!table.doubled.is_empty(), Ordering::SeqCst);
    }

    /// Is any of main's directories known by two nodes? What is changed under one, the kernel does not know of the other.
    pub(crate) fn is_doubled(&self) -> bool {
        self.doubled.load(Ordering::SeqCst)
    }

    /// The node of a directory: the common one where the branch agrees with the others, or its own.
    fn node_for(
        &self,
        table: &mut Table,
        (parent, name): (NodeId, &Name),
        (view, ino): (ViewId, InodeId),
        face: &Face,
    ) -> NodeId {
        if table.private.contains_key(&(view, ino)) {
            return NodeId::private(view, ino);
        }
        let node = match table.names.get(&(parent, name.clone())) {
            Some(node) => Some(*node),
            None => self.first_node(table, (parent, name), (view, ino), face),
        };
        let Table { nodes, private, .. } = table;
        let agreeing = node.and_then(|node| Some((node, nodes.get_mut(&node)?))).filter(|(_, shared)| {
            // Who stands in what was here before and was moved away goes on to stand in that.
            let stood_in = shared.pins.get(&view).filter(|before| **before != ino);
            // A merge moves without its being told here: what is still there is elsewhere.
            let is_there =
                |before: InodeId| self.core.version(view).is_ok_and(|version| version.get(before).is_some());
            let moved =
                stood_in.is_some_and(|before| private.contains_key(&(view, *before)) || is_there(*before));
            !moved && shared.face.as_ref().is_none_or(|known| known == face)
        });
        match agreeing {
            Some((node, shared)) => {
                shared.face = Some(face.clone());
                self.pin(shared, view, ino);
                node
            }
            None => table.own(view, ino),
        }
    }

    /// A common node for a directory that has none yet: main's, when main has a directory there that agrees. `None` when
    /// main's does not, or is known at another place.
    fn first_node(
        &self,
        table: &mut Table,
        (parent, name): (NodeId, &Name),
        (view, ino): (ViewId, InodeId),
        face: &Face,
    ) -> Option<NodeId> {
        let of_main = match view {
            ViewId::MAIN => Some((ino, face.clone())),
            _ => self.main_directory(table, parent, name),
        };
        let node = match of_main {
            Some((main, of_main)) => {
                let node = NodeId::of(ViewId::MAIN, main);
                if of_main != *face || table.nodes.contains_key(&node) {
                    return None;
                }
                node
            }
            None => {
                table.numbers += 1;
                NodeId::shared(table.numbers)
            }
        };
        let (pins, name) = (HashMap::new(), name.clone());
        let mut shared = Shared { parent, name: name.clone(), face: Some(face.clone()), pins, told: 0 };
        if let Node::Tree(_, main) = node.node() {
            shared.told = self.told_in_the_tree(table, main);
            self.pin(&mut shared, ViewId::MAIN, main);
        }
        table.nodes.insert(node, shared);
        table.names.insert((parent, name), node);
        Some(node)
    }

    /// The directory that main has under a name, when it is not main's alone.
    fn main_directory(&self, table: &Table, parent: NodeId, name: &Name) -> Option<(InodeId, Face)> {
        let dir = match (parent.node(), table.nodes.get(&parent)) {
            (_, Some(shared)) => *shared.pins.get(&ViewId::MAIN)?,
            (Node::Tree(_, dir), None) => dir,
            _ => return None,
        };
        let attr = self.core.lookup(ViewId::MAIN, dir, name).ok().flatten()?;
        let shared =
            attr.kind == FileKind::Directory && !table.private.contains_key(&(ViewId::MAIN, attr.ino));
        shared.then(|| (attr.ino, self.face(ViewId::MAIN, &attr)))
    }

    /// A descriptor of a directory was opened, or closed.
    pub(crate) fn opened(&self, node: NodeId, more: bool) {
        if !matches!(node.node(), Node::Tree(ViewId::MAIN, _) | Node::Shared(_)) {
            return;
        }
        let mut opened = self.opened.lock();
        let count = opened.entry(node).or_insert(0);
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            opened.remove(&node);
        }
    }

    pub(super) fn is_open(&self, node: NodeId) -> bool {
        self.opened.lock().contains_key(&node)
    }

    /// The kernel forgets `times` of what it was told of a node.
    pub(crate) fn forget(&self, node: NodeId, times: u64) {
        let of_main = match node.node() {
            Node::Tree(view, ino) | Node::Private(view, ino) => {
                self.core.forget(view, ino, times);
                (view == ViewId::MAIN).then_some(ino)
            }
            Node::Special(..) | Node::Shared(_) => None,
        };
        if !self.used.load(Ordering::Acquire) || matches!(node.node(), Node::Special(..)) {
            return;
        }
        if let (Node::Tree(..), None) = (node.node(), of_main) {
            return;
        }
        let mut table = self.write();
        if let Node::Private(view, ino) = node.node() {
            table.own_forgotten(view, ino, times);
        }
        if let Some(shared) = table.nodes.get_mut(&node) {
            shared.told = shared.told.saturating_sub(times);
            if shared.told == 0 {
                self.let_go(&mut table, node);
            }
        }
        if let Some(ino) = of_main.filter(|ino| table.doubled.contains(ino))
            && self.told_in_the_tree(&table, ino) == 0
        {
            table.doubled.remove(&ino);
        }
        self.note_doubled(&table);
    }

    /// Lets go of what the kernel has forgotten. To be called now and then.
    pub(crate) fn tend(&self) {
        if self.used.load(Ordering::Acquire) {
            self.write().tend();
        }
    }

    fn let_go(&self, table: &mut Table, node: NodeId) {
        if let Some(shared) = table.nodes.remove(&node) {
            let key = (shared.parent, shared.name);
            if table.names.get(&key) == Some(&node) {
                table.names.remove(&key);
            }
            for (view, ino) in shared.pins {
                self.core.forget(view, ino, 1);
            }
        }
    }

    /// A branch is gone: its index may come to mean another.
    pub(crate) fn forget_branch(&self, view: ViewId) {
        let mut table = self.write();
        table.private.retain(|(of, _), _| *of != view);
        for shared in table.nodes.values_mut() {
            if let Some(ino) = shared.pins.remove(&view) {
                self.core.forget(view, ino, 1);
            }
        }
    }

    /// The nodes by which the kernel may know one of main's directories.
    pub(crate) fn nodes_of_main(&self, ino: InodeId) -> Vec<NodeId> {
        let mut nodes = vec![NodeId::of(ViewId::MAIN, ino)];
        if self.used.load(Ordering::Acquire) {
            nodes.push(NodeId::private(ViewId::MAIN, ino));
            let table = self.read();
            let pinned = |shared: &Shared| shared.pins.get(&ViewId::MAIN) == Some(&ino);
            nodes.extend(table.nodes.iter().filter(|(_, shared)| pinned(shared)).map(|(node, _)| *node));
        }
        nodes
    }
}
