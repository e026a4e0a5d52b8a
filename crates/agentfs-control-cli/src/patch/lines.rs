//! Which lines of a file are removed and which added.

use std::ops::Range;

use imara_diff::{Algorithm, Diff, InternedInput};

/// Both sides of a file, cut after each newline.
pub(crate) struct Lines<'a> {
    pub(crate) old: Vec<&'a [u8]>,
    pub(crate) new: Vec<&'a [u8]>,
    input: InternedInput<&'a [u8]>,
}

/// Lines of the old side that others of the new side take the place of; counted from 0.
pub(crate) struct Change {
    pub(crate) old: Range<usize>,
    pub(crate) new: Range<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn of(old: &'a [u8], new: &'a [u8]) -> Lines<'a> {
        let cut = |bytes: &'a [u8]| bytes.split_inclusive(|byte| *byte == b'\n').collect();
        Lines { old: cut(old), new: cut(new), input: InternedInput::new(old, new) }
    }

    /// In their order in the file.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let mut diff = Diff::compute(Algorithm::Myers, &self.input);
        diff.postprocess_lines(&self.input);
        let lines = |range: Range<u32>| range.start as usize..range.end as usize;
        diff.hunks().map(|hunk| Change { old: lines(hunk.before), new: lines(hunk.after) }).collect()
    }
}
