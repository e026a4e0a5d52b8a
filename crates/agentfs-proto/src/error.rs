//! What goes wrong: the error that travels, and why bytes are not a message.

use std::fmt;

use ssz_derive::{Decode, Encode};

use crate::limits::MAX_ERROR_SENTENCE;

/// The daemon's refusal: a sentence for people, and the errno that says the same to programs.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ErrorReply {
    /// One sentence, UTF-8.
    pub error: Vec<u8>,
    /// The errno, where one fits.
    pub code: Option<u32>,
}

impl ErrorReply {
    /// A refusal that always fits a frame: a very long sentence is cut.
    pub fn new(sentence: &str, code: Option<u32>) -> Self {
        let (kept, _) = sentence.split_at(sentence.floor_char_boundary(MAX_ERROR_SENTENCE));
        Self { error: kept.as_bytes().to_vec(), code }
    }
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes are no SSZ encoding of the message that the selector announces, or there are none.
    Malformed,
    /// No message has this selector.
    UnknownSelector(u8),
    /// The request is of another version of the protocol than [`crate::limits::VERSION`].
    Version(Vec<u8>),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => write!(f, "the message is malformed"),
            Self::UnknownSelector(selector) => write!(f, "no message has the selector {selector}"),
            Self::Version(version) => {
                write!(
                    f,
                    "protocol version \"{}\" is not supported; this is version \"1\"",
                    version.escape_ascii()
                )
            }
        }
    }
}

impl std::error::Error for DecodeError {}

impl From<ssz::DecodeError> for DecodeError {
    fn from(_: ssz::DecodeError) -> Self {
        Self::Malformed
    }
}
