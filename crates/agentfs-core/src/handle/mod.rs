//! Open files, and the inodes the kernel remembers: what keeps a file without a name alive.

mod direct;
mod lookups;
mod open_file;
mod table;

pub use direct::DirectFiles;
pub use lookups::Lookups;
pub use open_file::{LayeredSource, OpenFile, OpenFiles, Source, Top};
pub use table::{Handle, Handles};
