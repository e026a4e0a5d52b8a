//! The log, read back: all its pieces in order, up to the first frame that is not sound.

use std::io;
use std::sync::Arc;

use super::codec::{self, Adopt};
use super::{Record, frame};
use crate::store::{Device, FileId, ObjectFile};

/// Bytes read at once.
const CHUNK: usize = 4 << 20;

/// Where reading stopped before the end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("piece {piece} of the log is damaged at byte {at}: the {lost} bytes from there on are left out")]
pub struct Damage {
    /// The piece.
    pub piece: u64,
    /// Its first byte that is not sound.
    pub at: u64,
    /// Bytes of it from there on.
    pub lost: u64,
}

/// How far the log was read.
pub struct ReadTo {
    /// The last piece; `None` when there is none.
    pub piece: Option<u64>,
    /// Its sound bytes.
    pub len: u64,
    /// What ended it before its end: a torn frame after a power cut, or worse.
    pub damage: Option<Damage>,
    /// Bytes of the checkpoint it began with.
    pub checkpoint: u64,
}

/// Shows `visit` all records, oldest first.
///
/// # Errors
/// What the device answers.
pub fn read(device: &dyn Device, adopt: Adopt<'_>, mut visit: impl FnMut(Record)) -> io::Result<ReadTo> {
    let pieces = device.logs()?;
    let first = newest_checkpoint(device, &pieces)?;
    let mut end = ReadTo { piece: None, len: 0, damage: None, checkpoint: 0 };
    for piece in pieces.into_iter().skip(first) {
        let file = device.open(FileId::Log(piece))?;
        let (len, total) = (read_piece(&file, adopt, &mut end.checkpoint, &mut visit)?, file.stat()?.len);
        end.damage = (len < total).then(|| Damage { piece, at: len, lost: total - len });
        (end.piece, end.len) = (Some(piece), len);
        if end.damage.is_some() {
            break; // a later piece goes on from what is missing here
        }
    }
    Ok(end)
}

/// The place of the newest piece that begins with a checkpoint; of the first, if none does.
fn newest_checkpoint(device: &dyn Device, pieces: &[u64]) -> io::Result<usize> {
    for (place, piece) in pieces.iter().enumerate().rev() {
        let mut start = [0; 64];
        let read = device.open(FileId::Log(*piece))?.read_at(&mut start, 0)?;
        let first = frame::open(start.get(..read).unwrap_or_default()).map(|(payload, _)| payload);
        if first.is_some_and(codec::is_checkpoint) {
            return Ok(place);
        }
    }
    Ok(0)
}

/// The pieces before the newest checkpoint.
///
/// # Errors
/// What the device answers.
pub fn superseded(device: &dyn Device) -> io::Result<Vec<u64>> {
    let mut pieces = device.logs()?;
    pieces.truncate(newest_checkpoint(device, &pieces)?);
    Ok(pieces)
}

/// Returns the sound bytes of a piece; notes those of its checkpoint.
fn read_piece(
    file: &Arc<dyn ObjectFile>,
    adopt: Adopt<'_>,
    checkpoint: &mut u64,
    visit: &mut impl FnMut(Record),
) -> io::Result<u64> {
    let (mut bytes, mut at, mut sound) = (Vec::new(), 0, 0);
    loop {
        let mut chunk = vec![0; CHUNK];
        let read = file.read_at(&mut chunk, at)?;
        bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
        at += read as u64;
        let mut rest = bytes.as_slice();
        while let Some((payload, tail)) = frame::open(rest) {
            let Ok(record) = codec::decode(payload, adopt) else { return Ok(sound) };
            sound += (rest.len() - tail.len()) as u64;
            if matches!(record, Record::CheckpointEnd) {
                *checkpoint = sound;
            }
            visit(record);
            rest = tail;
        }
        bytes = rest.to_vec();
        if read == 0 {
            return Ok(sound);
        }
    }
}
