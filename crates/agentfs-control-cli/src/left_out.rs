//! `.agentfsignore`, in the root of a tree: which of its paths are not meant for others. Its lines are those of `.gitignore`.
//! And `.git`, where asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::failure::Failure;

/// The file's name.
const FILE: &str = ".agentfsignore";

/// Which paths of a tree are left out.
pub(crate) struct Ignored {
    patterns: Gitignore,
    /// The `.git` directories that were asked for, where they are left out.
    git: Option<RefCell<BTreeSet<PathBuf>>>,
}

impl Ignored {
    /// Nothing.
    pub(crate) fn nothing() -> Ignored {
        Ignored { patterns: Gitignore::empty(), git: None }
    }

    /// Also directories called `.git`, and all in them.
    pub(crate) fn and_git(self) -> Ignored {
        Ignored { git: Some(RefCell::default()), ..self }
    }

    /// The `.git` directories that were asked for and left out.
    pub(crate) fn left_git(&self) -> Vec<PathBuf> {
        self.git.iter().flat_map(|git| git.borrow().clone()).collect()
    }

    /// What the file in a tree's root says, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or a line in it is no pattern.
    pub(crate) fn of(root: &Path) -> Result<Ignored, Failure> {
        let file = root.join(FILE);
        let cannot = |error: io::Error| Failure::io(&format!("{} cannot be read", file.display()), &error);
        // A link of the tree would lead out of it, and a pipe would be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let no_file = || Failure::new(format!("{} is no regular file: remove it", file.display()));
        let opened = match rustix::fs::open(&file, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Ignored::nothing()),
            Err(Errno::LOOP | Errno::NXIO) => return Err(no_file()),
            opened => File::from(opened.map_err(|error| cannot(error.into()))?),
        };
        if !opened.metadata().map_err(cannot)?.is_file() {
            return Err(no_file());
        }
        let mut builder = GitignoreBuilder::new("/");
        let wrong = |error: ignore::Error| Failure::new(format!("{} is wrong: {error}", file.display()));
        let mut text = Vec::new();
        BufReader::new(opened).read_to_end(&mut text).map_err(cannot)?;
        let text = String::from_utf8(text)
            .map_err(|_| Failure::new(format!("{} is wrong: it is not UTF-8", file.display())))?;
        for line in text.trim_start_matches('\u{feff}').lines() {
            builder.add_line(None, line).map_err(wrong)?;
        }
        builder.build().map(|patterns| Ignored { patterns, git: None }).map_err(wrong)
    }

    /// Returns whether a path, from the root on, is left out; nothing above it is.
    pub(crate) fn has_itself(&self, path: &Path, is_directory: bool) -> bool {
        match &self.git {
            Some(git) if path.ends_with(".git") => {
                git.borrow_mut().insert(path.to_owned());
                true
            }
            _ => self.patterns.matched(path, is_directory).is_ignore(),
        }
    }

    /// Is a path, from the root on, left out, or one above it?
    pub(crate) fn has(&self, path: &Path, is_directory: bool) -> bool {
        if let Some(git) = &self.git
            && let Some(root) = path.ancestors().filter(|above| above.ends_with(".git")).last()
        {
            git.borrow_mut().insert(root.to_owned());
            return true;
        }
        // From above: what lies in something that is left out is not taken in again by any line.
        let places: Vec<&Path> = path.ancestors().filter(|place| !place.as_os_str().is_empty()).collect();
        let is_out = |place: &Path| self.patterns.matched(place, place != path || is_directory).is_ignore();
        places.into_iter().rev().any(is_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_is_left_out_where_asked_for() {
        let ignored = Ignored::nothing();
        assert!(!ignored.has(Path::new(".git/index"), false));
        let ignored = ignored.and_git();
        for path in [".git", ".git/index", "a/.git/modules/b/.git/x", "a/.git/y"] {
            assert!(ignored.has(Path::new(path), false), "{path}");
        }
        for path in [".gitignore", "a.git/x", "git"] {
            assert!(!ignored.has(Path::new(path), false), "{path}");
        }
        assert_eq!(ignored.left_git(), [Path::new(".git"), Path::new("a/.git")]);
    }

    #[test]
    fn lines_mean_what_they_mean_to_git() {
        let root = tempfile::tempdir().unwrap();
        assert!(!Ignored::of(root.path()).unwrap().has(Path::new("target/a"), false));
        std::fs::write(root.path().join(FILE), "target/\n*.log\n!keep.log\n/only-here\n!target/kept\n")
            .unwrap();
        let ignored = Ignored::of(root.path()).unwrap();
        for (path, is_directory, expected) in [
            ("target", true, true),
            ("target", false, false),
            ("a/target/b/c", false, true),
            ("x/a.log", false, true),
            ("keep.log", false, false),
            ("target/kept", false, true),
            ("only-here", false, true),
            ("a/only-here", false, false),
            ("a", false, false),
        ] {
            assert_eq!(ignored.has(Path::new(path), is_directory), expected, "{path}");
        }
    }
}
