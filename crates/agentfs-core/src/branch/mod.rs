//! Which version: branches that change, snapshots that do not, and the catalogue of both.

mod ancestry;
#[expect(clippy::module_inception, reason = "the module's main type")]
mod branch;
mod catalog;
mod draft;
mod lower;
mod paged;
mod pager;
#[cfg_attr(agentfs_schedules, path = "../../../agentfs-schedules/src/quiet.rs")]
mod quiet;
mod snapshot;
mod tree_of;
mod views;

pub use ancestry::{Ancestry, Known, learn};
pub use branch::{Branch, Kept, WritePermit};
pub use catalog::{BranchInfo, Catalog, Origin, SnapshotInfo, check_name};
pub use draft::{Cover, Draft, draft_on};
pub use lower::{Lower, Since, changed, check as check_lower};
pub use pager::{Bases, Pager};
pub use snapshot::{Snapshot, Still};
pub use tree_of::Tree;
pub use views::Views;
