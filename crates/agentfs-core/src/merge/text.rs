//! Merging text, line by line.

use diffy::{ConflictStyle, MergeOptions};

use super::Policy;

/// Longest text that is merged by lines, in bytes: longer files are taken whole or not at all.
pub const MAX_TEXT: u64 = 4 << 20;
/// A file with a zero byte among so many is no text (as git has it).
const SAMPLE: usize = 8000;
/// Markers so long that no text has them, until they get the usual length.
const MARKER: usize = 71;
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
    options.set_conflict_style(ConflictStyle::Merge).set_conflict_marker_length(MARKER);
    match options.merge_bytes(base, ours, theirs) {
        Ok(text) => Merged { text, is_conflict: false },
        Err(marked) => Merged { text: settled(&marked, policy, labels), is_conflict: true },
    }
}

/// Which lines are being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Both,
    Ours,
    Theirs,
}

/// Lines between markers as the policy wants them.
fn settled(marked: &[u8], policy: Policy, labels: &Labels) -> Vec<u8> {
    let mut part = Part::Both;
    let mut text = Vec::with_capacity(marked.len());
    for line in marked.split_inclusive(|byte| *byte == b'\n') {
        let mark = line.first().copied().filter(|first| {
            line.len() >= MARKER
                && line.get(..MARKER).is_some_and(|start| start.iter().all(|byte| byte == first))
        });
        let (next, sign, label) = match mark {
            Some(b'<') => (Part::Ours, b'<', labels.ours.as_str()),
            Some(b'=') => (Part::Theirs, b'=', ""),
            Some(b'>') => (Part::Both, b'>', labels.theirs.as_str()),
            _ => {
                let is_wanted = match (part, policy) {
                    (Part::Ours, Policy::Theirs) | (Part::Theirs, Policy::Ours) => false,
                    (Part::Both | Part::Ours | Part::Theirs, _) => true,
                };
                if is_wanted {
                    text.extend_from_slice(line);
                }
                continue;
            }
        };
        part = next;
        if matches!(policy, Policy::Markers | Policy::Refuse) {
            if text.last().is_some_and(|last| *last != b'\n') {
                text.push(b'\n'); // the last line of a side had no end
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
    fn a_last_line_without_an_end_gets_one_before_a_marker() {
        let marked = "<<<<<<< main\nb\n=======\nc\n>>>>>>> feature\n";
        assert_eq!(merged("a", "b", "c", Policy::Markers), (marked.into(), true));
        assert_eq!(merged("a", "b", "c", Policy::Theirs).0.trim_end(), "c");
    }
}
