//! `diff`: how two trees differ, as names, as counts of lines or as a patch. Exits as diff does: 0 for no difference, 1 for
//! some, 2 for trouble.

mod files;
mod sides;
mod stat;

use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;

use agentfs_proto::request::DiffStart;
use agentfs_proto::result::{DiffEntry, DiffResult};

use self::files::Files;
use self::sides::Sides;
use super::job;
use crate::client::{Client, unexpected};
use crate::failure::Failure;
use crate::output::{self, Output, shown};
use crate::patch::{self, Paint};

/// What is told of each path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// How it differs.
    Names,
    /// How many lines do.
    Stat,
    /// Which.
    Patch,
}

/// When there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Colour {
    pub(super) fn is_wanted(self) -> bool {
        let is_plain = || {
            std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
                || std::env::var_os("TERM").is_some_and(|term| term == "dumb")
        };
        match self {
            Colour::Auto => io::stdout().is_terminal() && !is_plain(),
            Colour::Always => true,
            Colour::Never => false,
        }
    }
}

/// What to compare, and how to tell of it.
pub(super) struct Wish<'a> {
    pub(super) a: &'a str,
    pub(super) b: &'a str,
    pub(super) form: Form,
    pub(super) colour: Colour,
    pub(super) with_git: bool,
    pub(super) all: bool,
    pub(super) paths: &'a [OsString],
}

pub(super) fn run(client: &Client, wish: &Wish<'_>) -> Result<Output, Failure> {
    compare(client, wish).map_err(|failure| failure.or_exit(2))
}

fn compare(client: &Client, wish: &Wish<'_>) -> Result<Output, Failure> {
    let sides = match wish.form {
        Form::Names => None,
        Form::Stat | Form::Patch => Some(Sides::open(client, wish.a, wish.b)?),
    };
    let (a, b) = sides.as_ref().map_or((wish.a.into(), wish.b.into()), Sides::ids);
    let asked = DiffStart { a, b, with_git: wish.with_git, all: wish.all };
    let found = DiffResult::decode(&job::run(client, "diff", asked)?).map_err(|_| unexpected())?;
    tell_left_out(&found, wish.b);
    let paths: Vec<Vec<u8>> = wish.paths.iter().map(|path| tidy(path.as_bytes())).collect();
    let entries: Vec<DiffEntry> =
        found.entries.into_iter().filter(|entry| is_asked_for(entry, &paths)).collect();
    let code = u8::from(!entries.is_empty());
    let colour = wish.colour.is_wanted();
    let Some(sides) = sides else { return Ok(output::differences(&entries, colour).ending(code)) };
    let files = Files::of(&entries, &sides, wish.with_git, wish.all)?;
    match wish.form {
        Form::Stat => Ok(stat::counted(&files, &sides, colour)?.ending(code)),
        Form::Names | Form::Patch => {
            print_patch(&files, &sides, colour)?;
            Ok(Output::exit(code))
        }
    }
}

/// From the root on, without slashes at its ends.
fn tidy(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.collect::<Vec<_>>().join(&b'/')
}

fn is_asked_for(entry: &DiffEntry, paths: &[Vec<u8>]) -> bool {
    let is_below = |path: &[u8]| {
        let below = |top: &Vec<u8>| {
            top.is_empty()
                || path
                    .strip_prefix(top.as_slice())
                    .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        };
        paths.iter().any(below)
    };
    paths.is_empty() || is_below(&entry.path) || entry.from.as_deref().is_some_and(is_below)
}

fn tell_left_out(found: &DiffResult, b: &str) {
    if !found.left_git.is_empty() {
        let which: Vec<String> = found.left_git.iter().map(|path| shown(path)).collect();
        let _ = writeln!(
            io::stderr(),
            "left out: {}, where {} differs; --with-git shows it",
            which.join(", "),
            shown(b.as_bytes())
        );
    }
    if found.left_out > 0 {
        let _ = writeln!(
            io::stderr(),
            "left out: {} paths, by the .agentfsignore of {}; --all shows them",
            found.left_out,
            shown(b.as_bytes())
        );
    }
}

fn print_patch(files: &Files, sides: &Sides<'_>, colour: bool) -> Result<(), Failure> {
    let paint = if colour { Paint::Colour } else { Paint::Plain };
    let mut out = BufWriter::new(io::stdout().lock());
    files.tell_of_others();
    for change in &files.changes {
        let (old, new) = sides.read(change)?;
        let written = match (&old, &new) {
            (Some(sides::Read::TooLarge), _) | (_, Some(sides::Read::TooLarge)) => {
                patch::write_unread(&mut out, change.old_path(), change.new_path())
            }
            (old, new) => patch::write(
                &mut out,
                sides::side(&change.old, old.as_ref()).as_ref(),
                sides::side(&change.new, new.as_ref()).as_ref(),
                paint,
            )
            .map(drop),
        };
        match written {
            Ok(()) => {}
            // Whoever closes the pipe has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Failure::io("cannot write the patch", &error)),
        }
    }
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("cannot write the patch", &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_asks_for_what_is_below_it() {
        let entry = |path: &str, from: Option<&str>| DiffEntry {
            path: path.into(),
            from: from.map(Into::into),
            status: b'M',
            old: None,
            new: None,
            content: true,
            xattrs: false,
        };
        let asked = |entry: &DiffEntry, paths: &[&str]| {
            is_asked_for(entry, &paths.iter().map(|path| tidy(path.as_bytes())).collect::<Vec<_>>())
        };
        let file = entry("src/a.rs", None);
        for paths in [&[][..], &["src"], &["./src/"], &["/src/a.rs"], &["."], &["x", "src"]] {
            assert!(asked(&file, paths), "{paths:?}");
        }
        for paths in [&["sr"][..], &["src/a.r"], &["a.rs"]] {
            assert!(!asked(&file, paths), "{paths:?}");
        }
        assert!(asked(&entry("new", Some("old")), &["old"]));
    }
}
