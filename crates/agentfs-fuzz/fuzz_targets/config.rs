//! Whatever a configuration file says: it is refused in one line of words, or taken.
#![no_main]
#![allow(dead_code)]

#[path = "../../agentfs-fuse-host/src/config/file.rs"]
mod file;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = file::parse(text) {
        let words = format!("{error:#}");
        assert!(!words.is_empty() && words.lines().count() == 1, "{words}");
    }
});
