//! What the kernel sees: node ids, and the directories under `.agentfs` that show branches and snapshots.

mod node_id;
mod synthetic;

pub(crate) use node_id::{Node, NodeId, Special};
pub(crate) use synthetic::Synthetic;

/// The directory in each view's root that leads to the control file. Found by lookup, not listed.
pub(crate) const DOT_AGENTFS: &[u8] = b".agentfs";
