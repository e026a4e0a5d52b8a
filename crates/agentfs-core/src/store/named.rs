//! What names stretches of a file, and what was let go of since somebody looked.

use std::collections::BTreeMap;

use super::BLOCK;
use super::stretch::{Stretch, merge, whole_blocks};

/// More stretches that fell free than this are remembered with some of what lies between them.
const MOST_FREED: usize = 1 << 16;

/// What names a file.
#[derive(Default)]
pub(super) struct Named {
    /// Names of all of it.
    pub(super) wholes: usize,
    /// Names of stretches: by how much more begin here than end here.
    bounds: BTreeMap<u64, i64>,
    /// Of these something let go since they were last looked at.
    pub(super) freed: Freed,
    /// Of these it did before, by records that were not durable when they were last looked at.
    pub(super) waiting: Freed,
    /// Is it in the reaper's list already?
    pub(super) is_listed: bool,
}

/// Stretches that something let go of.
#[derive(Default)]
pub(super) struct Freed {
    stretches: Vec<Stretch>,
    /// The position of the log behind the last record that let go of one.
    pub(super) position: u64,
}

/// A stretch is named `by` more times.
fn bound(bounds: &mut BTreeMap<u64, i64>, (start, end): Stretch, by: i64) {
    for (at, by) in [(start, by), (end, -by)] {
        let sum = bounds.entry(at).or_default();
        *sum += by;
        if *sum == 0 {
            bounds.remove(&at);
        }
    }
}

impl Freed {
    /// All of it may be free, by records before the position.
    pub(super) fn all(position: u64) -> Freed {
        Freed { stretches: vec![(0, u64::MAX)], position }
    }

    pub(super) fn add(&mut self, (start, end): Stretch) {
        let (start, end) = (start - start % BLOCK, end.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX));
        match self.stretches.last_mut() {
            Some(last) if start <= last.1 && last.0 <= end => *last = (last.0.min(start), last.1.max(end)),
            _ => self.stretches.push((start, end)),
        }
        if self.stretches.len() > MOST_FREED {
            self.shrink();
        }
    }

    /// Joins neighbours, those with the least between them first. What lies between is looked at, too, and counts as not let
    /// go of for good until all of this is.
    fn shrink(&mut self) {
        merge(&mut self.stretches);
        let between = |(last, next): (&Stretch, &Stretch)| next.0 - last.1;
        let mut gaps: Vec<u64> =
            self.stretches.iter().zip(self.stretches.iter().skip(1)).map(between).collect();
        let Some(joined) = self.stretches.len().checked_sub(MOST_FREED / 2) else { return };
        if joined > 0 && joined <= gaps.len() {
            let (.., widest, _) = gaps.select_nth_unstable(joined - 1);
            let widest = *widest;
            self.stretches.dedup_by(|next, last| {
                let is_near = next.0 - last.1 <= widest;
                last.1 = if is_near { next.1 } else { last.1 };
                is_near
            });
        }
    }

    /// Takes all, if all was let go of by records before the position `durable`.
    fn take_before(&mut self, durable: u64) -> Vec<Stretch> {
        if self.position <= durable { std::mem::take(self).stretches } else { Vec::new() }
    }
}

impl Named {
    /// A stretch is named `by` more times.
    pub(super) fn bound(&mut self, stretch: Stretch, by: i64) {
        bound(&mut self.bounds, stretch, by);
    }

    /// The bytes of whole blocks of which something is named by stretches.
    pub(super) fn bytes(&self) -> u64 {
        let (mut sum, mut depth, mut start, mut counted) = (0, 0, 0_u64, 0);
        for (at, by) in &self.bounds {
            if depth > 0 {
                let end = at.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
                sum += end - (start - start % BLOCK).max(counted);
                counted = end;
            }
            depth += by;
            start = *at;
        }
        sum
    }

    /// Are stretches of it named?
    pub(super) fn has_parts(&self) -> bool {
        !self.bounds.is_empty()
    }

    /// Was something let go of by a record that is not known to be durable?
    pub(super) fn is_waiting(&self) -> bool {
        self.wholes == 0 && !(self.waiting.stretches.is_empty() && self.freed.stretches.is_empty())
    }

    /// The whole blocks that nothing names, of those that something let go of by records before the position `durable`, so
    /// many of them at most: the others are there the next time. What later records let go of the disk still names.
    pub(super) fn take_gaps(&mut self, durable: u64, most: usize) -> Vec<Stretch> {
        if self.wholes > 0 {
            return Vec::new();
        }
        let mut freed = self.waiting.take_before(durable);
        freed.append(&mut self.freed.take_before(durable));
        if self.waiting.stretches.is_empty() {
            self.waiting = std::mem::take(&mut self.freed);
        }
        if freed.is_empty() {
            return freed;
        }
        freed.sort_unstable();
        let mut bounds = self.bounds.clone();
        let later = self.waiting.stretches.iter().chain(&self.freed.stretches);
        later.for_each(|stretch| bound(&mut bounds, *stretch, 1));
        let (mut gaps, mut depth, mut start) = (Vec::new(), 0, 0);
        for (at, by) in &bounds {
            if depth == 0 {
                gaps.push((start, *at));
            }
            depth += by;
            start = *at;
        }
        gaps.push((start, u64::MAX));
        let gaps = gaps.into_iter().filter_map(whole_blocks);
        let mut found = common(gaps, &freed);
        found.drain(most.min(found.len())..).for_each(|gap| self.freed.add(gap));
        found
    }
}

/// What is in both; each is in order, and touches itself nowhere but in `b`.
fn common(a: impl Iterator<Item = Stretch>, b: &[Stretch]) -> Vec<Stretch> {
    let (mut found, mut next): (Vec<Stretch>, _) = (Vec::new(), 0);
    for (start, end) in a {
        while let Some(freed) = b.get(next) {
            let part = (freed.0.max(start), freed.1.min(end));
            if part.0 < part.1 {
                match found.last_mut() {
                    Some(last) if part.0 <= last.1 => last.1 = last.1.max(part.1),
                    _ => found.push(part),
                }
            }
            if freed.1 > end {
                break; // it may be in the next, too
            }
            next += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(every: u64, count: u64) -> impl Iterator<Item = Stretch> {
        (0..count).map(move |n| (n * every * BLOCK, (n * every + 1) * BLOCK))
    }

    /// Of a file whose first blocks are named; of these the stretches were let go of by a record before the position.
    fn let_go(named: &mut Named, stretches: impl Iterator<Item = Stretch>, position: u64) {
        for stretch in stretches {
            named.bound(stretch, -1);
            named.freed.add(stretch);
        }
        named.freed.position = position;
    }

    fn all_named(count: u64) -> Named {
        let mut named = Named::default();
        blocks(1, count).for_each(|block| named.bound(block, 1));
        named
    }

    #[test]
    fn what_was_let_go_of_durably_goes_however_much_is_let_go_of_meanwhile() {
        let mut named = all_named(40_000);
        let mut expected = Vec::new();
        for round in 1..=20 {
            let scattered =
                || blocks(40, 1_000).map(|(start, end)| (start + round * BLOCK, end + round * BLOCK));
            let_go(&mut named, scattered(), round);
            // The record of the round before has become durable.
            let found = named.take_gaps(round - 1, usize::MAX);
            assert!(found == expected, "round {round}");
            expected = scattered().collect();
        }
        assert!(named.take_gaps(20, usize::MAX) == expected);
        assert!(!named.is_waiting());
    }

    #[test]
    fn what_is_too_much_for_once_comes_the_next_times() {
        let mut named = all_named(1_000);
        let_go(&mut named, blocks(2, 500), 7);
        let mut found: Vec<_> = std::iter::from_fn(|| Some(named.take_gaps(7, 60)))
            .take_while(|gaps| !gaps.is_empty())
            .inspect(|gaps| assert!(gaps.len() <= 60))
            .flatten()
            .collect();
        found.sort_unstable();
        assert!(found == blocks(2, 500).collect::<Vec<_>>());
        assert!(!named.is_waiting());
    }

    #[test]
    fn more_than_is_remembered_is_joined_where_least_is_between() {
        let (far, many) = (1_000_000 * BLOCK, MOST_FREED as u64);
        let stretches =
            || blocks(2, many).chain([(far * 10, far * 10 + BLOCK), (far * 20, far * 20 + BLOCK)]);
        let mut freed = Freed::default();
        stretches().for_each(|stretch| freed.add(stretch));
        assert!(freed.stretches.len() <= MOST_FREED);
        let covered = |(start, end): Stretch| freed.stretches.iter().any(|of| of.0 <= start && end <= of.1);
        assert!(stretches().skip(many as usize - 10).all(covered));
        let bytes: u64 = freed.stretches.iter().map(|(start, end)| end - start).sum();
        assert!(bytes <= (2 * many + 2) * BLOCK, "nothing is joined across a great distance");
    }
}
