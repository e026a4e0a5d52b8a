//! Versions in memory: persistent maps that a snapshot shares by cloning a root pointer.
//! No I/O, no locks, no clocks.

mod acl;
mod check;
mod diff;
mod directory;
mod edit;
mod homes;
mod inode;
mod lower_entry;
mod origin;
mod replaces;
mod version;

pub use acl::{ACCESS, Acl, DEFAULT};
pub use check::{Fault, check};
pub use diff::{diff, differing, visit_new};
pub use directory::{Directory, Entry};
pub use edit::{Aside, Edit};
pub use homes::Homes;
pub use inode::{Body, Inode, Meta, Times, Xattrs};
pub use lower_entry::{CopySource, DirectoryCopy, LowerEntry};
pub use origin::Origin;
pub use replaces::Replaces;
pub use version::Version;
