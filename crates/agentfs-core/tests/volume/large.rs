//! Large files of a volume in which every file that was frozen has its content in layers when it is written to.

use std::sync::Arc;

use agentfs_core::testing::config;
use agentfs_core::{Caller, Config, Device, FileId, Folder, FsCore, OpenMode, ViewId};

use super::Volume;

pub const BLOCK: u64 = 4096;

/// Every file that was frozen has its content in layers when it is written to.
pub fn layered(boot: u128) -> Config {
    Config { small_file: 0, layered_from: BLOCK, boot, max_snapshots: 1000, ..config() }
}

pub fn open(device: Arc<dyn Device>, boot: u128) -> Volume {
    Volume(FsCore::open_volume(device, layered(boot)).unwrap().0)
}

/// Bytes that no other write writes.
pub fn filled(fill: u8, len: usize) -> Vec<u8> {
    vec![fill.max(1); len]
}

pub fn sync_file(v: &Volume, path: &str) {
    let ino = v.find("main", path).unwrap();
    let handle = v.0.open(ViewId::MAIN, ino, OpenMode::Read, Caller::ROOT).unwrap();
    v.0.fsync(handle, true).unwrap();
    v.0.release(handle).unwrap();
}

pub fn is_layered(v: &Volume, branch: &str, path: &str) -> bool {
    let ino = v.find(branch, path).unwrap();
    v.0.version(v.view(branch)).unwrap().get(ino).unwrap().is_layered()
}

/// Bytes that the store holds in objects.
pub fn held(device: &dyn Device) -> u64 {
    let of = |id: FileId| device.open(id).unwrap().stat().unwrap().blocks * 512;
    device.list(Folder::Objects).unwrap().into_iter().map(of).sum()
}

/// Has what fell free given back.
pub fn tend(v: &Volume) {
    for _ in 0..3 {
        v.0.sync().unwrap();
        v.0.tend().unwrap();
    }
}

/// Copies a range between two files of `main`.
pub fn copy(v: &Volume, (from, at): (&str, u64), (to, to_at): (&str, u64), len: u64) -> u64 {
    let open =
        |path: &str, mode| v.0.open(ViewId::MAIN, v.find("main", path).unwrap(), mode, Caller::ROOT).unwrap();
    let (source, target) = (open(from, OpenMode::Read), open(to, OpenMode::Write));
    let copied = v.0.copy_range((source, at), (target, to_at), len, Caller::ROOT).unwrap();
    [source, target].into_iter().for_each(|handle| v.0.release(handle).unwrap());
    copied
}
