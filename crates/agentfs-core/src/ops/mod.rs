//! The operations, a file a verb. Each plans on the state of one branch and changes it in one edit step.

mod allocate;
mod attr;
mod branch;
mod checkpoint;
mod content;
mod create;
mod fsync;
mod history;
mod link;
mod lookup;
mod open;
mod privileges;
mod read;
mod readdir;
mod recover;
mod remove;
mod rename;
mod seek;
mod small;
mod snapshot;
mod statfs;
mod status;
mod symlink;
mod tend;
mod truncate;
mod view;
mod write;
mod xattr;

pub use create::CreateMode;
pub use open::OpenMode;
pub use readdir::DirEntry;
pub use recover::Recovered;
pub use rename::RenameMode;
pub use status::Status;
pub use view::Shown;
pub use xattr::XattrMode;
