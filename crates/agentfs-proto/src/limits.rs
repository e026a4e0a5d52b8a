//! The sizes that both sides of the control file agree on.

use crate::ioctl::BUFFER_LEN;

/// The protocol version that every request carries.
pub const VERSION: &[u8] = b"1";

/// The longest name of a snapshot or a branch, in bytes of UTF-8.
pub const MAX_NAME: usize = 255;

/// The length of an id as it is shown and sent: 16 bytes as lower-case hex.
pub const ID_HEX_LEN: usize = 32;

/// The longest message that a frame carries: the buffer without its length prefix.
pub const MAX_BODY: usize = BUFFER_LEN - size_of::<u32>();

/// The longest sentence of an error reply, in bytes; a longer one is cut so that it always fits a frame.
pub const MAX_ERROR_SENTENCE: usize = 1024;

/// Branches that fit one page however long their names are.
pub const MIN_BRANCHES_PER_PAGE: usize = 11;

/// Snapshots that fit one page however long their names are.
pub const MIN_SNAPSHOTS_PER_PAGE: usize = 11;
