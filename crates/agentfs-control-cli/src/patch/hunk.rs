//! Changes with the lines around them.

use std::io;
use std::ops::Range;

use crate::patch::lines::{Change, Lines};
use crate::patch::paint::{Printer, is_space};

/// How many equal lines are shown before and after a change.
const CONTEXT: usize = 3;
/// How much of a line names the function that a hunk is in, in bytes.
const LONGEST_FUNCTION: usize = 80;
/// Git builds the first line of a hunk in so many bytes, of which two are for the space and the newline.
const LONGEST_HEADER: usize = 128;

/// Writes the hunks of a file.
pub(crate) fn write(printer: &mut Printer<'_>, lines: &Lines<'_>, changes: &[Change]) -> io::Result<()> {
    printer.watch_blank_end(&lines.old, &lines.new);
    let (mut function, mut searched) = (&[][..], 0);
    // Changes whose contexts touch share a hunk.
    for hunk in changes.chunk_by(|one, next| next.old.start - one.old.end <= 2 * CONTEXT) {
        let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { continue };
        let before = first.old.start.min(CONTEXT);
        let after = (lines.old.len() - last.old.end).min(CONTEXT);
        let old = first.old.start - before..last.old.end + after;
        let new = first.new.start - before..last.new.end + after;
        function = last_function(within(&lines.old, searched..old.start)).unwrap_or(function);
        searched = old.start;
        write_header(printer, &old, &new, function)?;
        write_lines(printer, lines, hunk, old)?;
    }
    Ok(())
}

fn write_lines(
    printer: &mut Printer<'_>,
    lines: &Lines<'_>,
    hunk: &[Change],
    shown: Range<usize>,
) -> io::Result<()> {
    let mut next = shown.start;
    for change in hunk {
        within(&lines.old, next..change.old.start).iter().try_for_each(|line| printer.context(line))?;
        within(&lines.old, change.old.clone()).iter().try_for_each(|line| printer.removed(line))?;
        within(&lines.new, change.new.clone()).iter().try_for_each(|line| printer.added(line))?;
        next = change.old.end;
    }
    within(&lines.old, next..shown.end).iter().try_for_each(|line| printer.context(line))
}

fn write_header(
    printer: &mut Printer<'_>,
    old: &Range<usize>,
    new: &Range<usize>,
    function: &[u8],
) -> io::Result<()> {
    let header = format!("@@ -{} +{} @@", numbers(old), numbers(new));
    let room = LONGEST_HEADER.saturating_sub(header.len() + 2);
    let cut = function.get(..room).unwrap_or(function);
    printer.hunk(&header, valid_start(cut), first_number(old), first_number(new))
}

/// The first line and how many there are, as `3,7`; one is not told.
fn numbers(lines: &Range<usize>) -> String {
    match lines.len() {
        1 => first_number(lines).to_string(),
        count => format!("{},{count}", first_number(lines)),
    }
}

/// Counted from 1; of no lines, the line before them.
fn first_number(lines: &Range<usize>) -> usize {
    lines.start + usize::from(!lines.is_empty())
}

fn within<'l, 'a>(lines: &'l [&'a [u8]], range: Range<usize>) -> &'l [&'a [u8]] {
    lines.get(range).unwrap_or_default()
}

/// What names a function: the last line that starts as an identifier.
fn last_function<'a>(lines: &[&'a [u8]]) -> Option<&'a [u8]> {
    let is_start = |byte: &u8| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$');
    let line = lines.iter().rev().find(|line| line.first().is_some_and(is_start))?;
    let cut = line.get(..LONGEST_FUNCTION).unwrap_or(line);
    let length = cut.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
    cut.get(..length)
}

/// As much of it as git takes for UTF-8.
fn valid_start(function: &[u8]) -> &[u8] {
    let valid = function.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let length = valid.find(['\u{fffe}', '\u{ffff}']).unwrap_or(valid.len());
    function.get(..length).unwrap_or(function)
}
