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
}

/// Shows `visit` all records, oldest first.
///
/// # Errors
/// What the device answers.
pub fn read(device: &dyn Device, adopt: Adopt<'_>, mut visit: impl FnMut(Record)) -> io::Result<ReadTo> {
    let mut end = ReadTo { piece: None, len: 0, damage: None };
    for piece in device.logs()? {
        let file = device.open(FileId::Log(piece))?;
        let (len, total) = (read_piece(&file, adopt, &mut visit)?, file.stat()?.len);
        let damage = (len < total).then(|| Damage { piece, at: len, lost: total - len });
        end = ReadTo { piece: Some(piece), len, damage };
        if end.damage.is_some() {
            break; // a later piece goes on from what is missing here
        }
    }
    Ok(end)
}

/// Returns the sound bytes of a piece.
fn read_piece(
    file: &Arc<dyn ObjectFile>,
    adopt: Adopt<'_>,
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
            visit(record);
            sound += (rest.len() - tail.len()) as u64;
            rest = tail;
        }
        bytes = rest.to_vec();
        if read == 0 {
            return Ok(sound);
        }
    }
}
