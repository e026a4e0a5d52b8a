//! Stretches of files: bytes from the first to behind the last.

/// Bytes of a file, from the first to behind the last.
pub type Stretch = (u64, u64);

/// The host gives space back, and layers take it, in blocks of so many bytes.
pub const BLOCK: u64 = 4096;

/// Puts stretches in order, those that overlap or touch together.
pub fn merge(stretches: &mut Vec<Stretch>) {
    stretches.sort_unstable();
    stretches.dedup_by(|next, last| {
        let touches = next.0 <= last.1;
        last.1 = if touches { last.1.max(next.1) } else { last.1 };
        touches
    });
}

/// The whole blocks in a stretch, if there are any.
pub(super) fn whole_blocks((start, end): Stretch) -> Option<Stretch> {
    let blocks = (start.checked_next_multiple_of(BLOCK)?, end - end % BLOCK);
    (blocks.0 < blocks.1).then_some(blocks)
}
