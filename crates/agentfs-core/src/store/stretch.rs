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

/// What is left of stretches without others; both are in order, and none touches another of its own.
pub fn without(stretches: &[Stretch], others: &[Stretch]) -> Vec<Stretch> {
    let mut left = Vec::new();
    for (start, end) in stretches {
        let mut at = *start;
        let first = others.partition_point(|other| other.1 <= at);
        for (from, to) in others.iter().skip(first).take_while(|other| other.0 < *end) {
            if at < *from {
                left.push((at, *from));
            }
            at = at.max(*to);
        }
        if at < *end {
            left.push((at, *end));
        }
    }
    left
}
