//! The mount point: every process sees its own branch there. Files have a node id in each branch; directories have one
//! for all branches, or `getcwd` fails while others look up the same name. What a directory node means is decided for
//! each request by who asks. A branch whose directory has another mode or owner than that of the others, or is about to
//! be moved or removed, gets a node of its own for it: the kernel keeps one mode a node, and one life.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use agentfs_core::{Attr, FileKind, FsCore, FsError, InodeId, Name, Result, ViewId};

use super::{Node, NodeId};
use crate::processes::Bindings;

/// What the kernel decides permissions by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Face {
    mode: u16,
    uid: u32,
    gid: u32,
    acl: Option<Arc<[u8]>>,
}

/// A directory node that branches share.
struct Shared {
    parent: NodeId,
    name: Name,
    /// `None` when it was changed while nobody was bound: it is that of who looks next.
    face: Option<Face>,
    /// Which inode it is in which branch, as of its last lookup there.
    pins: HashMap<ViewId, InodeId>,
    /// Open descriptors.
    opened: u32,
    /// How often the kernel was told of it; of one that is main's, the core counts.
    told: u64,
}

#[derive(Default)]
struct Table {
    nodes: HashMap<NodeId, Shared>,
    names: HashMap<(NodeId, Name), NodeId>,
    /// Directories that a branch has for itself.
    private: HashSet<(ViewId, InodeId)>,
    numbers: u64,
}

/// What to do with a request that a shared node cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// Carry it out.
    NotNeeded,
    /// Answer ESTALE, once: the kernel looks the path up again, and finds the branch's own node.
    LookUpAgain,
}

/// The directories at the mount point.
pub(crate) struct PidView {
    core: Arc<FsCore>,
    bindings: Arc<Bindings>,
    table: RwLock<Table>,
    /// Is there anything in the table?
    used: AtomicBool,
}

impl PidView {
    pub(crate) fn new(core: Arc<FsCore>, bindings: Arc<Bindings>) -> PidView {
        PidView { core, bindings, table: RwLock::default(), used: AtomicBool::new(false) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has nobody ever seen another branch here? Then all is main's.
    fn is_plain(&self) -> bool {
        !self.bindings.any() && !self.used.load(Ordering::Acquire)
    }

    /// Is this a node whose meaning depends on who asks?
    fn is_common(&self, node: NodeId) -> bool {
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

    /// For a directory that the branch of who asks does not have, and in which a process of it stands all the same, as one
    /// that was removed: somebody's, for its attributes.
    pub(crate) fn stand_in(&self, node: NodeId) -> Option<(ViewId, InodeId)> {
        match node.node() {
            Node::Tree(view, ino) | Node::Private(view, ino) => Some((view, ino)),
            Node::Shared(_) => {
                self.read().nodes.get(&node)?.pins.iter().next().map(|(view, ino)| (*view, *ino))
            }
            Node::Special(..) => None,
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
    fn keep_for(&self, shared: &mut Shared, view: ViewId) {
        let (own, others): (HashMap<_, _>, HashMap<_, _>) =
            std::mem::take(&mut shared.pins).into_iter().partition(|(of, _)| *of == view);
        shared.pins = own;
        others.into_iter().for_each(|(of, ino)| self.core.forget(of, ino, 1));
    }

    fn face(&self, view: ViewId, attr: &Attr) -> Face {
        let acl = self.core.getxattr(view, attr.ino, b"system.posix_acl_access").ok();
        Face { mode: attr.mode, uid: attr.uid, gid: attr.gid, acl }
    }

    /// The kernel is about to be told of what `name` leads to in `parent`, to one who sees the branch of `view`.
    pub(crate) fn tell(&self, parent: NodeId, name: &Name, view: ViewId, attr: &Attr) -> NodeId {
        let ino = attr.ino;
        let common = match parent.node() {
            Node::Tree(ViewId::MAIN, _) | Node::Shared(_) => !self.is_plain(),
            Node::Private(..) if attr.kind == FileKind::Directory => {
                self.core.remember(view, ino);
                return NodeId::private(view, ino);
            }
            Node::Tree(..) | Node::Private(..) | Node::Special(..) => false,
        };
        if !common || attr.kind != FileKind::Directory {
            self.core.remember(view, ino);
            return NodeId::of(view, ino);
        }
        self.used.store(true, Ordering::Release);
        let face = self.face(view, attr);
        let mut table = self.write();
        let node = self.node_for(&mut table, (parent, name), (view, ino), &face);
        match (node.node(), table.nodes.get_mut(&node)) {
            (Node::Shared(_), Some(shared)) => shared.told += 1,
            (Node::Tree(view, ino) | Node::Private(view, ino), _) => self.core.remember(view, ino),
            (Node::Shared(_) | Node::Special(..), _) => {}
        }
        node
    }

    /// The node of a directory: the common one where the branch agrees with the others, or its own.
    fn node_for(
        &self,
        table: &mut Table,
        (parent, name): (NodeId, &Name),
        (view, ino): (ViewId, InodeId),
        face: &Face,
    ) -> NodeId {
        if table.private.contains(&(view, ino)) {
            return NodeId::private(view, ino);
        }
        let node = match table.names.get(&(parent, name.clone())) {
            Some(node) => Some(*node),
            None => self.first_node(table, (parent, name), (view, ino), face),
        };
        let agreeing = node.and_then(|node| Some((node, table.nodes.get_mut(&node)?)));
        match agreeing.filter(|(_, shared)| shared.face.as_ref().is_none_or(|known| known == face)) {
            Some((node, shared)) => {
                shared.face = Some(face.clone());
                self.pin(shared, view, ino);
                node
            }
            None => {
                table.private.insert((view, ino));
                NodeId::private(view, ino)
            }
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
        let mut shared =
            Shared { parent, name: name.clone(), face: Some(face.clone()), pins, opened: 0, told: 0 };
        if let Node::Tree(_, main) = node.node() {
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
        let shared = attr.kind == FileKind::Directory && !table.private.contains(&(ViewId::MAIN, attr.ino));
        shared.then(|| (attr.ino, self.face(ViewId::MAIN, &attr)))
    }

    /// The number that a listing shows for a directory.
    pub(crate) fn listed(&self, parent: NodeId, name: &[u8], view: ViewId, ino: InodeId) -> NodeId {
        match parent.node() {
            Node::Private(..) => return NodeId::private(view, ino),
            Node::Tree(ViewId::MAIN, _) | Node::Shared(_) if !self.is_plain() => {}
            _ => return NodeId::of(view, ino),
        }
        let Ok(name) = Name::new(name) else { return NodeId::of(view, ino) };
        let table = self.read();
        match table.names.get(&(parent, name)) {
            Some(node) if !table.private.contains(&(view, ino)) => *node,
            _ if view == ViewId::MAIN => NodeId::of(view, ino),
            _ => NodeId::private(view, ino),
        }
    }

    /// Before a directory is moved, replaced or removed by who sees the branch of `view`.
    pub(crate) fn split_name(&self, parent: NodeId, view: ViewId, ino: InodeId) -> Split {
        if !matches!(parent.node(), Node::Tree(ViewId::MAIN, _) | Node::Shared(_)) || self.is_plain() {
            return Split::NotNeeded;
        }
        if !self.bindings.any() {
            return Split::NotNeeded;
        }
        self.used.store(true, Ordering::Release);
        if self.write().private.insert((view, ino)) { Split::LookUpAgain } else { Split::NotNeeded }
    }

    /// A directory is gone from a name. A common node that was removed itself is dead to the kernel: it is found under
    /// that name no more.
    pub(crate) fn removed(&self, parent: NodeId, name: &Name, view: ViewId, ino: InodeId) {
        if !self.used.load(Ordering::Acquire) {
            return;
        }
        let mut table = self.write();
        if !table.private.remove(&(view, ino)) {
            table.names.remove(&(parent, name.clone()));
        }
    }

    /// Directories of `view` have moved from one name to the other, and back where two were exchanged. A common node,
    /// moved while nobody was bound, goes along.
    pub(crate) fn moved(
        &self,
        from: ((NodeId, &Name), Option<InodeId>),
        to: ((NodeId, &Name), Option<InodeId>),
        view: ViewId,
    ) {
        if !self.used.load(Ordering::Acquire) {
            return;
        }
        let mut table = self.write();
        let mut take = |((parent, name), ino): ((NodeId, &Name), Option<InodeId>)| {
            let common = ino.filter(|ino| !table.private.contains(&(view, *ino)))?;
            let node = table.names.get(&(parent, name.clone())).copied()?;
            let pinned = table.nodes.get(&node)?.pins.get(&view) == Some(&common);
            pinned.then(|| table.names.remove(&(parent, name.clone())))?
        };
        let (there, back) = (take(from), take(to));
        for (node, (parent, name)) in [(there, to.0), (back, from.0)] {
            let Some((node, shared)) = node.and_then(|node| Some((node, table.nodes.get_mut(&node)?))) else {
                continue;
            };
            (shared.parent, shared.name) = (parent, name.clone());
            // To the others it is where it was, and they find it under another number.
            self.keep_for(shared, view);
            table.names.insert((parent, name.clone()), node);
        }
    }

    /// Before mode, owner or ACL of the directory `node` are changed by who sees the branch of `view`. Of an open
    /// directory that may happen through its descriptor, where nothing would be looked up again.
    pub(crate) fn split_face(&self, node: NodeId, view: ViewId, ino: InodeId) -> Result<Split> {
        if !matches!(node.node(), Node::Tree(ViewId::MAIN, _) | Node::Shared(_)) || self.is_plain() {
            return Ok(Split::NotNeeded);
        }
        if ino == InodeId::ROOT {
            // One node for all, for ever: it has main's mode and owner.
            return if view == ViewId::MAIN { Ok(Split::NotNeeded) } else { Err(FsError::NotPermitted) };
        }
        if !self.is_common(node) {
            return Ok(Split::NotNeeded);
        }
        let mut table = self.write();
        if !self.bindings.any() {
            if let Some(shared) = table.nodes.get_mut(&node) {
                self.keep_for(shared, view);
                shared.face = None;
            }
            return Ok(Split::NotNeeded);
        }
        self.used.store(true, Ordering::Release);
        let first = table.private.insert((view, ino));
        let open = table.nodes.get(&node).is_some_and(|shared| shared.opened > 0);
        Ok(if first && !open { Split::LookUpAgain } else { Split::NotNeeded })
    }

    /// A descriptor of a directory was opened, or closed.
    pub(crate) fn opened(&self, node: NodeId, more: bool) {
        if self.used.load(Ordering::Acquire)
            && let Some(shared) = self.write().nodes.get_mut(&node)
        {
            shared.opened = if more { shared.opened + 1 } else { shared.opened.saturating_sub(1) };
        }
    }

    /// The kernel forgets `times` of what it was told of a node.
    pub(crate) fn forget(&self, node: NodeId, times: u64) {
        let plain = match node.node() {
            Node::Tree(view, ino) | Node::Private(view, ino) => {
                self.core.forget(view, ino, times);
                view != ViewId::MAIN || !self.used.load(Ordering::Acquire)
            }
            Node::Special(..) => true,
            Node::Shared(_) => false,
        };
        if plain {
            return;
        }
        let mut table = self.write();
        let Some(shared) = table.nodes.get_mut(&node) else { return };
        let told = match node.node() {
            // The table itself remembers what it has pinned.
            Node::Tree(view, ino) => {
                let own = u64::from(shared.pins.get(&view) == Some(&ino));
                self.core.times_remembered(view, ino).saturating_sub(own)
            }
            _ => {
                shared.told = shared.told.saturating_sub(times);
                shared.told
            }
        };
        if told == 0 {
            self.let_go(&mut table, node);
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
        table.private.retain(|(of, _)| *of != view);
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
