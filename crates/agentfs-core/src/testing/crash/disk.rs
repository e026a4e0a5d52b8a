//! What is on a disk after so many I/Os, and after a power cut.

use std::collections::BTreeMap;

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::store::{Device, FileId, Folder, Memory};
use crate::types::ObjectId;

/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;

/// One I/O, as it was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Io {
    /// A file was made.
    Create(FileId),
    /// Bytes were written.
    Write(FileId, u64, Vec<u8>),
    /// A file was cut or extended.
    SetLen(FileId, u64),
    /// A file was made as a copy of these bytes.
    Copy(FileId, Vec<u8>),
    /// Two objects exchanged their names, durably.
    Exchange(ObjectId, ObjectId),
    /// A file was deleted.
    Remove(FileId),
    /// A draft became a piece of the log, durably.
    Publish(u64),
    /// A file was made durable.
    Sync(FileId),
    /// It could not be, and the system forgot what it had not written of it.
    SyncFailed(FileId),
    /// The names of the log's files were made durable.
    SyncNames,
    /// Everything was made durable.
    SyncAll,
    /// A file was opened.
    Open(FileId),
    /// A file was read.
    Read(FileId),
    /// Nothing was changed: something was read, or refused.
    Nothing,
}

/// What a crash leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The daemon died: all that was done is there.
    Kill,
    /// The power was cut: only what was synced is there.
    Synced,
    /// The power was cut, and all had been written by chance.
    Written,
    /// The power was cut: of what was not synced any part is there, in any order, cut at sectors. By this seed.
    Some(u64),
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

#[derive(Clone, Debug, Default)]
struct File {
    /// What programs see.
    now: Vec<u8>,
    /// What is durable.
    stable: Vec<u8>,
    /// What leads from there to here, but for what a failed sync forgot.
    pending: Vec<Change>,
    has_durable_name: bool,
}

/// A disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: BTreeMap<FileId, File>,
    /// Deleted files whose deletion is not durable.
    gone: Vec<(FileId, File)>,
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(_, data) if data.is_empty() => {}
            Change::Write(at, data) => {
                let end = at + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at..end].copy_from_slice(data);
            }
            Change::SetLen(len) => bytes.resize(*len, 0),
        }
    }

    /// A part of it, from the start to the end of a sector.
    fn torn(&self, rng: &mut TestRng) -> Change {
        match self {
            Change::Write(at, data) => {
                let sectors = data.len().div_ceil(SECTOR);
                let kept = rng.next_u64() as usize % (sectors + 1) * SECTOR;
                let edge = kept.saturating_sub(at % SECTOR).min(data.len());
                Change::Write(*at, data[..edge].to_vec())
            }
            Change::SetLen(len) => Change::SetLen(*len),
        }
    }
}

impl File {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        pending.iter().for_each(|change| change.apply(&mut self.stable));
    }

    fn after(&self, cut: Cut, rng: &mut TestRng) -> Vec<u8> {
        match cut {
            Cut::Kill | Cut::Written => self.now.clone(),
            Cut::Synced => self.stable.clone(),
            Cut::Some(_) => {
                let mut bytes = self.stable.clone();
                for change in &self.pending {
                    match rng.next_u64() % 4 {
                        0 => {}
                        1 => change.torn(rng).apply(&mut bytes),
                        _ => change.apply(&mut bytes),
                    }
                }
                bytes
            }
        }
    }
}

impl Disk {
    /// Repeats an I/O.
    pub fn apply(&mut self, io: &Io) {
        match io {
            Io::Create(id) => drop(self.files.insert(*id, File::default())),
            Io::Write(id, at, data) => self.change(*id, Change::Write(*at as usize, data.clone())),
            Io::SetLen(id, len) => self.change(*id, Change::SetLen(*len as usize)),
            Io::Copy(id, bytes) => {
                self.files.insert(*id, File::default());
                self.change(*id, Change::Write(0, bytes.clone()));
            }
            Io::Exchange(a, b) => {
                let (a, b) = (FileId::Object(*a), FileId::Object(*b));
                if let (Some(of_a), Some(of_b)) = (self.files.remove(&a), self.files.remove(&b)) {
                    let durable = |file| File { has_durable_name: true, ..file };
                    self.files.extend([(a, durable(of_b)), (b, durable(of_a))]);
                }
            }
            Io::Remove(id) => self.gone.extend(self.files.remove(id).map(|file| (*id, file))),
            Io::Publish(piece) => {
                if let Some(file) = self.files.remove(&FileId::Draft(*piece)) {
                    self.files.insert(FileId::Log(*piece), file);
                }
                self.sync_names();
            }
            Io::Sync(id) => {
                if let Some(file) = self.files.get_mut(id) {
                    file.sync();
                    file.has_durable_name |= id.folder() != Folder::Log;
                }
            }
            Io::SyncFailed(id) => {
                if let Some(file) = self.files.get_mut(id) {
                    file.pending.clear();
                }
            }
            Io::SyncNames => self.sync_names(),
            Io::SyncAll => {
                for file in self.files.values_mut() {
                    file.sync();
                    file.has_durable_name = true;
                }
                self.gone.clear();
            }
            Io::Open(_) | Io::Read(_) | Io::Nothing => {}
        }
    }

    fn change(&mut self, id: FileId, change: Change) {
        // A deleted file may still be open.
        let gone = self.gone.iter_mut().find(|(known, _)| *known == id).map(|(_, file)| file);
        if let Some(file) = self.files.get_mut(&id).or(gone) {
            file.change(change);
        }
    }

    fn sync_names(&mut self) {
        for (id, file) in &mut self.files {
            file.has_durable_name |= id.folder() == Folder::Log;
        }
        self.gone.retain(|(id, _)| id.folder() != Folder::Log);
    }

    /// Does the next I/O write, and would it leave a part of it when it is broken off?
    pub fn apply_torn(&mut self, io: &Io) -> bool {
        match io {
            Io::Write(id, at, data) if data.len() > 1 => {
                self.apply(&Io::Write(*id, *at, data[..data.len() / 2].to_vec()));
                true
            }
            _ => false,
        }
    }

    /// What is found after a crash now.
    pub fn after(&self, cut: Cut) -> Memory {
        let seed = if let Cut::Some(seed) = cut { seed } else { 0 };
        let bytes: Vec<u8> = seed.to_le_bytes().repeat(4);
        let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let found = Memory::default();
        for (id, file) in &self.files {
            let has_name = file.has_durable_name
                || match cut {
                    Cut::Kill | Cut::Written => true,
                    Cut::Synced => false,
                    Cut::Some(_) => rng.next_u64().is_multiple_of(2),
                };
            if has_name {
                put(&found, *id, &file.after(cut, &mut rng));
            }
        }
        for (id, file) in
            self.gone.iter().filter(|(id, file)| file.has_durable_name && !self.files.contains_key(id))
        {
            let is_back = match cut {
                Cut::Kill | Cut::Written => false,
                Cut::Synced => true,
                Cut::Some(_) => rng.next_u64().is_multiple_of(2),
            };
            if is_back && found.open(*id).is_err() {
                put(&found, *id, &file.after(cut, &mut rng));
            }
        }
        found
    }

    /// A disk on which all that a device has is durable.
    pub fn settled(&self, cut: Cut) -> Disk {
        let found = self.after(cut);
        let mut disk = Disk::default();
        for folder in [Folder::Objects, Folder::Packs, Folder::Log] {
            for id in found.list(folder).expect("memory lists") {
                let file = found.open(id).expect("it is listed");
                let mut bytes = vec![0; file.stat().expect("memory knows").len as usize];
                file.read_at(&mut bytes, 0).expect("memory reads");
                let known =
                    File { now: bytes.clone(), stable: bytes, pending: Vec::new(), has_durable_name: true };
                disk.files.insert(id, known);
            }
        }
        disk
    }
}

fn put(device: &Memory, id: FileId, bytes: &[u8]) {
    let file = device.create(id).expect("a new device has no files");
    file.write_at(bytes, 0).expect("memory takes it");
}
