//! The envelope of a message: a length, the message, and zeros up to the end of the ioctl's buffer.

use std::fmt;

use crate::ioctl::BUFFER_LEN;

/// The whole buffer of one control ioctl.
pub type Frame = [u8; BUFFER_LEN];

/// The bytes that the length in front of a message takes.
const PREFIX_LEN: usize = size_of::<u32>();

/// Why bytes are no frame, or a message does not become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The buffer is too short even for the length in front.
    NoLength,
    /// The length in front is 0, and a message has at least a selector.
    Empty,
    /// The message would end past the end of the buffer; how long it says it is.
    TooLong(usize),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLength => write!(f, "the buffer is too short for a length"),
            Self::Empty => write!(f, "the message is empty"),
            Self::TooLong(len) => write!(f, "a message of {len} bytes does not fit the buffer"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Wraps a message. Fails when it is empty or longer than [`crate::limits::MAX_BODY`].
pub fn encode(body: &[u8]) -> Result<Frame, FrameError> {
    let mut frame = [0; BUFFER_LEN];
    let (prefix, rest) = frame.split_at_mut(PREFIX_LEN);
    let length = u32::try_from(body.len()).map_err(|_| FrameError::TooLong(body.len()))?;
    if length == 0 {
        return Err(FrameError::Empty);
    }
    prefix.copy_from_slice(&length.to_le_bytes());
    rest.get_mut(..body.len()).ok_or(FrameError::TooLong(body.len()))?.copy_from_slice(body);
    Ok(frame)
}

/// The message inside a frame. What follows it is padding and is not looked at.
pub fn decode(buffer: &[u8]) -> Result<&[u8], FrameError> {
    let (prefix, rest) = buffer.split_first_chunk::<PREFIX_LEN>().ok_or(FrameError::NoLength)?;
    let length = u32::from_le_bytes(*prefix) as usize;
    if length == 0 {
        return Err(FrameError::Empty);
    }
    rest.get(..length).ok_or(FrameError::TooLong(length))
}
