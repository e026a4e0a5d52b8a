//! Bytes: objects in a backstore, reached through one narrow device. Knows no names and no inodes.

mod content;
mod device;
mod host_fs;
mod memory;
mod object;

pub use content::Content;
pub use device::{Device, FileId, FileStat, ObjectFile, Seek, Space};
pub use host_fs::{HostFs, StoreError};
pub use memory::Memory;
pub use object::{Durability, Object, Store};
