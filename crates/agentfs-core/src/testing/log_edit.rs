//! Changing what a log says, record by record: to plant faults that no flipped bit makes.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::config::Config;
use crate::log::{self, Adopt, FrameWriter, Journal, Log, NotARecord, Record, Unrecorded};
use crate::store::{Backing, Content, Device, Extent, FileId, Memory, Object, Pack, Place, Store};
use crate::tree::Edit;
use crate::types::{Epoch, ObjectId, PackId};

/// Gives records something to name.
struct Names {
    store: Store,
    packs: HashMap<PackId, Arc<Pack>>,
}

impl Names {
    fn new() -> Names {
        let journal: Arc<dyn Journal> = Arc::new(Unrecorded);
        let store = Store::new(Arc::new(Memory::default()), Arc::new(journal), Config::default().packs);
        Names { store, packs: HashMap::new() }
    }
}

impl Adopt for Names {
    fn backing(&mut self, id: ObjectId, epoch: Epoch) -> Result<Arc<Backing>, NotARecord> {
        Ok(self.store.adopt_backing(id, epoch))
    }
    fn object(&mut self, id: ObjectId, epoch: Epoch) -> Result<Arc<Object>, NotARecord> {
        Ok(self.store.adopt(id, epoch))
    }

    fn extent(&mut self, place: Place, len: u32, crc: u32) -> Result<Arc<Extent>, NotARecord> {
        let packs = &self.store.packs;
        Ok(self.packs.entry(place.0).or_insert_with(|| packs.adopt(place.0)).add(place.1, len, crc))
    }
}

/// Writes a piece of the log anew, with what `edit` makes of each record.
///
/// # Panics
/// When the log cannot be read.
pub fn rewrite_log(device: &dyn Device, piece: u64, mut edit: impl FnMut(Record) -> Option<Record>) {
    let mut names = Names::new();
    let mut records = Vec::new();
    let mut log = Log::open(device, 0).expect("the log opens");
    log.read(|stored| {
        if stored.piece == piece {
            records.push(log::decode(stored.payload, &mut names).expect("a record"));
        }
        ControlFlow::Continue(())
    })
    .expect("the log is read");
    device.remove(FileId::Log(piece)).expect("the piece is there");
    let mut out = FrameWriter::new(device.create(FileId::Log(piece)).expect("it is gone"));
    for record in records.into_iter().filter_map(&mut edit) {
        let at = out.position();
        let record = match record {
            Record::Ordered { .. } => Record::Ordered { at, through: at, synced: at },
            Record::Closed { .. } => Record::Closed { at },
            other => other,
        };
        out.write(&record).expect("memory takes it");
    }
    out.finish().expect("memory takes it");
}

/// Writes a piece of the log anew, with what `edit` makes of the bytes of each record, by its number in the piece. The frames are
/// sound.
///
/// # Panics
/// When the log cannot be read.
pub fn rewrite_payloads(device: &dyn Device, piece: u64, mut edit: impl FnMut(usize, &mut Vec<u8>)) {
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    let mut log = Log::open(device, 0).expect("the log opens");
    log.read(|stored| {
        if stored.piece == piece {
            payloads.push(stored.payload.to_vec());
        }
        ControlFlow::Continue(())
    })
    .expect("the log is read");
    device.remove(FileId::Log(piece)).expect("the piece is there");
    let mut out = FrameWriter::new(device.create(FileId::Log(piece)).expect("it is gone"));
    for (number, mut payload) in payloads.into_iter().enumerate() {
        edit(number, &mut payload);
        out.write_payload(&payload);
    }
    out.finish().expect("memory takes it");
}

/// Appends to a piece a record that gives the root of `main` another file, with content at a place of a pack.
///
/// # Panics
/// When the log cannot be read.
pub fn append_extent(device: &dyn Device, piece: u64, pack: PackId, offset: u32, bytes: &[u8]) {
    let mut names = Names::new();
    let extent =
        names.extent((pack, offset), bytes.len() as u32, crc32c::crc32c(bytes)).expect("names has all");
    let mut first = true;
    rewrite_log(device, piece, |record| match record {
        Record::Edits(branch, mut edits) if std::mem::take(&mut first) => {
            let made =
                edits.iter().find_map(|edit| if let Edit::Put(ino, _) = edit { Some(*ino) } else { None });
            edits.extend(made.map(|ino| Edit::Content(ino, Content::Packed(extent.clone()))));
            Some(Record::Edits(branch, edits))
        }
        other => Some(other),
    });
}
