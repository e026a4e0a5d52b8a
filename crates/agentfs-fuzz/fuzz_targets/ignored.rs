//! Whatever `.agentfsignore` says, it is refused or leaves out some paths; and what lies below such a path, too.
#![no_main]
#![allow(dead_code)]

#[path = "../../agentfs-control-cli/src/left_out.rs"]
mod left_out;

/// As the command line has it, which is no library.
mod failure {
    pub struct Failure(String);

    impl Failure {
        pub fn new(text: impl Into<String>) -> Failure {
            Failure(text.into())
        }

        pub fn io(text: &str, error: &std::io::Error) -> Failure {
            Failure(format!("{text}: {error}"))
        }
    }
}

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use left_out::Ignored;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static ROOT: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fuzz_target!(|input: (&[u8], Vec<&[u8]>)| {
    std::fs::write(ROOT.path().join(".agentfsignore"), input.0).unwrap();
    let Ok(ignored) = Ignored::of(ROOT.path()) else { return };
    for bytes in input.1 {
        // Paths come from the names in directories.
        let given = Path::new(OsStr::from_bytes(bytes));
        let path: PathBuf = given.components().collect();
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if is_plain && path.components().next().is_some() && !bytes.contains(&0) {
            let above = ignored.has(&path, true);
            let below = ignored.has(&path.join("below"), false);
            assert!(!above || below, "{path:?} is left out, and what lies in it is not");
        }
    }
});
