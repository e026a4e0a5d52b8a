//! Bytes: objects and packs in a backstore, reached through one narrow device. Knows no names and no inodes.

mod backing;
mod content;
mod copy;
mod device;
mod host_file;
mod host_fs;
mod layered;
mod layers;
mod lower;
mod memory;
mod named;
mod object;
mod pack;
mod packs;
mod probe;
mod quota;
mod reaper;
mod stretch;

pub use backing::{Backing, Claim, Live};
pub use content::{Content, LowerFile};
pub use copy::copy_range;
pub use device::{Device, FallocateFlags, FileId, FileStat, Folder, ObjectFile, Seek, Space};
pub(crate) use device::{is_no_space, no_space};
pub use host_fs::{HostFs, StoreError};
pub use layered::{LayeredFile, Opens, blocks_in};
pub use layers::{Change, Layers};
pub use lower::{Identity, LowerStat, LowerTree, join, split, stamp};
pub use memory::Memory;
pub use object::{Object, Store, Unnamed};
pub use pack::{Extent, Pack, Place};
pub use packs::{Move, PackLimits, PackUse, Packs, READ_TRIES};
pub(crate) use probe::await_coarse_clock;
pub use quota::{Account, Charge, Charged, Quota, Quotas, Unit};
pub use reaper::Durability;
pub use stretch::{BLOCK, Stretch, merge, without};
