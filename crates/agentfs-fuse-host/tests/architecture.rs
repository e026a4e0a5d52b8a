//! The layers, kept true: who may import whom, where `unsafe` and system calls may be. A wrong arrow fails here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// All Rust files below `dir`, each with its path from there and its text without comments.
fn sources(dir: &Path) -> Vec<(String, String)> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
                found.push((path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned(), code.join("\n")));
            }
        }
    }
    assert!(!found.is_empty(), "no sources in {}", dir.display());
    found
}

/// Product code of a crate: what stands before the tests of a file.
fn product(crate_name: &str) -> Vec<(String, String)> {
    let all = sources(&workspace().join("crates").join(crate_name).join("src"));
    let before_tests = |text: String| text.split("#[cfg(test)]").next().unwrap().to_owned();
    all.into_iter().map(|(path, text)| (path, before_tests(text))).collect()
}

fn dependencies(crate_name: &str) -> Vec<String> {
    let manifest =
        fs::read_to_string(workspace().join("crates").join(crate_name).join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    section
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|n| !n.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn crates_depend_downwards() {
    assert_eq!(dependencies("agentfs-proto"), ["ethereum_ssz", "ethereum_ssz_derive"]);
    for (above, forbidden) in [
        ("agentfs-core", &["fuser", "agentfs-proto", "agentfs-fuse-host", "clap", "libc"][..]),
        ("agentfs-control-cli", &["fuser", "agentfs-core", "agentfs-fuse-host"]),
    ] {
        let found = dependencies(above);
        assert!(
            forbidden.iter().all(|name| !found.iter().any(|f| f == name)),
            "{above} depends on {found:?}"
        );
    }
}

/// The layers of the core, lowest first; each may use those before it. `error`, `config` are for all.
const LAYERS: [(&str, &[&str]); 10] = [
    ("types", &[]),
    ("store", &["types"]),
    ("tree", &["types", "store"]),
    ("log", &["types", "store", "tree"]),
    ("branch", &["types", "store", "tree", "log"]),
    ("compare", &["types", "store", "tree", "branch"]),
    ("handle", &["types", "store", "branch"]),
    ("fs_core", &["types", "store", "tree", "log", "branch", "handle"]),
    ("merge", &["types", "store", "tree", "branch", "compare", "fs_core"]),
    ("ops", &["types", "store", "tree", "log", "branch", "compare", "handle", "fs_core", "merge"]),
];

#[test]
fn modules_of_the_core_use_only_what_lies_below() {
    let files = product("agentfs-core");
    for (layer, allowed) in LAYERS {
        let of_layer = |path: &str| path == format!("{layer}.rs") || path.starts_with(&format!("{layer}/"));
        let mut checked = 0;
        for (path, text) in files.iter().filter(|(path, _)| of_layer(path)) {
            checked += 1;
            for (other, _) in LAYERS.iter().filter(|(other, _)| *other != layer && !allowed.contains(other)) {
                assert!(!text.contains(&format!("crate::{other}::")), "{path} reaches up to {other}");
            }
        }
        assert!(checked > 0, "no files in {layer}");
    }
}

#[test]
fn the_core_prints_nothing_and_asks_neither_environment_nor_proc() {
    for (path, text) in product("agentfs-core").iter().filter(|(path, _)| !path.starts_with("testing/")) {
        for forbidden in ["println!", "eprintln!", "std::env", "\"/proc", "std::process"] {
            assert!(!text.contains(forbidden), "{path} has {forbidden}");
        }
    }
}

#[test]
fn only_the_backstores_do_system_calls() {
    let may = [
        "store/host_file.rs",
        "store/host_fs.rs",
        "store/lower.rs",
        "store/probe.rs",
        "store/copy.rs",
        "store/memory.rs",
        "store/device.rs",
        "types/clock.rs",
        "ops/allocate.rs",
        "lib.rs",
        "error.rs",
    ];
    for (path, text) in product("agentfs-core").iter().filter(|(path, _)| !path.starts_with("testing/")) {
        let calls = text.contains("rustix::") || text.contains("std::fs::");
        assert!(!calls || may.contains(&path.as_str()), "{path} does system calls");
    }
}

#[test]
fn unsafe_stands_where_it_must_and_nowhere_else() {
    for name in ["agentfs-core", "agentfs-proto"] {
        let files = product(name);
        let (_, root) = files.iter().find(|(path, _)| path == "lib.rs").unwrap();
        assert!(root.contains("#![forbid(unsafe_code)]"), "{name}");
    }
    for name in ["agentfs-fuse-host", "agentfs-control-cli"] {
        for (path, text) in product(name) {
            let has = text.contains("unsafe {") || text.contains("unsafe impl") || text.contains("unsafe fn");
            assert!(!has || ["ioctl.rs", "memory.rs"].contains(&&*path), "{name}/{path} is unsafe");
        }
    }
}

#[test]
fn only_the_daemon_knows_fuser_and_only_where_it_talks_to_the_kernel() {
    let may = ["adapter/", "control/mod.rs", "negotiate.rs", "mount.rs", "host.rs", "views/node_id.rs"];
    for (path, text) in product("agentfs-fuse-host") {
        let knows = text.contains("fuser::");
        assert!(!knows || may.iter().any(|known| path.starts_with(known)), "{path} knows fuser");
    }
}

#[test]
fn files_and_functions_stay_small() {
    for name in ["agentfs-core", "agentfs-proto", "agentfs-fuse-host", "agentfs-control-cli"] {
        for (path, text) in product(name) {
            let lines = text.lines().count();
            assert!(lines <= 500, "{name}/{path} has {lines} lines: two files with better names");
        }
    }
}

#[test]
fn the_repository_names_no_registry_and_no_path_of_a_machine() {
    let root = workspace();
    let mut open = vec![root.clone()];
    let skipped = [".git", "target", "logs"];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if skipped.contains(&path.file_name().unwrap().to_str().unwrap()) {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                for forbidden in [
                    concat!("artifac", "tory"),
                    concat!("/wo", "rk/main"),
                    concat!("/wo", "rk/shared"),
                    concat!("/ro", "ot/"),
                ] {
                    assert!(!text.contains(forbidden), "{} names {forbidden}", path.display());
                }
            }
        }
    }
}
