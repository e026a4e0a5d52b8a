//! Reading content that lies in layers.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::object::missing_is_damage;
use super::{BLOCK, Device, FallocateFlags, FileId, FileStat, Layers, ObjectFile, Seek};
use crate::types::ObjectId;

/// Objects that are kept open for a file in layers: those that were read last.
const MOST_OPEN: usize = 16;

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

fn read_only() -> io::Error {
    rustix::io::Errno::BADF.into()
}

impl ObjectFile for LayeredFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let len = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let (mut rest, mut at) = (buf.get_mut(..len).unwrap_or_default(), offset);
        for part in self.layers.parts(offset, offset + len as u64) {
            let (hole, from) = std::mem::take(&mut rest).split_at_mut((part.start - at) as usize);
            hole.fill(0);
            let (room, behind) = from.split_at_mut((part.end - part.start) as usize);
            let id = part.claim.backing().id;
            if self.opens.get(id)?.read_at(room, part.at())? < room.len() {
                let text = format!("the content is shorter than the file: object {:x}", id.0);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            (rest, at) = (behind, part.end);
        }
        rest.fill(0);
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
