//! What stands for a file of a directory that a volume lies over.

/// Of a file by its inode number, changed last at so many Unix nanoseconds: another file, or a later change, has another
/// stamp. Below 2^61, never 0.
pub fn stamp(inode: u64, changed_ns: u64) -> u64 {
    let mixed = (inode ^ changed_ns.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ changed_ns;
    (mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 3).max(1)
}
