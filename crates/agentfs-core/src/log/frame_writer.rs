//! Records in their frames, and a checkpoint written of them.

use std::io;
use std::sync::Arc;

use super::{Record, codec, frame};
use crate::error::{FsError, Result};
use crate::store::ObjectFile;

/// Writes records to a file that nobody reads yet, in large pieces.
pub struct FrameWriter {
    file: Arc<dyn ObjectFile>,
    buffer: Vec<u8>,
    len: u64,
}

/// Bytes written at once.
const BUFFER: usize = 1 << 20;

impl FrameWriter {
    /// A writer to an empty file.
    pub fn new(file: Arc<dyn ObjectFile>) -> FrameWriter {
        FrameWriter { file, buffer: Vec::new(), len: 0 }
    }

    /// Writes a record.
    ///
    /// # Errors
    /// What the device answers.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        self.buffer.extend(framed(record)?);
        if self.buffer.len() < BUFFER { Ok(()) } else { self.flush() }
    }

    /// Writes bytes that may be no record, in a frame that is sound.
    #[cfg(feature = "testing")]
    pub fn write_payload(&mut self, payload: &[u8]) {
        let mut frame = vec![0; frame::HEADER];
        frame.extend_from_slice(payload);
        frame::seal(&mut frame);
        self.buffer.extend(frame);
    }

    /// Where the next record will begin.
    pub fn position(&self) -> u64 {
        self.len + self.buffer.len() as u64
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.file.write_at(&self.buffer, self.len)?;
        if written < self.buffer.len() {
            return Err(FsError::no_space());
        }
        self.len += written as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes all of it durable; returns its length.
    ///
    /// # Errors
    /// What the device answers.
    pub fn finish(mut self) -> Result<u64> {
        self.flush()?;
        self.file.sync(false)?;
        Ok(self.len)
    }
}

/// A record in its frame.
pub(super) fn framed(record: &Record) -> Result<Vec<u8>> {
    let encoded = codec::encode(record, vec![0; frame::HEADER]);
    let mut frame = encoded.map_err(|e| FsError::Io(io::Error::other(e)))?;
    if frame.len() - frame::HEADER > frame::MAX_PAYLOAD {
        return Err(FsError::Io(io::Error::other("a record is longer than the log can hold")));
    }
    frame::seal(&mut frame);
    Ok(frame)
}
