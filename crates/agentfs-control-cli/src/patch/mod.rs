//! The difference of one file, written byte for byte as `git diff` does, so that `git apply` takes it.
//!
//! What is fixed here is what git does by default: Myers' algorithm, the indent heuristic, three lines of
//! context, file names in C's quotes. A file's old and new side need not exist both.

mod header;
mod hunk;
mod lines;
mod paint;
mod quote;
mod similarity;
#[cfg(test)]
mod tests;

use std::io;

use crate::patch::header::Names;
use crate::patch::lines::Lines;
use crate::patch::paint::{Ink, Printer};

/// Git takes larger files for binary ones (`core.bigFileThreshold`), in bytes.
pub(crate) const LARGEST_TEXT: usize = 512 << 20;
/// How much of a file git searches for a zero byte, in bytes.
const SEARCHED_FOR_ZERO: usize = 8000;
/// The bits of a mode that tell a link from a file.
const TYPE_OF_MODE: u32 = 0o170_000;

/// A file as one side of a comparison has it.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    /// Relative, without a slash at its start.
    pub(crate) path: &'a [u8],
    /// As git has it: 0o100644, 0o100755 or 0o120000.
    pub(crate) mode: u32,
    /// The content, or a link's target.
    pub(crate) bytes: &'a [u8],
}

/// With or without git's default colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// What `git apply` takes.
    Plain,
    /// What a terminal shows, bad white space of added lines marked.
    Colour,
}

/// How many lines differ. A binary file has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) added: u64,
    pub(crate) removed: u64,
    pub(crate) is_binary: bool,
}

/// Writes the patch of one file: nothing when its sides are equal. Two paths make it a rename; a file that
/// became a link, or the reverse, is removed and then added.
///
/// # Errors
/// When `out` cannot be written.
pub(crate) fn write(
    out: &mut dyn io::Write,
    old: Option<&Side<'_>>,
    new: Option<&Side<'_>>,
    paint: Paint,
) -> io::Result<Counts> {
    match (old, new) {
        (Some(before), Some(after)) if (before.mode ^ after.mode) & TYPE_OF_MODE != 0 => {
            let removed = write_pair(out, old, None, paint)?;
            let added = write_pair(out, None, new, paint)?;
            let is_binary = removed.is_binary || added.is_binary;
            Ok(Counts { added: added.added, removed: removed.removed, is_binary })
        }
        _ => write_pair(out, old, new, paint),
    }
}

/// Names a file that differs and is too large to be read.
///
/// # Errors
/// When `out` cannot be written.
pub(crate) fn write_unread(out: &mut dyn io::Write, old: &[u8], new: &[u8]) -> io::Result<()> {
    let (old, new) = (quote::quoted(b"a/", old), quote::quoted(b"b/", new));
    out.write_all(&[b"Binary files ", &*old, b" and ", &*new, b" differ\n"].concat())
}

/// The counts alone, for `--stat`.
pub(crate) fn count(old: &[u8], new: &[u8]) -> Counts {
    if is_binary(old) || is_binary(new) {
        return Counts { is_binary: true, ..Counts::default() };
    }
    if old == new {
        return Counts::default();
    }
    counted(&Lines::of(old, new).changes())
}

fn write_pair(
    out: &mut dyn io::Write,
    old: Option<&Side<'_>>,
    new: Option<&Side<'_>>,
    paint: Paint,
) -> io::Result<Counts> {
    let Some(names) = Names::of(old, new) else { return Ok(Counts::default()) };
    let [before, after] = [old, new].map(|side| side.map_or(&[][..], |side| side.bytes));
    let is_binary = is_binary(before) || is_binary(after);
    let is_text_equal = before == after;
    let mut printer = Printer::new(out, paint);
    header::write(&mut printer, &names, old, new)?;
    if is_text_equal {
        return Ok(Counts { is_binary, ..Counts::default() });
    }
    if is_binary {
        printer.line(Ink::None, &names.binary())?;
        return Ok(Counts { is_binary, ..Counts::default() });
    }
    header::write_labels(&mut printer, &names)?;
    let lines = Lines::of(before, after);
    let changes = lines.changes();
    hunk::write(&mut printer, &lines, &changes)?;
    Ok(counted(&changes))
}

fn counted(changes: &[lines::Change]) -> Counts {
    let sum = |side: fn(&lines::Change) -> usize| changes.iter().map(|change| side(change) as u64).sum();
    Counts {
        added: sum(|change| change.new.len()),
        removed: sum(|change| change.old.len()),
        is_binary: false,
    }
}

fn is_binary(bytes: &[u8]) -> bool {
    bytes.len() > LARGEST_TEXT || bytes.iter().take(SEARCHED_FOR_ZERO).any(|byte| *byte == 0)
}
