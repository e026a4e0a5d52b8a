//! How alike git calls two files that are not equal.
//!
//! Git cuts each file into pieces, at the ends of lines and after 64 bytes, and asks how many of the old
//! file's bytes are in pieces that the new one has as well. The hash of a piece is git's, as two pieces with
//! one hash count as equal.

use std::collections::HashMap;

/// Git's scale, of which a percentage is taken.
const FULL_SCORE: u128 = 60_000;
/// The most bytes of a piece.
const LONGEST_PIECE: u64 = 64;
/// How many hashes there are.
const HASHES: u32 = 107_927;

/// In per cent, rounded down in git's two steps.
pub(crate) fn percent(old: &[u8], new: &[u8]) -> u128 {
    let longest = old.len().max(new.len()) as u128;
    if old == new || longest == 0 {
        return 100;
    }
    let (old, new) = (pieces(old), pieces(new));
    let kept = |(hash, bytes): (&u32, &u64)| (*bytes).min(new.get(hash).copied().unwrap_or_default());
    let copied: u64 = old.iter().map(kept).sum();
    (u128::from(copied) * FULL_SCORE / longest) * 100 / FULL_SCORE
}

/// How many bytes are in the pieces of each hash. In text a carriage return at a line's end is no byte.
fn pieces(bytes: &[u8]) -> HashMap<u32, u64> {
    let is_text = !super::is_binary(bytes);
    let mut pieces = HashMap::new();
    let (mut low, mut high, mut length) = (0_u32, 0_u32, 0);
    let mut rest = bytes.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        let is_left_out = is_text && byte == b'\r' && rest.peek() == Some(&b'\n');
        if !is_left_out {
            (low, high) = ((low << 7) ^ (high >> 25), (high << 7) ^ (low >> 25));
            low = low.wrapping_add(u32::from(byte));
            length += 1;
        }
        let is_end = !is_left_out && (length >= LONGEST_PIECE || byte == b'\n') || rest.peek().is_none();
        if is_end && length > 0 {
            *pieces.entry(low.wrapping_add(high.wrapping_mul(0x61)) % HASHES).or_default() += length;
            (low, high, length) = (0, 0, 0);
        }
    }
    pieces
}
