//! What is written here against what the real git writes and takes.

mod generate;
mod repository;

use std::collections::{BTreeMap, HashSet};

use super::*;
use repository::Repository;

/// Both sides, the patch as git writes it and as this module does must agree; git must take the patch.
fn check(name: &str, old: Option<Side<'_>>, new: Option<Side<'_>>) {
    let Some(repository) = Repository::new() else { return };
    let trees = repository.trees(old.as_slice(), new.as_slice());
    for (paint, colour) in [(Paint::Plain, "never"), (Paint::Colour, "always")] {
        let (patch, counts) = ours(old.as_ref(), new.as_ref(), paint);
        assert_eq!(shown(&patch), shown(&repository.diff(&trees, colour)), "{name}");
        if paint == Paint::Plain {
            let stat = repository.numstat(&trees);
            assert!(stat.iter().all(|line| *line == told(counts)), "{name}: {stat:?} {counts:?}");
            if !counts.is_binary && !patch.is_empty() {
                repository.apply(&trees, &patch, name);
            }
        }
    }
}

fn ours(old: Option<&Side<'_>>, new: Option<&Side<'_>>, paint: Paint) -> (Vec<u8>, Counts) {
    let mut patch = Vec::new();
    let counts = write(&mut patch, old, new, paint).unwrap();
    (patch, counts)
}

fn shown(patch: &[u8]) -> String {
    patch.split_inclusive(|byte| *byte == b'\n').map(|line| line.escape_ascii().to_string() + "\n").collect()
}

/// As `--numstat` has it; a change of type is two lines there, which a test leaves out.
fn told(counts: Counts) -> String {
    if counts.is_binary { "-\t-".to_owned() } else { format!("{}\t{}", counts.added, counts.removed) }
}

fn file<'a>(path: &'a str, bytes: &'a [u8]) -> Option<Side<'a>> {
    Some(Side { path: path.as_bytes(), mode: 0o100_644, bytes })
}

fn link<'a>(path: &'a str, bytes: &'a [u8]) -> Option<Side<'a>> {
    Some(Side { path: path.as_bytes(), mode: 0o120_000, bytes })
}

fn program<'a>(path: &'a str, bytes: &'a [u8]) -> Option<Side<'a>> {
    Some(Side { path: path.as_bytes(), mode: 0o100_755, bytes })
}

/// Two contents at one path.
fn check_text(name: &str, old: &[u8], new: &[u8]) {
    check(name, file("x", old), file("x", new));
    check(name, file("x", new), file("x", old));
}

fn numbered(range: std::ops::RangeInclusive<usize>) -> Vec<String> {
    range.map(|number| format!("  line {number}\n")).collect()
}

#[test]
fn files_come_and_go() {
    let text = b"one\ntwo\n";
    for bytes in [&b""[..], text, b"one", b"\n", b"a\0b"] {
        for side in [file("d/x", bytes), program("x", bytes)] {
            check("created", None, side);
            check("deleted", side, None);
        }
    }
    check("link created", None, link("x", b"target"));
    check("link deleted", link("x", b"target"), None);
    check("nothing", file("x", text), file("x", text));
    let (patch, counts) = ours(None, None, Paint::Plain);
    assert!(patch.is_empty() && counts == Counts::default());
}

#[test]
fn modes_and_types_change() {
    let (text, other) = (&b"one\ntwo\n"[..], &b"one\n2\n"[..]);
    check("mode only", file("x", text), program("x", text));
    check("mode and content", program("x", text), file("x", other));
    check("mode of an empty file", file("x", b""), program("x", b""));
    check("mode of a binary file", file("x", b"\0"), program("x", b"\0"));
    check("mode and content of a binary file", file("x", b"\0"), program("x", b"\x001"));
    check("link", link("x", b"here"), link("x", b"there"));
    check("file to link", file("x", b"target\n"), link("x", b"target"));
    check("link to file", link("x", b"target"), program("x", b"target"));
    check("empty file to link", file("x", b""), link("x", b"target"));
    check("binary file to link", file("x", b"\0"), link("x", b"target"));
}

#[test]
fn files_are_renamed() {
    let (text, other) = (numbered(1..=20).concat(), numbered(3..=26).concat());
    let (text, other) = (text.as_bytes(), other.as_bytes());
    check("only renamed", file("d/x", text), file("e/y", text));
    check("and changed", file("x", text), file("y", other));
    check("and grown", file("x", text), file("y", &[text, text, b"end"].concat()));
    check("and shrunk", file("x", &[text, text, other].concat()), file("y", text));
    check("and its lines moved", file("x", b"one\ntwo\n"), file("y", b"two\none\n"));
    check("and its line ends changed", file("x", b"one\ntwo\n3\n"), file("y", b"one\r\ntwo\r\n3\r\r\n"));
    check("and its mode", file("x", text), program("y", text));
    check("and all", file("x y", text), program("\u{e4}", other));
    check("link", link("x", b"target"), link("y", b"target"));
    let long = "no newline in sight, ".repeat(40);
    check("long line", file("x", long.as_bytes()), file("y", long.replacen("see", "sea", 9).as_bytes()));
    check("long line end", file("x", long.as_bytes()), file("y", (long.clone() + "end").as_bytes()));
    check("binary", file("x", &[text, b"\0"].concat()), file("y", &[text, b"\r\n\0\r\n\r\n"].concat()));
}

#[test]
fn names_are_quoted() {
    for path in [
        "with space",
        "quote\"d",
        "back\\slash",
        "tab\there",
        "line\nbreak",
        "\u{7}\u{8}\u{b}\u{c}\r",
        "\u{1}\u{1f}\u{7f}",
        "\u{e9}t\u{e9}",
        "\u{e9} with space",
        "it's $fine & <well> ~",
        "d i r/f\u{fc}r/x",
        "-x",
    ] {
        check(path, file(path, b"one\n"), file(path, b"two\n"));
        check(path, None, file(path, b"one\n"));
        check(path, file(path, b"one\ntwo\n"), file("new", b"one\ntwo\n"));
        check(path, file(path, b"\0"), file(path, b"\0\0"));
    }
    let bytes = b"one\n";
    check("not UTF-8", None, Some(Side { path: b"a\xff\xfeb", mode: 0o100_644, bytes }));
}

#[test]
fn a_zero_byte_makes_a_file_binary() {
    let long = "x\n".repeat(5000);
    for at in [0, 7999, 8000, 8001] {
        let mut zero = long.clone().into_bytes();
        zero[at] = 0;
        check_text(&format!("zero byte at {at}"), long.as_bytes(), &zero);
    }
    assert!(count(b"\0", b"").is_binary && count(b"\0", b"\0").is_binary);
    assert_eq!(count(b"a\nb\n", b"a\nc\nd\n"), Counts { added: 2, removed: 1, is_binary: false });
    assert_eq!(count(b"a", b"a"), Counts::default());
}

#[test]
fn ends_of_files_and_lines() {
    check_text("no newline in one", b"a\nb\n", b"a\nb");
    check_text("no newline in both", b"a\nb", b"a\nc");
    check_text("no newline, not changed", b"a\nb\nc", b"x\nb\nc");
    check_text("no newline, not shown", b"a\n1\n2\n3\n4\nc", b"x\n1\n2\n3\n4\nc");
    check_text("more after it", b"a\nb", b"a\nb\nc\n");
    check_text("emptied", b"a\nb", b"");
    check_text("carriage returns", b"a\r\nb\r\nc\r", b"a\nb\r\r\nc\r\n");
    check_text("odd bytes", b"a\x0b\xff\n\x0c\n", b"a\x0b\xfe\n\x0c\x1b[1m\n");
}

#[test]
fn white_space_is_marked() {
    check_text("at the end", b"a\n", b"a \nb\t \r\n \n\t\n  c  \n");
    check_text("before tabs", b"a\n", b" \ta\n\t \tb\n  \t\t  c\n \t \td\n \t\n\t \t \n");
    check_text("blank lines at the end", b"a\n", b"a\n\n\t\n \n");
    check_text("more blank lines at the end", b"a\n\n", b"b\n\n\n\n");
    check_text("fewer blank lines at the end", b"a\n\n\n\n", b"b\n\n\n");
    check_text("blank lines in the middle", b"a\nb\n", b"a\n\n\nb\n\n");
    check_text("one long blank line", b"", b"    \n\n");
    check_text("blank without newline", b"a\n", b"a\n\n  ");
    for count in 0..6 {
        check_text("only blank lines", b"", "\n".repeat(count).as_bytes());
        check_text("blank lines for some", b"x\ny\n", ("y\n".to_owned() + &"\n".repeat(count)).as_bytes());
    }
}

#[test]
fn hunks_are_joined_and_numbered() {
    for apart in 1..=9 {
        let mut lines = numbered(1..=40);
        let old = lines.concat();
        lines[10] = "changed\n".to_owned();
        lines[10 + apart] = "changed too\n".to_owned();
        check_text("two changes", old.as_bytes(), lines.concat().as_bytes());
        lines[10 + apart].clear();
        check_text("a change and a removal", old.as_bytes(), lines.concat().as_bytes());
        lines[10] = numbered(99..=99 + apart).concat();
        check_text("an insertion and a removal", old.as_bytes(), lines.concat().as_bytes());
    }
    for at in [0, 1, 2, 3, 4, 35, 36, 37, 38, 39] {
        let mut lines = numbered(1..=40);
        let old = lines.concat();
        lines[at].clear();
        check_text("one line at the edge", old.as_bytes(), lines.concat().as_bytes());
    }
}

#[test]
fn hunks_name_their_function() {
    let body = numbered(1..=9).concat();
    let (long, umlauts) = ("f".repeat(200), "\u{e4}".repeat(60));
    for function in [
        "int main(void) {",
        "_start:",
        "$dollar",
        "  indented",
        "9 digits",
        "#define X",
        "trailing \t \r",
        &long,
        &format!("f{}  {}", "o".repeat(76), "x"),
        &format!("f{umlauts}"),
        &format!("fn {umlauts}"),
        "f\u{ffff}g",
        "f \u{fffe}",
        "f\u{fdd0}\u{1f600}\u{1ffff}g",
        "\u{e4}hnlich",
        "f\0g",
    ] {
        let old = format!("{function}\n{body}a\n{body}b\n{body}x\nother {{\n{body}c\n{body}");
        let new = old.replace("a\n", "A\n").replace("b\n", "").replace("c\n", "c\nC\n");
        check_text(function, old.as_bytes(), new.as_bytes());
    }
    let bytes = [b"f\xc3(\xff\n", body.as_bytes(), b"a\n"].concat();
    check_text("not UTF-8", &bytes, &bytes[..bytes.len() - 2]);
}

#[test]
fn random_edits_are_written_as_git_does() {
    let Some(repository) = Repository::new() else { return };
    let cases = generate::cases();
    let names: Vec<String> = (0..cases.len()).map(|number| format!("{number:04}")).collect();
    let sides = |pick: fn(&generate::Case) -> &String| -> Vec<Side<'_>> {
        let side = |(name, case)| file(name, pick(case).as_bytes()).unwrap();
        names.iter().map(String::as_str).zip(&cases).map(side).collect()
    };
    let (old, new) = (sides(|case| &case.old), sides(|case| &case.new));
    let trees = repository.trees(&old, &new);
    let whole = shown(&repository.diff(&trees, "never"));
    let patches: HashSet<&str> = whole.split("diff --git ").collect();
    let mut equal = BTreeMap::<&str, (usize, usize)>::new();
    let mut all = Vec::new();
    for ((case, old), new) in cases.iter().zip(&old).zip(&new) {
        let (patch, counts) = ours(Some(old), Some(new), Paint::Plain);
        assert_eq!(counts, count(old.bytes, new.bytes));
        let (same, of) = equal.entry(case.kind).or_default();
        *of += 1;
        *same += usize::from(patches.contains(shown(&patch).trim_start_matches("diff --git ")));
        all.extend(patch);
    }
    println!("equal to git's, of all: {equal:?}");
    repository.apply(&trees, &all, "random edits");
    let least = BTreeMap::from([("few edits", 98), ("few distinct lines", 88), ("many edits", 80)]);
    assert!(least.iter().all(|(kind, percent)| equal[kind].0 * 100 >= equal[kind].1 * percent), "{equal:?}");
}
