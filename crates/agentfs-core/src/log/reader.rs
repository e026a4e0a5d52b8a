//! The log, read back. First it is looked over: where it begins, how far its frames are sound, what is known to be durable;
//! then its records are shown, oldest first.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::codec::{self, Mark};
use super::frame;
use crate::store::{Device, FileId, Folder, ObjectFile};

/// Bytes read at once.
const CHUNK: usize = 4 << 20;

/// Where a log that was whole is so no more.
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

/// A piece of the log.
struct Piece {
    number: u64,
    /// Its sound bytes.
    len: u64,
    file: Arc<dyn ObjectFile>,
}

/// A log that was looked over.
#[derive(Default)]
pub struct Log {
    /// The pieces that count, in order.
    pieces: Vec<Piece>,
    /// Does its last record say that the volume was closed?
    closed: bool,
    /// Pieces behind its end, which go on from what is not there.
    pub stale: Vec<u64>,
    /// What ended it before its end. A tail that was being written when the daemon or the host died is no damage.
    pub damage: Option<Damage>,
    /// Bytes of the checkpoint it begins with; 0 without.
    pub checkpoint: u64,
    /// Was that checkpoint damaged?
    pub checkpoint_damaged: bool,
    /// The boot of the host during its last mount, if it says so.
    pub boot: Option<u128>,
    /// Before this byte of this piece, content that records name is durable. `None`: nothing is known.
    pub ordered: Option<(u64, u64)>,
}

/// A record as it lies in the log.
pub struct Stored<'a> {
    /// Its bytes.
    pub payload: &'a [u8],
    /// Its piece.
    pub piece: u64,
    /// Where its frame begins.
    pub at: u64,
}

/// What one piece says of itself.
#[derive(Default)]
struct Seen {
    continues: Option<(u64, u64)>,
    checkpoint: bool,
    checkpoint_end: Option<u64>,
    boot: Option<u128>,
    ordered: Option<u64>,
    /// Was any of it durable when a mark was written?
    was_synced: bool,
    /// The end of the last record that says that the volume was closed.
    closed: Option<u64>,
}

impl Log {
    /// Looks a log over, on this boot of the host.
    ///
    /// # Errors
    /// What the device answers.
    pub fn open(device: &dyn Device, boot: u128) -> io::Result<Log> {
        let numbers = pieces(&device.list(Folder::Log)?);
        let first = newest_checkpoint(device, &numbers)?;
        let mut log = Log::default();
        for number in numbers.into_iter().skip(first) {
            // A later piece goes on from what is missing here.
            if !log.stale.is_empty() || log.damage.is_some() || !log.add(device, number, boot)? {
                log.stale.push(number);
            }
        }
        Ok(log)
    }

    /// Adds the next piece; false when it does not go on where the log ends.
    fn add(&mut self, device: &dyn Device, number: u64, boot: u128) -> io::Result<bool> {
        let file = device.open(FileId::Log(number))?;
        let mut seen = Seen::default();
        let len = frames(&file, u64::MAX, |at, payload| {
            seen.note(at, payload);
            ControlFlow::Continue(())
        })?;
        let total = file.stat()?.len;
        if let Some((before, expected)) = seen.continues
            && let Some(last) = self.pieces.last().filter(|last| last.number == before)
            && last.len < expected
        {
            // That before is synced first: a power cut takes its end only when nothing of this one was synced.
            let lost = Damage { piece: before, at: last.len, lost: expected - last.len };
            self.damage = seen.was_synced.then_some(lost);
            return Ok(false);
        }
        let no_beginning = self.pieces.is_empty() && len == 0 && total > 0;
        self.checkpoint_damaged = seen.is_open_checkpoint();
        // What a host that lives on was given is there, synced or not.
        let survives = seen.boot.or(self.boot) == Some(boot);
        if no_beginning || self.checkpoint_damaged || (len < total && was_whole(&file, len, survives)?) {
            self.damage = Some(Damage { piece: number, at: len, lost: total - len });
        }
        if let Some(end) = seen.checkpoint_end {
            self.checkpoint = end;
            self.ordered = Some((number, end)); // it was published when all of it was durable
        }
        self.closed = seen.closed == Some(total);
        self.boot = seen.boot.or(self.boot);
        self.ordered = seen.ordered.map(|through| (number, through)).or(self.ordered);
        self.pieces.push(Piece { number, len, file });
        Ok(true)
    }

    /// Shows `visit` all records, oldest first, until it breaks off. A record that it breaks off at is not in the log any
    /// more, nor are those behind it.
    ///
    /// # Errors
    /// What the device answers.
    pub fn read(&mut self, mut visit: impl FnMut(Stored<'_>) -> ControlFlow<()>) -> io::Result<()> {
        for at in 0..self.pieces.len() {
            let Some(piece) = self.pieces.get_mut(at) else { break };
            let (number, len) = (piece.number, piece.len);
            let read = frames(&piece.file, len, |at, payload| visit(Stored { payload, piece: number, at }))?;
            if read < len {
                piece.len = read;
                self.stale.extend(self.pieces.drain(at + 1..).map(|later| later.number));
                break;
            }
        }
        Ok(())
    }

    /// The last piece and its sound bytes.
    pub fn end(&self) -> Option<(u64, u64)> {
        self.pieces.last().map(|last| (last.number, last.len))
    }

    /// Was the volume closed, so that everything is durable?
    pub fn is_closed(&self) -> bool {
        self.closed && self.stale.is_empty()
    }

    /// What its last piece follows, if that is still empty.
    pub fn follows(&self) -> Option<(u64, u64)> {
        let (_, before) = self.pieces.split_last()?;
        before.last().map(|piece| (piece.number, piece.len))
    }

    /// Bytes of all pieces.
    pub fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len).sum()
    }
}

impl Seen {
    fn note(&mut self, at: u64, payload: &[u8]) {
        match codec::mark(payload) {
            Some(Mark::Checkpoint) => self.checkpoint |= at == 0,
            Some(Mark::CheckpointEnd) => {
                self.checkpoint_end = Some(at + (frame::HEADER + payload.len()) as u64);
            }
            Some(Mark::Mounted(boot)) => self.boot = Some(boot),
            Some(Mark::Ordered { through, synced, .. }) => {
                self.ordered = Some(through);
                self.was_synced |= synced > 0;
            }
            Some(Mark::Closed { .. }) => {
                self.was_synced = true;
                self.closed = Some(at + (frame::HEADER + payload.len()) as u64);
            }
            Some(Mark::Continues { piece, len }) => self.continues = Some((piece, len)),
            None => {}
        }
    }

    /// It is a checkpoint, which is published when it is complete, and it is not complete.
    fn is_open_checkpoint(&self) -> bool {
        self.checkpoint && self.checkpoint_end.is_none()
    }
}

/// The numbers of the pieces among the log's files, in order.
fn pieces(files: &[FileId]) -> Vec<u64> {
    let number = |id: &FileId| if let FileId::Log(number) = id { Some(*number) } else { None };
    let mut numbers: Vec<u64> = files.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Where what a repair took away was in no piece: they count from 1.
pub const NO_PIECE: u64 = 0;

/// Is there anything that a damaged log has lost?
///
/// # Errors
/// What the device answers.
pub fn has_lost(device: &dyn Device) -> io::Result<bool> {
    Ok(device.list(Folder::Log)?.iter().any(|id| matches!(id, FileId::Lost(piece, _) if *piece != NO_PIECE)))
}

/// The place of the newest piece that begins with a checkpoint; of the first, if none does.
fn newest_checkpoint(device: &dyn Device, pieces: &[u64]) -> io::Result<usize> {
    for (place, piece) in pieces.iter().enumerate().rev() {
        let mut start = [0; 64];
        let read = device.open(FileId::Log(*piece))?.read_at(&mut start, 0)?;
        let first = frame::open(start.get(..read).unwrap_or_default()).map(|(payload, _)| payload);
        if first.and_then(codec::mark).is_some_and(|mark| matches!(mark, Mark::Checkpoint)) {
            return Ok(place);
        }
    }
    Ok(0)
}

/// Files of the log that the newest checkpoint supersedes, and drafts that nobody finished.
///
/// # Errors
/// What the device answers.
pub fn superseded(device: &dyn Device) -> io::Result<Vec<FileId>> {
    let files = device.list(Folder::Log)?;
    let numbers = pieces(&files);
    let first = newest_checkpoint(device, &numbers)?;
    let old = numbers.into_iter().take(first).map(FileId::Log);
    let drafts = files.into_iter().filter(|id| matches!(id, FileId::Draft(_)));
    Ok(old.chain(drafts).collect())
}

/// Shows `visit` the sound frames in the first `limit` bytes, until it breaks off; returns the bytes of those it went
/// on after.
fn frames(
    file: &Arc<dyn ObjectFile>,
    limit: u64,
    mut visit: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> io::Result<u64> {
    let (mut bytes, mut at, mut sound) = (Vec::new(), 0, 0);
    let limit = limit.min(file.stat()?.len);
    loop {
        let want = (limit - at).min(CHUNK as u64) as usize;
        let start = bytes.len();
        bytes.resize(start + want, 0);
        let read = file.read_at(bytes.get_mut(start..).unwrap_or_default(), at)?;
        bytes.truncate(start + read);
        at += read as u64;
        let mut rest = bytes.as_slice();
        while let Some((payload, tail)) = frame::open(rest) {
            if visit(sound, payload).is_break() {
                return Ok(sound);
            }
            sound += (rest.len() - tail.len()) as u64;
            rest = tail;
        }
        // A frame that this chunk cut waits for the next; one that is not sound waits for the end.
        let done = bytes.len() - rest.len();
        if read == 0 || frame::is_unsound(rest) {
            return Ok(sound);
        }
        bytes.drain(..done);
    }
}

/// Is there, behind an unsound byte, a mark that says that this byte was durable? Any mark, where what was written
/// `survives`. Then it was sound once, and is damaged.
fn was_whole(file: &Arc<dyn ObjectFile>, from: u64, survives: bool) -> io::Result<bool> {
    let (mut at, len) = (from, file.stat()?.len);
    let mut chunk = vec![0; (len.saturating_sub(from)).min(CHUNK as u64) as usize];
    loop {
        let read = file.read_at(&mut chunk, at)?;
        let bytes = chunk.get(..read).unwrap_or_default();
        for start in 0..read {
            let here = at + start as u64;
            let is_mark = bytes.get(start..).and_then(frame::open_short).and_then(codec::mark);
            let told = match is_mark {
                Some(Mark::Ordered { at, synced, .. }) => at == here && (survives || synced > from),
                Some(Mark::Closed { at }) => at == here,
                _ => false,
            };
            if told {
                return Ok(true);
            }
        }
        if read < CHUNK {
            return Ok(false);
        }
        at += (read - frame::SHORT) as u64;
    }
}
