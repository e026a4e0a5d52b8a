//! A branch's directory gets a node of its own before it is changed in a way that the others must not see.

use std::sync::atomic::Ordering;

use agentfs_core::{Attr, FsError, InodeId, Name, Result, ViewId};

use super::{Node, NodeId, PidView};

/// What to do with a request that a shared node cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// Carry it out.
    NotNeeded,
    /// Answer ESTALE, once: the kernel looks the path up again, and finds the branch's own node.
    LookUpAgain,
}

impl PidView {
    /// Before a directory is moved (`to` another name), replaced or removed by who sees the branch of `view`.
    pub(crate) fn split_name(
        &self,
        (parent, name): (NodeId, &Name),
        to: Option<(NodeId, &Name)>,
        (view, ino): (ViewId, InodeId),
    ) -> Split {
        if !matches!(parent.node(), Node::Tree(ViewId::MAIN, _) | Node::Shared(_)) || self.is_plain() {
            return Split::NotNeeded;
        }
        if !self.bindings.any() {
            return Split::NotNeeded;
        }
        self.used.store(true, Ordering::Release);
        let mut table = self.write();
        // A node that no other branch has goes along, to where there is none of others.
        let is_free = to.is_none_or(|(parent, name)| !table.names.contains_key(&(parent, name.clone())));
        let node =
            table.names.get(&(parent, name.clone())).filter(|node| matches!(node.node(), Node::Shared(_)));
        let alone = |node: &NodeId| {
            let pins = table.nodes.get(node).map(|shared| &shared.pins);
            pins.is_some_and(|pins| pins.len() == 1 && pins.get(&view) == Some(&ino))
        };
        if is_free && node.is_some_and(alone) {
            return Split::NotNeeded;
        }
        if table.split(view, ino) { Split::LookUpAgain } else { Split::NotNeeded }
    }

    /// A directory is gone from a name. A common node that was removed itself is dead to the kernel: it is found under
    /// that name no more.
    pub(crate) fn removed(&self, parent: NodeId, name: &Name, view: ViewId, ino: InodeId) {
        if !self.used.load(Ordering::Acquire) {
            return;
        }
        let mut table = self.write();
        if !table.is_own_no_more(view, ino) {
            table.names.remove(&(parent, name.clone()));
        }
        self.note_doubled(&table);
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
            let common = ino.filter(|ino| !table.private.contains_key(&(view, *ino)))?;
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
        // Asked before the table is locked, which is asked for it.
        let is_held = self.is_held(node);
        let mut table = self.write();
        if !self.bindings.any() {
            if let Some(shared) = table.nodes.get_mut(&node) {
                self.keep_for(shared, view);
                shared.face = None;
            }
            return Ok(Split::NotNeeded);
        }
        self.used.store(true, Ordering::Release);
        // Where no other branch has been seen yet, the node stays, and with it who stands in it.
        let alone = match table.nodes.get_mut(&node) {
            Some(shared) => shared.pins.keys().all(|of| *of == view),
            None => view == ViewId::MAIN,
        };
        if alone {
            return Ok(Split::NotNeeded);
        }
        if is_held {
            return Err(FsError::Busy("something is mounted on it, or in it".into()));
        }
        let first = table.split(view, ino);
        Ok(if first && !self.is_open(node) { Split::LookUpAgain } else { Split::NotNeeded })
    }

    /// Mode, owner or ACL of a directory were changed under `node`.
    pub(crate) fn face_changed(&self, node: NodeId, view: ViewId, attr: &Attr) {
        if !self.used.load(Ordering::Acquire) {
            return;
        }
        let face = self.face(view, attr);
        let mut table = self.write();
        let own = table.private.contains_key(&(view, attr.ino));
        if let Some(shared) = table.nodes.get_mut(&node).filter(|_| !own) {
            shared.face = Some(face);
        }
    }
}
