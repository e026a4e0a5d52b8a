//! A device that can fail, and a disk that can lose what was not synced. The device notes each I/O; the disk repeats them
//! up to any point and shows what would be found then.

mod device;
mod disk;

pub use device::{CrashDevice, Fault};
pub use disk::{Cut, Disk, Io};
