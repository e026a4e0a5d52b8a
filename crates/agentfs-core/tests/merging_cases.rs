//! Merges, restores and undos that went wrong once, each told by itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod volume;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agentfs_core::testing::{config, merge, sound};
use agentfs_core::{
    Config, ConflictKind, FileKind, FsCore, InodeId, Memory, MergeWish, Merged, Policy, Progress, Result,
    Unrecorded, ViewId,
};
use volume::{Volume, name};

/// An empty volume.
fn empty() -> Volume {
    let config = Config { max_snapshots: 1000, ..config() };
    Volume(FsCore::new_volume(Arc::new(Memory::default()), Arc::new(Unrecorded), config).unwrap())
}

/// What is done to branches.
impl Volume {
    fn branch(&self, from: &str, name: &str) {
        self.0.create_branch(from, Some(name)).unwrap();
    }

    fn snapshot(&self, of: &str, name: &str) {
        self.0.create_snapshot(of, Some(name)).unwrap();
    }

    /// Merges; `meanwhile` is done once while it is planned.
    fn merge_while(
        &self,
        source: &str,
        into: &str,
        policy: Policy,
        meanwhile: impl Fn() + Sync,
    ) -> Result<Merged> {
        let is_done = AtomicBool::new(false);
        let left_out = |_: &[u8], _| {
            if !is_done.swap(true, Ordering::SeqCst) {
                meanwhile();
            }
            false
        };
        let wish = MergeWish {
            source,
            into: Some(into),
            policy,
            is_dry: false,
            with_git: false,
            left_out: &left_out,
        };
        self.0.merge(&wish, &Progress::default())
    }

    /// It merges without a conflict.
    fn merges(&self, source: &str, into: &str) {
        let merged = merge(&self.0, source, into, Policy::Refuse).unwrap();
        assert!(merged.conflicts.is_empty(), "{:?}", merged.conflicts);
        self.sound();
    }

    fn conflicts(&self, source: &str, into: &str) -> Vec<ConflictKind> {
        merge(&self.0, source, into, Policy::Refuse)
            .unwrap()
            .conflicts
            .iter()
            .map(|conflict| conflict.kind)
            .collect()
    }

    fn restore(&self, from: &str, paths: &[&str]) {
        let paths: Vec<Vec<u8>> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        self.0.restore("main", from, &paths, false, &Progress::default()).unwrap();
        self.sound();
    }

    fn undo(&self) {
        assert!(self.0.undo(&Progress::default()).is_ok());
        self.sound();
    }

    fn sound(&self) {
        assert_eq!(sound(&self.0), Ok(()));
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn what_was_taken_back_stays_so_when_a_merge_is_undone_and_done_again() {
    let v = empty();
    v.put("main", "f", "1");
    v.branch("main", "b");
    v.put("b", "g", "of b");
    v.put("b", "f", "2");
    v.merges("b", "main");
    v.remove("main", "g");
    v.put("main", "f", "1");
    v.put("b", "h", "later");
    v.merges("b", "main");
    v.undo();
    v.merges("b", "main");
    assert_eq!(
        (v.text("main", "g"), v.text("main", "f"), v.text("main", "h")),
        (None, some("1"), some("later"))
    );
}

#[test]
fn a_branch_of_an_older_snapshot_merges_from_what_that_knew() {
    let v = empty();
    v.put("main", "f", "1");
    v.branch("main", "b");
    v.put("b", "g", "g");
    v.merges("b", "main");
    v.remove("main", "g");
    v.snapshot("main", "s");
    v.put("b", "h", "h");
    v.merges("b", "main");
    v.branch("s", "c");
    v.merges("b", "c");
    assert_eq!((v.text("c", "g"), v.text("c", "h")), (None, some("h")));
}

#[test]
fn a_branch_that_was_deleted_and_came_back_merges_as_before() {
    let v = empty();
    v.put("main", "f", "1");
    v.branch("main", "b");
    v.put("b", "x", "x");
    v.branch("b", "c");
    v.put("c", "y", "y");
    v.remove("b", "x");
    v.0.discard_branch("c", false).unwrap();
    v.undo();
    v.merges("c", "b");
    assert_eq!((v.text("b", "x"), v.text("b", "y")), (None, some("y")));
    v.0.discard_branch("c", false).unwrap();
    v.0.discard_branch("b", true).unwrap();
    v.undo();
    v.merges("b", "main");
    assert_eq!(v.text("main", "y"), some("y"));
}

#[test]
fn a_deletion_during_a_merge_takes_no_state_that_it_needs() {
    let v = empty();
    v.put("main", "f", "1");
    v.branch("main", "b");
    v.put("b", "g", "g");
    v.snapshot("main", "other");
    let delete = || assert!(v.0.delete_snapshot("other").is_ok());
    v.merge_while("b", "main", Policy::Refuse, delete).unwrap();
    v.remove("main", "g");
    v.put("b", "h", "h");
    v.merges("b", "main");
    assert_eq!((v.text("main", "g"), v.text("main", "h")), (None, some("h")));
}

#[test]
fn a_directory_that_goes_during_a_merge_is_made_again_or_it_conflicts() {
    let v = empty();
    v.make("main", "d", FileKind::Directory);
    v.put("main", "f", "1");
    v.branch("main", "b");
    v.put("b", "d/new", "precious");
    // Somebody stands in it.
    v.0.remember(ViewId::MAIN, v.find("main", "d").unwrap());
    let remove = || v.0.rmdir(ViewId::MAIN, InodeId::ROOT, &name("d")).unwrap();
    let merged = v.merge_while("b", "main", Policy::Refuse, remove).unwrap();
    v.sound();
    assert!(
        !merged.conflicts.is_empty() || v.text("main", "d/new") == some("precious"),
        "{:?}",
        merged.steps
    );
}

/// Both edit a file, each keeps its own when it merges the other, and then they merge once more.
fn crossed(v: &Volume) {
    v.snapshot("main", "sa");
    v.merge_while("b", "main", Policy::Ours, || {}).unwrap();
    v.merge_while("sa", "b", Policy::Ours, || {}).unwrap();
    v.sound();
}

#[test]
fn what_conflicted_when_merges_crossed_conflicts_still() {
    for start in ["", "\0"] {
        let text = |text: &str| format!("{start}{text}\n");
        let v = empty();
        v.put("main", "f", &text("o"));
        v.branch("main", "b");
        v.put("main", "f", &text("a"));
        v.put("b", "f", &text("b"));
        crossed(&v);
        assert_eq!(v.conflicts("b", "main"), [ConflictKind::EditEdit], "{start:?}");
        assert_eq!(v.conflicts("main", "b"), [ConflictKind::EditEdit], "{start:?}");
    }
    let v = empty();
    v.put("main", "f", "o\n");
    v.put("main", "k", "k");
    v.branch("main", "b");
    v.put("main", "f", "a\n");
    v.remove("b", "f");
    crossed(&v);
    assert_eq!(v.conflicts("b", "main"), [ConflictKind::EditDelete]);
    assert_eq!((v.text("main", "f"), v.text("b", "f")), (some("a\n"), None));
    let v = empty();
    v.put("main", "k", "k");
    v.branch("main", "b");
    v.put("main", "f", "\0a");
    v.put("b", "f", "\0b");
    crossed(&v);
    assert!(!v.conflicts("b", "main").is_empty());
    assert_eq!(v.text("main", "f"), some("\0a"));
}

#[test]
fn paths_of_hard_links_go_back_one_by_one() {
    let v = empty();
    v.make("main", "d", FileKind::Directory);
    v.put("main", "d/f", "1");
    v.put("main", "d/g", "2");
    v.snapshot("main", "s");
    v.remove("main", "d/g");
    v.link("main", "d/f", "d/g");
    v.restore("s", &["d"]);
    assert_eq!((v.text("main", "d/f"), v.text("main", "d/g")), (some("1"), some("2")));
    // A name that nobody asked for stays what it is.
    v.put("main", "d/f", "3");
    v.link("main", "d/f", "outside");
    v.restore("s", &["d/f"]);
    assert_eq!((v.text("main", "d/f"), v.text("main", "outside")), (some("1"), some("3")));
    // Links come back as links.
    v.link("main", "d/f", "d/h");
    v.snapshot("main", "linked");
    v.remove("main", "d/f");
    v.remove("main", "d/h");
    v.restore("linked", &["d"]);
    assert!(v.find("main", "d/f").is_some() && v.find("main", "d/f") == v.find("main", "d/h"));
}

#[test]
fn each_undo_undoes_one_thing() {
    let v = empty();
    v.put("main", "f", "1");
    v.branch("main", "b");
    v.snapshot("main", "s");
    v.put("main", "f", "2");
    v.restore("s", &[]);
    v.put("b", "g", "g");
    v.merges("b", "main");
    v.remove("main", "g");
    v.undo();
    v.undo();
    assert_eq!(v.text("main", "f"), some("2"));
}

#[test]
fn a_merge_that_was_undone_is_merged_again_also_when_the_other_had_it_already() {
    let v = empty();
    v.put("main", "f", "1");
    v.branch("main", "b");
    v.put("b", "f", "2");
    v.put("b", "g", "g");
    v.merges("b", "main");
    v.merges("main", "b");
    v.undo();
    assert_eq!((v.text("main", "f"), v.text("main", "g")), (some("1"), None));
    v.merges("main", "b");
    assert_eq!((v.text("b", "f"), v.text("b", "g")), (some("2"), some("g")), "nothing is taken back there");
    v.merges("b", "main");
    assert_eq!((v.text("main", "f"), v.text("main", "g")), (some("2"), some("g")));
}

/// The target moves a file, one branch saves it as editors do and is merged; what a third did to it is not lost then.
#[test]
fn a_file_that_was_moved_saved_and_merged_is_the_same_to_a_third() {
    for third in ["deletes", "edits"] {
        let v = empty();
        let text = |b: &str, c: &str| format!("A\n{0}{b}\n{0}{c}\n", "-\n".repeat(9));
        v.put("main", "f", &text("B", "C"));
        v.branch("main", "p");
        v.branch("main", "q");
        v.rename("main", "f", "z");
        v.save("p", "f", &text("of p", "C"));
        match third {
            "deletes" => v.remove("q", "f"),
            _ => v.save("q", "f", &text("B", "of q")),
        }
        v.merges("p", "main");
        if third == "deletes" {
            assert_eq!(v.conflicts("q", "main"), [ConflictKind::EditDelete]);
        } else {
            v.merges("q", "main");
            assert_eq!(v.text("main", "z"), some(&text("of p", "of q")));
            // Each of the others knows it, too, wherever it comes from.
            v.merges("main", "p");
            v.save("p", "z", &text("of p again", "of q"));
            v.merges("main", "q");
            v.merges("p", "main");
            assert_eq!(v.text("main", "z"), some(&text("of p again", "of q")));
        }
    }
}

/// With `--theirs` what made room for something of the other lies where the other has it.
#[test]
fn what_both_have_is_not_dropped_for_what_the_other_edited() {
    for is_edited in [false, true] {
        let v = empty();
        v.put("main", "e", "both");
        v.put("main", "g", "g");
        v.branch("main", "y");
        v.rename("y", "e", "g");
        v.put("main", "g", "edited");
        if is_edited {
            v.put("main", "e", "both, edited");
        }
        merge(&v.0, "main", "y", Policy::Theirs).unwrap();
        v.sound();
        let e = if is_edited { "both, edited" } else { "both" };
        assert_eq!((v.text("y", "e"), v.text("y", "g")), (some(e), some("edited")));
    }
}
