//! The words of the core: identities, names, attributes, callers. Imports nothing else of the crate.

mod attr;
mod caller;
mod clock;
mod id;
mod name;
mod past;
mod time;

pub use attr::{Attr, FileKind, SetAttr, SetTime};
pub use caller::Caller;
pub use clock::{kernel_stamps_are_possible, kernel_stamps_begin, kernel_stamps_end};
pub use id::{BranchId, Epoch, HandleId, InodeId, ObjectId, PackId, ParseIdError, SnapshotId, ViewId};
pub use name::{MAX_NAME_LEN, Name};
pub use past::{Deed, Event, Holder, Knows};
pub use time::Timestamp;
