//! Node ids: the numbers by which the kernel knows inodes, and `st_ino` too. 33 bits of inode below 19 bits of
//! view index and one that says a directory is of the mount point alone: under 2^53, so that a double holds them, and
//! with the same low 32 bits in every branch, so that git's index agrees between branches.

use agentfs_core::{InodeId, ViewId};

const INODE_BITS: u32 = 33;
/// Directories that only processes at the mount point see.
const AT_MOUNT: u64 = 1 << 52;
/// The index that no view has.
const NO_VIEW: u64 = (1 << 19) - 1;

/// A node id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(pub(crate) u64);

/// A node that is no file of a tree. Each view has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    /// `.agentfs`
    DotAgentfs,
    /// `.agentfs/control`
    Control,
    /// `.agentfs/branches`, in the main view only.
    Branches,
    /// `.agentfs/snapshots`, in the main view only.
    Snapshots,
    /// `.agentfs/by-id`, in the main view only.
    ById,
    /// `.agentfs/branches/main`: a link to the mount point, which shows that branch.
    MainLink,
    /// The view's own entry in `.agentfs/branches` or `.agentfs/snapshots`: a link to the directory of its id, which
    /// no renaming moves. A directory can have only one place in the kernel; with two, looking at both fails with ESTALE
    /// while others rename.
    NameLink,
    /// `.agentfs/volume`, in all views but main's: an empty directory that is not listed, on which `branch-exec` mounts
    /// the whole volume for those inside.
    Volume,
}

const SPECIALS: [Special; 8] = [
    Special::DotAgentfs,
    Special::Control,
    Special::Branches,
    Special::Snapshots,
    Special::ById,
    Special::MainLink,
    Special::NameLink,
    Special::Volume,
];

/// The inode numbers from here to `InodeId::FIRST_FREE` are for specials.
const FIRST_SPECIAL: u64 = 2;

/// What a node id means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// A file of a tree, or a directory in the fixed view of one. Of main's view: a directory at the mount point, which
    /// all branches have in common as long as they agree on it.
    Tree(ViewId, InodeId),
    /// A directory at the mount point that a branch has for itself.
    Private(ViewId, InodeId),
    /// A directory at the mount point that main did not have when it was first seen; counted.
    Shared(u64),
    /// One of ours, in a view.
    Special(ViewId, Special),
}

impl Special {
    /// Its number among the inodes of its view.
    pub(crate) fn inode(self) -> InodeId {
        let at = SPECIALS.iter().position(|s| *s == self).unwrap_or_default() as u64;
        InodeId(FIRST_SPECIAL + at)
    }
}

impl NodeId {
    /// The root of the mount, which all branches share.
    pub(crate) const MOUNT_POINT: NodeId = NodeId(InodeId::ROOT.0);

    pub(crate) fn of(view: ViewId, ino: InodeId) -> NodeId {
        NodeId(u64::from(view.0) << INODE_BITS | ino.0)
    }

    pub(crate) fn special(view: ViewId, special: Special) -> NodeId {
        NodeId::of(view, special.inode())
    }

    pub(crate) fn private(view: ViewId, ino: InodeId) -> NodeId {
        NodeId(NodeId::of(view, ino).0 | AT_MOUNT)
    }

    pub(crate) fn shared(number: u64) -> NodeId {
        NodeId(AT_MOUNT | NO_VIEW << INODE_BITS | number)
    }

    pub(crate) fn node(self) -> Node {
        if self.0 & AT_MOUNT != 0 {
            let (view, number) = ((self.0 & !AT_MOUNT) >> INODE_BITS, self.0 & (InodeId::LIMIT - 1));
            return match view {
                NO_VIEW => Node::Shared(number),
                view => Node::Private(ViewId(view as u32), InodeId(number)),
            };
        }
        let view = ViewId((self.0 >> INODE_BITS) as u32);
        let ino = self.0 & (InodeId::LIMIT - 1);
        let special = ino.checked_sub(FIRST_SPECIAL).and_then(|at| SPECIALS.get(at as usize));
        special.map_or(Node::Tree(view, InodeId(ino)), |special| Node::Special(view, *special))
    }
}

impl From<fuser::INodeNo> for NodeId {
    fn from(ino: fuser::INodeNo) -> NodeId {
        NodeId(ino.0)
    }
}

impl From<NodeId> for fuser::INodeNo {
    fn from(node: NodeId) -> fuser::INodeNo {
        fuser::INodeNo(node.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_are_read_back_and_a_double_holds_them() {
        for view in [0, 1, (1 << 19) - 2] {
            let view = ViewId(view);
            for ino in [1, 16, InodeId::LIMIT - 1] {
                let id = NodeId::of(view, InodeId(ino));
                assert_eq!(id.node(), Node::Tree(view, InodeId(ino)));
                let private = NodeId::private(view, InodeId(ino));
                assert_eq!(private.node(), Node::Private(view, InodeId(ino)));
                let shared = NodeId::shared(ino);
                assert_eq!(shared.node(), Node::Shared(ino));
                assert!(id.0.max(private.0).max(shared.0) < 1 << 53);
            }
            for special in SPECIALS {
                assert_eq!(NodeId::special(view, special).node(), Node::Special(view, special));
            }
        }
        assert_eq!(NodeId::of(ViewId::MAIN, InodeId::ROOT), fuser::INodeNo::ROOT.into());
    }

    #[test]
    fn branches_agree_on_the_low_32_bits() {
        let (a, b) = (NodeId::of(ViewId(3), InodeId(77)), NodeId::of(ViewId(90), InodeId(77)));
        assert_eq!(a.0 as u32, b.0 as u32);
    }
}
