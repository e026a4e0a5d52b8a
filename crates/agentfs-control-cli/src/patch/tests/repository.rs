//! A git repository in a directory of its own, with two trees in it.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::patch::Side;

/// The directories of the two trees.
pub(super) const SIDES: [&str; 2] = ["old", "new"];

pub(super) struct Repository {
    root: tempfile::TempDir,
}

impl Repository {
    /// None, which is told, where there is no git.
    pub(super) fn new() -> Option<Repository> {
        let repository = Repository { root: tempfile::tempdir().unwrap() };
        match repository.command(".", &["init", "--quiet"]).status() {
            Ok(status) => assert!(status.success()),
            Err(error) => {
                println!("SKIPPED: git cannot be run: {error}");
                return None;
            }
        }
        Some(repository)
    }

    pub(super) fn path(&self, side: &str) -> PathBuf {
        self.root.path().join(side)
    }

    /// Makes both trees as directories, and tells git's ids of them.
    pub(super) fn trees(&self, old: &[Side<'_>], new: &[Side<'_>]) -> [String; 2] {
        let both = [(SIDES[0], old), (SIDES[1], new)];
        both.map(|(side, files)| {
            fs::create_dir(self.path(side)).unwrap();
            files.iter().for_each(|file| put(&self.path(side), file));
            self.tree(side)
        })
    }

    /// The patch as git writes it.
    pub(super) fn diff(&self, [old, new]: &[String; 2], colour: &str) -> Vec<u8> {
        self.run(".", &["diff", "-M1%", &format!("--color={colour}"), old, new], b"")
    }

    /// The two numbers of each file.
    pub(super) fn numstat(&self, [old, new]: &[String; 2]) -> Vec<String> {
        let told = self.run(".", &["diff", "-M1%", "--numstat", "--diff-filter=T", old, new], b"");
        if !told.is_empty() {
            return Vec::new();
        }
        let told = self.run(".", &["diff", "-M1%", "--numstat", old, new], b"");
        let numbers = |line: &str| line.splitn(3, '\t').take(2).collect::<Vec<_>>().join("\t");
        String::from_utf8(told).unwrap().lines().map(numbers).collect()
    }

    /// The patch makes the new tree of the old one.
    pub(super) fn apply(&self, [_, new]: &[String; 2], patch: &[u8], name: &str) {
        self.run(".", &["apply", "--whitespace=nowarn", "--directory=old", "-"], patch);
        assert_eq!(&self.tree("old"), new, "{name}");
    }

    fn tree(&self, side: &str) -> String {
        if fs::read_dir(self.path(side)).map_or(0, Iterator::count) == 0 {
            return self.run(".", &["mktree"], b"").trim_ascii().escape_ascii().to_string();
        }
        let _ = fs::remove_file(self.root.path().join(".git/index"));
        self.run(".", &["add", "--all", "--force", side], b"");
        let id = self.run(".", &["write-tree", &format!("--prefix={side}/")], b"");
        id.trim_ascii().escape_ascii().to_string()
    }

    fn run(&self, directory: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut git =
            self.command(directory, args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut pipe = git.stdin.take().unwrap();
        pipe.write_all(input).unwrap();
        drop(pipe);
        let done = git.wait_with_output().unwrap();
        assert!(done.status.success(), "git {args:?}: {}", done.status);
        done.stdout
    }

    /// Git as it is by default, whatever the user's settings.
    fn command(&self, directory: &str, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"GIT_")) {
            command.env_remove(name);
        }
        let set = ["-c", "core.abbrev=7", "-c", "core.looseCompression=0"];
        command.args(set).args(args).current_dir(self.root.path().join(directory));
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C");
        command
    }
}

fn put(root: &Path, file: &Side<'_>) {
    let path = root.join(std::ffi::OsStr::from_bytes(file.path));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if file.mode == 0o120_000 {
        return symlink(std::ffi::OsStr::from_bytes(file.bytes), path).unwrap();
    }
    fs::write(&path, file.bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(file.mode & 0o777)).unwrap();
}
