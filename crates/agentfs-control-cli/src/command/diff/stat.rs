//! `diff --stat`: how many lines differ, file by file.

use super::files::{Change, Files};
use super::sides::{Read, Sides};
use crate::failure::Failure;
use crate::interrupt;
use crate::output::{self, Output, shown};
use crate::patch::{self, Counts};

/// Columns where there is no terminal.
const COLUMNS: usize = 80;
/// The most of them for a name.
const NAME: usize = 50;

pub(super) fn counted(files: &Files, sides: &Sides<'_>, colour: bool) -> Result<Output, Failure> {
    let mut rows = Vec::new();
    for change in &files.changes {
        interrupt::check()?;
        let (old, new) = sides.read(change, false)?;
        let is_large = |read: &Option<Read>| matches!(read, Some(Read::TooLarge));
        let counts = if is_large(&old) || is_large(&new) {
            Counts { is_binary: true, ..Counts::default() }
        } else {
            patch::count(bytes(old.as_ref()), bytes(new.as_ref()))
        };
        rows.push((label(change), counts, change.new_path().to_vec()));
    }
    let lines = table(&rows, columns(), colour);
    let counts: Vec<(&[u8], Counts)> =
        rows.iter().map(|(_, counts, path)| (path.as_slice(), *counts)).collect();
    Ok(output::counted(lines, &counts))
}

fn bytes(read: Option<&Read>) -> &[u8] {
    match read {
        Some(Read::Bytes(bytes)) => bytes,
        _ => &[],
    }
}

fn columns() -> usize {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(COLUMNS, |size| usize::from(size.ws_col).max(40))
}

fn label(change: &Change) -> String {
    let (old, new) = (shown(change.old_path()), shown(change.new_path()));
    if old == new { new } else { format!("{old} => {new}") }
}

type Row = (String, Counts, Vec<u8>);

fn table(rows: &[Row], columns: usize, colour: bool) -> Vec<String> {
    let width = rows.iter().map(|(label, ..)| label.chars().count()).max().unwrap_or(0).min(NAME);
    let total = |counts: &Counts| counts.added + counts.removed;
    let most = rows.iter().map(|(_, counts, _)| total(counts)).max().unwrap_or(0);
    let digits = most.to_string().len().max(3);
    let room = columns.saturating_sub(width + digits + 5).max(10) as u64;
    let mut lines = Vec::new();
    for (label, counts, _) in rows {
        let skipped = label.chars().count().saturating_sub(NAME);
        let cut: String = match skipped {
            0 => label.clone(),
            skipped => format!("...{}", label.chars().skip(skipped + 3).collect::<String>()),
        };
        let pad = " ".repeat(width.saturating_sub(cut.chars().count()));
        let tail = if counts.is_binary {
            format!("{:>digits$}", "Bin")
        } else {
            format!("{:>digits$} {}", total(counts), graph(counts, most, room, colour))
        };
        lines.push(format!(" {cut}{pad} | {tail}").trim_end().to_owned());
    }
    let (added, removed) = rows
        .iter()
        .fold((0, 0), |(added, removed), (_, counts, _)| (added + counts.added, removed + counts.removed));
    let s = |count: u64| if count == 1 { "" } else { "s" };
    let mut summary = format!(" {} file{} changed", rows.len(), s(rows.len() as u64));
    if added > 0 || removed == 0 {
        summary.push_str(&format!(", {added} insertion{}(+)", s(added)));
    }
    if removed > 0 || added == 0 {
        summary.push_str(&format!(", {removed} deletion{}(-)", s(removed)));
    }
    if !rows.is_empty() {
        lines.push(summary);
    }
    lines
}

/// Plus and minus signs, all of them where there is room, else in proportion.
fn graph(counts: &Counts, most: u64, room: u64, colour: bool) -> String {
    let scale = |count: u64| if most <= room { count } else { (count * room).div_ceil(most.max(1)) };
    let run = |sign: &str, count: u64| sign.repeat(usize::try_from(scale(count)).unwrap_or(0));
    let (plus, minus) = (run("+", counts.added), run("-", counts.removed));
    if colour { format!("\x1b[32m{plus}\x1b[m\x1b[31m{minus}\x1b[m") } else { format!("{plus}{minus}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, added: u64, removed: u64, is_binary: bool) -> Row {
        (label.into(), Counts { added, removed, is_binary }, label.into())
    }

    #[test]
    fn it_looks_as_that_of_git() {
        let rows = [row("a", 2, 1, false), row("dir/b.bin", 0, 0, true), row("old => new", 0, 0, false)];
        let expected = [
            " a          |   3 ++-",
            " dir/b.bin  | Bin",
            " old => new |   0",
            " 3 files changed, 2 insertions(+), 1 deletion(-)",
        ];
        assert_eq!(table(&rows, 80, false), expected);
        assert!(table(&[], 80, false).is_empty());
    }

    #[test]
    fn many_lines_fit_the_terminal() {
        let rows = [row("a", 5000, 100, false), row(&"n".repeat(90), 1, 0, false)];
        assert!(table(&rows, 80, false).iter().all(|line| line.chars().count() <= 82));
    }
}
