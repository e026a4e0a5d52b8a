//! Merging text, line by line.

use diffy::{ConflictStyle, MergeOptions};

use super::Policy;

/// Longest text that is merged by lines, in bytes: longer files are taken whole or not at all.
pub const MAX_TEXT: u64 = 4 << 20;
/// A file with a zero byte among so many is no text (as git has it).
const SAMPLE: usize = 8000;
/// How long markers are.
const USUAL: usize = 7;

/// What the two sides are called in markers.
#[derive(Clone, Debug)]
pub struct Labels {
    /// The branch that is merged into.
    pub ours: String,
    /// What is merged.
    pub theirs: String,
}

/// The merged text.
pub(super) struct Merged {
    /// The lines.
    pub(super) text: Vec<u8>,
    /// Did both change the same lines?
    pub(super) is_conflict: bool,
}

/// Is it text?
pub(super) fn is_text(bytes: &[u8]) -> bool {
    !bytes.get(..SAMPLE.min(bytes.len())).unwrap_or_default().contains(&0)
}

/// Merges what became of `base`. Where both changed the same lines, `policy` says what comes out.
pub(super) fn merge(base: &[u8], ours: &[u8], theirs: &[u8], policy: Policy, labels: &Labels) -> Merged {
    let mut options = MergeOptions::new();
    let length = marker_length([base, ours, theirs]);
    options.set_conflict_style(ConflictStyle::Merge).set_conflict_marker_length(length);
    match options.merge_bytes(base, ours, theirs) {
        Ok(text) => Merged { text, is_conflict: false },
        Err(marked) => Merged { text: settled(&marked, length, policy, labels), is_conflict: true },
    }
}

/// Which lines are being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Both,
    Ours,
    Theirs,
}

/// Lines between markers, which are of this length, as the policy wants them.
fn settled(marked: &[u8], length: usize, policy: Policy, labels: &Labels) -> Vec<u8> {
    let mut part = Part::Both;
    let mut text = Vec::with_capacity(marked.len());
    for line in marked.split_inclusive(|byte| *byte == b'\n') {
        let mark = marker(line, length);
        let is_wanted = match (part, policy) {
            (Part::Ours, Policy::Theirs) | (Part::Theirs, Policy::Ours) => false,
            (Part::Both | Part::Ours | Part::Theirs, _) => true,
        };
        // The last line of a side may have no end, and a marker follows it at once.
        let content = mark.map_or(line, |(at, _)| line.get(..at).unwrap_or_default());
        if is_wanted {
            text.extend_from_slice(content);
        }
        let (next, label) = match mark.map(|(_, sign)| sign) {
            None => continue,
            Some(b'<') => (Part::Ours, labels.ours.as_str()),
            Some(b'=') => (Part::Theirs, ""),
            Some(_) => (Part::Both, labels.theirs.as_str()),
        };
        part = next;
        if let (Policy::Markers | Policy::Refuse, Some((_, sign))) = (policy, mark) {
            if text.last().is_some_and(|last| *last != b'\n') {
                text.push(b'\n');
            }
            text.extend(std::iter::repeat_n(sign, USUAL));
            if !label.is_empty() {
                text.push(b' ');
                text.extend_from_slice(label.as_bytes());
            }
            text.push(b'\n');
        }
    }
    text
}

/// Where in a line a marker begins, and of which sign it is.
fn marker(line: &[u8], length: usize) -> Option<(usize, u8)> {
    let mut at = 0;
    for run in line.chunk_by(|a, b| a == b) {
        at += run.len();
        if let Some(sign) = run.first().filter(|sign| b"<=>".contains(sign) && run.len() >= length) {
            return Some((at - length, *sign));
        }
    }
    None
}

/// Markers that are longer than any such sign is repeated in a text.
fn marker_length(texts: [&[u8]; 3]) -> usize {
    let runs = texts.into_iter().flat_map(|text| text.chunk_by(|a, b| a == b));
    let signs = runs.filter(|run| run.first().is_some_and(|sign| b"<=>".contains(sign)));
    // Where a text ends in some and the other begins with some, they are no longer together.
    2 * signs.map(<[u8]>::len).max().unwrap_or(0).max(USUAL) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(base: &str, ours: &str, theirs: &str, policy: Policy) -> (String, bool) {
        let labels = Labels { ours: "main".into(), theirs: "feature".into() };
        let merged = merge(base.as_bytes(), ours.as_bytes(), theirs.as_bytes(), policy, &labels);
        (String::from_utf8(merged.text).unwrap(), merged.is_conflict)
    }

    #[test]
    fn lines_that_one_side_changed_are_taken_and_lines_that_both_did_conflict() {
        let base = "1\n2\n3\n4\n5\n6\n7\n";
        let one = merged(base, "one\n2\n3\n4\n5\n6\n7\n", "1\n2\n3\n4\n5\n6\nseven\n", Policy::Refuse);
        assert_eq!(one, ("one\n2\n3\n4\n5\n6\nseven\n".into(), false));
        let (ours, theirs) = ("1\n2\n3\nmine\n5\n6\n7\n", "eins\n2\n3\nyours\n5\n6\n7\n");
        let marked = "eins\n2\n3\n<<<<<<< main\nmine\n=======\nyours\n>>>>>>> feature\n5\n6\n7\n";
        assert_eq!(merged(base, ours, theirs, Policy::Markers), (marked.into(), true));
        assert_eq!(merged(base, ours, theirs, Policy::Ours), ("eins\n2\n3\nmine\n5\n6\n7\n".into(), true));
        assert_eq!(merged(base, ours, theirs, Policy::Theirs), ("eins\n2\n3\nyours\n5\n6\n7\n".into(), true));
    }

    #[test]
    fn a_text_that_has_markers_keeps_them() {
        let base = "<<<<<<< a\n=======\n>>>>>>> b\nx\n";
        let (ours, theirs) = ("<<<<<<< a\n=======\n>>>>>>> b\ny\n", "<<<<<<< a\n=======\n>>>>>>> b\nz\n");
        assert_eq!(merged(base, ours, theirs, Policy::Ours).0, ours);
        assert_eq!(merged(base, ours, theirs, Policy::Theirs).0, theirs);
    }

    #[test]
    fn lines_of_signs_are_no_markers() {
        let line = "=".repeat(200);
        let (base, ours, theirs) =
            (format!("{line}\nx\n{line}"), format!("{line}\ny\n{line}"), format!("{line}\nz\n{line}"));
        let marked = format!("{line}\n<<<<<<< main\ny\n=======\nz\n>>>>>>> feature\n{line}");
        assert_eq!(merged(&base, &ours, &theirs, Policy::Markers), (marked, true));
        assert_eq!(merged(&base, &ours, &theirs, Policy::Theirs).0, theirs);
        let (ours, theirs) = (format!("a{line}"), format!("b{line}"));
        assert_eq!(merged("c", &ours, &theirs, Policy::Ours).0.trim_end(), ours);
        assert_eq!(merged("c", &ours, &theirs, Policy::Theirs).0.trim_end(), theirs);
    }

    #[test]
    fn a_last_line_without_an_end_gets_one_before_a_marker() {
        let marked = "<<<<<<< main\nb\n=======\nc\n>>>>>>> feature\n";
        assert_eq!(merged("a", "b", "c", Policy::Markers), (marked.into(), true));
        assert_eq!(merged("a", "b", "c", Policy::Theirs).0.trim_end(), "c");
    }
}
