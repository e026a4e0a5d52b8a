//! What the kernel sees: node ids, and the directories under `.agentfs` that show branches and snapshots.

mod caching;
mod held;
mod listing;
mod node_id;
mod pid_view;
mod shared;
mod splitting;
mod synthetic;

pub(crate) use caching::{Caching, Keep, Ttl};
pub(crate) use held::HeldName;
pub(crate) use listing::ListingNumber;
pub(crate) use node_id::{Node, NodeId, Special};
pub(crate) use pid_view::PidView;
pub(crate) use splitting::Split;
pub(crate) use synthetic::{Found, Synthetic};

/// The directory in each view's root that leads to the control file. Found by lookup, not listed.
pub(crate) const DOT_AGENTFS: &[u8] = b".agentfs";
