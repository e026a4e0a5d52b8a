//! The change token of a file in a directory that a volume lies over.

/// Returns the token of a file with this inode number, changed last at so many Unix nanoseconds. Another file, or a later
/// change, has another token. Below 2^61, never 0.
pub fn change_token(inode: u64, changed_ns: u64) -> u64 {
    let mixed = (inode ^ changed_ns.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ changed_ns;
    (mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 3).max(1)
}
