//! Reading content that lies in layers.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::device::read_only;
use super::layers::Part;
use super::object::missing_is_damage;
use super::{BLOCK, Device, FallocateFlags, FileId, FileStat, Layers, ObjectFile, Seek};
use crate::types::ObjectId;

/// Objects that are kept open for a file in layers: those that were read last.
const MOST_OPEN: usize = 16;

/// An object that has no more bytes is fetched as a whole.
const SHORT: u64 = 1 << 20;

/// The objects of a file in layers that are open.
pub struct Opens {
    device: Arc<dyn Device>,
    /// Leaf lock: the last that was used is the last.
    open: Mutex<Vec<(ObjectId, Arc<dyn ObjectFile>)>>,
}

impl Opens {
    /// None yet.
    pub fn new(device: Arc<dyn Device>) -> Opens {
        Opens { device, open: Mutex::default() }
    }

    /// An object, open.
    ///
    /// # Errors
    /// What the device answers.
    pub fn get(&self, id: ObjectId) -> io::Result<Arc<dyn ObjectFile>> {
        {
            let mut open = self.open.lock();
            if let Some(at) = open.iter().position(|(known, _)| *known == id) {
                let found = open.remove(at);
                let file = found.1.clone();
                open.push(found);
                return Ok(file);
            }
        }
        let file = self.device.open(FileId::Object(id)).map_err(missing_is_damage)?;
        if let Ok(stat) = file.stat()
            && stat.blocks * 512 <= SHORT
            && stat.len <= SHORT
        {
            file.will_need(stat.len);
        }
        let mut open = self.open.lock();
        if open.len() >= MOST_OPEN {
            open.remove(0);
        }
        open.push((id, file.clone()));
        Ok(file)
    }

    /// The object lies elsewhere now: it is opened again when it is read.
    pub fn forget(&self, id: ObjectId) {
        self.open.lock().retain(|(known, _)| *known != id);
    }
}

/// A file in layers as it is at a time: its bytes stay where they are as long as this does.
pub struct LayeredFile {
    /// Where its bytes are.
    pub layers: Arc<Layers>,
    /// Bytes of the file.
    pub len: u64,
    /// What of it is open.
    pub opens: Arc<Opens>,
}

/// An object that most of a stretch of a file lies in. It is read in one go, and what lies over it elsewhere is read over it:
/// the host reads ahead only where nothing is left out.
struct Ground {
    id: ObjectId,
    /// What is to be added to a place in the file for the place in the object.
    shift: u64,
    start: u64,
    end: u64,
}

impl Ground {
    /// The object that has more than three quarters of what it is to be read for, in more parts than one.
    fn of(parts: &[Part<'_>]) -> Option<Ground> {
        let largest = parts.iter().filter(|_| parts.len() > 1).max_by_key(|part| part.end - part.start)?;
        let id = largest.claim.backing().id;
        let mut ground = Ground { id, shift: shift(largest), start: u64::MAX, end: 0 };
        let mut bytes = 0;
        for part in parts.iter().filter(|part| ground.has(part)).collect::<Vec<_>>() {
            (ground.start, ground.end) = (ground.start.min(part.start), ground.end.max(part.end));
            bytes += part.end - part.start;
        }
        (bytes / 3 > (ground.end - ground.start) / 4 && bytes > largest.end - largest.start).then_some(ground)
    }

    fn has(&self, part: &Part<'_>) -> bool {
        part.claim.backing().id == self.id && shift(part) == self.shift
    }
}

fn room(buf: &mut [u8], (from, to): (u64, u64)) -> &mut [u8] {
    buf.get_mut(from as usize..to as usize).unwrap_or_default()
}

fn shift(part: &Part<'_>) -> u64 {
    part.at().wrapping_sub(part.start)
}

impl LayeredFile {
    fn read_object(&self, id: ObjectId, room: &mut [u8], at: u64) -> io::Result<()> {
        if self.opens.get(id)?.read_at(room, at)? == room.len() {
            return Ok(());
        }
        let text = format!("the content is shorter than the file: object {:x}", id.0);
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

impl ObjectFile for LayeredFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let len = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let end = offset + len as u64;
        let parts: Vec<Part<'_>> = self.layers.parts(offset, end).collect();
        let ground = Ground::of(&parts);
        if let Some(ground) = &ground {
            self.read_object(
                ground.id,
                room(buf, (ground.start - offset, ground.end - offset)),
                ground.start.wrapping_add(ground.shift),
            )?;
        }
        let mut at = offset;
        for part in &parts {
            room(buf, (at - offset, part.start - offset)).fill(0);
            if !ground.as_ref().is_some_and(|ground| ground.has(part)) {
                self.read_object(
                    part.claim.backing().id,
                    room(buf, (part.start - offset, part.end - offset)),
                    part.at(),
                )?;
            }
            at = part.end;
        }
        room(buf, (at - offset, end - offset)).fill(0);
        Ok(len)
    }

    fn seek(&self, what: Seek, offset: u64) -> io::Result<Option<u64>> {
        if offset >= self.len {
            return Ok(None);
        }
        Ok(match what {
            Seek::Data => self.layers.next_data(offset).filter(|at| *at < self.len),
            Seek::Hole => Some(self.layers.next_hole(offset).min(self.len)),
        })
    }

    fn stat(&self) -> io::Result<FileStat> {
        let blocks = blocks_in(self.layers.bytes());
        Ok(FileStat { len: self.len, blocks, ..FileStat::default() })
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> io::Result<usize> {
        Err(read_only())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn allocate(&self, _mode: FallocateFlags, _offset: u64, _len: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn sync(&self, _data_only: bool) -> io::Result<()> {
        Err(read_only())
    }
}

/// The space that so many bytes in layers take, in units of 512 bytes.
pub fn blocks_in(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * (BLOCK / 512)
}
