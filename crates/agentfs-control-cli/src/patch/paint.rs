//! Lines of a patch, with git's default colours or without.

use std::io;

use crate::patch::Paint;

const RESET: &[u8] = b"\x1b[m";

/// What a line is coloured as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    /// As it is, with nothing after it.
    None,
    /// Lines between changes: no colour, yet a reset after it.
    Context,
    Meta,
    Hunk,
    Removed,
    Added,
    /// White space that should not be there.
    BadSpace,
}

impl Ink {
    fn code(self) -> &'static [u8] {
        match self {
            Ink::None | Ink::Context => b"",
            Ink::Meta => b"\x1b[1m",
            Ink::Hunk => b"\x1b[36m",
            Ink::Removed => b"\x1b[31m",
            Ink::Added => b"\x1b[32m",
            Ink::BadSpace => b"\x1b[41m",
        }
    }
}

/// Writes lines.
pub(crate) struct Printer<'w> {
    out: &'w mut dyn io::Write,
    paint: Paint,
    /// The next line of both sides, counted as git does to find new blank lines at a file's end.
    old_number: usize,
    new_number: usize,
    /// From which lines on there is nothing but blank ones, if the new side has more of them.
    blank_end: Option<(usize, usize)>,
}

impl<'w> Printer<'w> {
    pub(crate) fn new(out: &'w mut dyn io::Write, paint: Paint) -> Printer<'w> {
        Printer { out, paint, old_number: 0, new_number: 0, blank_end: None }
    }

    /// A whole line, without its newline, in one colour.
    pub(crate) fn line(&mut self, ink: Ink, line: &[u8]) -> io::Result<()> {
        self.span(ink, line)?;
        self.out.write_all(b"\n")
    }

    /// A name above the hunks. A tab after names with spaces keeps `patch` from cutting them.
    pub(crate) fn label(&mut self, mark: &[u8], name: &[u8]) -> io::Result<()> {
        self.span(Ink::Meta, &[mark, name].concat())?;
        self.out.write_all(if name.contains(&b' ') { b"\t\n" } else { b"\n" })
    }

    /// The first line of a hunk, and the numbers of the lines that follow.
    pub(crate) fn hunk(&mut self, header: &str, function: &[u8], old: usize, new: usize) -> io::Result<()> {
        (self.old_number, self.new_number) = (old, new);
        self.span(Ink::Hunk, header.as_bytes())?;
        if !function.is_empty() {
            self.span(Ink::Context, b" ")?;
            self.span(Ink::Context, function)?;
        }
        self.out.write_all(b"\n")
    }

    pub(crate) fn context(&mut self, line: &[u8]) -> io::Result<()> {
        self.old_number += 1;
        self.new_number += 1;
        self.marked(Ink::Context, b' ', line)
    }

    pub(crate) fn removed(&mut self, line: &[u8]) -> io::Result<()> {
        self.old_number += 1;
        self.marked(Ink::Removed, b'-', line)
    }

    pub(crate) fn added(&mut self, line: &[u8]) -> io::Result<()> {
        self.new_number += 1;
        let is_at_end =
            self.blank_end.is_some_and(|(old, new)| old <= self.old_number && new <= self.new_number);
        match self.paint {
            Paint::Plain => self.marked(Ink::Added, b'+', line),
            Paint::Colour if is_at_end && is_blank(line) => self.marked(Ink::BadSpace, b'+', line),
            Paint::Colour => {
                self.span(Ink::Added, b"+")?;
                self.checked(line.strip_suffix(b"\n").unwrap_or(line))?;
                self.end(line)
            }
        }
    }

    /// Finds where a file's blank end starts, for [`Printer::added`] to mark new lines in it.
    pub(crate) fn watch_blank_end(&mut self, old: &[&[u8]], new: &[&[u8]]) {
        if self.paint == Paint::Colour {
            let (old_blank, new_blank) = (blank_lines_at_end(old), blank_lines_at_end(new));
            let starts = (old.len() - old_blank + 1, new.len() - new_blank + 1);
            self.blank_end = (new_blank > old_blank).then_some(starts);
        }
    }

    /// A line of a file after its mark. A carriage return at its end is no part of what is coloured.
    fn marked(&mut self, ink: Ink, mark: u8, line: &[u8]) -> io::Result<()> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let (text, rest) = text.strip_suffix(b"\r").map_or((text, &b""[..]), |text| (text, &b"\r"[..]));
        self.span(ink, &[&[mark], text].concat())?;
        self.out.write_all(rest)?;
        self.end(line)
    }

    /// The newline, and what is said if a file's last line has none.
    fn end(&mut self, line: &[u8]) -> io::Result<()> {
        self.out.write_all(b"\n")?;
        if line.ends_with(b"\n") {
            return Ok(());
        }
        self.line(Ink::Context, b"\\ No newline at end of file")
    }

    /// An added line: spaces before a tab and white space at the end are marked.
    fn checked(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
        let (mut text, trailing) = line.split_at_checked(length).unwrap_or((line, &[]));
        while let Some(tab) = text.iter().position(|byte| *byte != b' ') {
            let Some((spaces, [b'\t', rest @ ..])) = text.split_at_checked(tab) else { break };
            self.filled(Ink::BadSpace, spaces)?;
            self.out.write_all(b"\t")?;
            text = rest;
        }
        self.filled(Ink::Added, text)?;
        self.filled(Ink::BadSpace, trailing)
    }

    fn filled(&mut self, ink: Ink, text: &[u8]) -> io::Result<()> {
        if text.is_empty() { Ok(()) } else { self.span(ink, text) }
    }

    fn span(&mut self, ink: Ink, text: &[u8]) -> io::Result<()> {
        if self.paint == Paint::Plain || ink == Ink::None {
            return self.out.write_all(text);
        }
        self.out.write_all(ink.code())?;
        self.out.write_all(text)?;
        self.out.write_all(RESET)
    }
}

/// What git takes for white space.
pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|byte| is_space(*byte))
}

/// As git counts them, from the end to the first that is not blank or to the file's second byte.
fn blank_lines_at_end(lines: &[&[u8]]) -> usize {
    let mut end: usize = lines.iter().map(|line| line.len()).sum();
    let is_counted = |line: &&&[u8]| {
        let is_near_start = end <= 1 + usize::from(line.ends_with(b"\n"));
        end = end.saturating_sub(line.len());
        !is_near_start && is_blank(line)
    };
    lines.iter().rev().take_while(is_counted).count()
}
