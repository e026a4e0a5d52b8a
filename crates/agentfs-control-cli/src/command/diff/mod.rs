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
use super::{from_root, job};
use crate::client::{Client, unexpected};
use crate::failure::Failure;
use crate::interrupt;
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
        Form::Stat | Form::Patch => {
            interrupt::watch()?;
            Some(Sides::open(client, wish.a, wish.b)?)
        }
    };
    let (a, b) = sides.as_ref().map_or((wish.a.into(), wish.b.into()), Sides::ids);
    let asked = DiffStart { a, b, with_git: wish.with_git, all: wish.all };
    let found = DiffResult::decode(&job::run(client, "diff", asked)?).map_err(|_| unexpected())?;
    tell_left_out(&found, wish.b);
    let paths: Vec<Vec<u8>> = wish.paths.iter().map(|path| from_root(path.as_bytes()).join(&b'/')).collect();
    let colour = wish.colour.is_wanted();
    let Some(sides) = sides else {
        let asked = |entry: &DiffEntry| is_asked_for(entry, &paths);
        let entries: Vec<DiffEntry> = found.entries.into_iter().filter(asked).collect();
        return Ok(output::differences(&entries, colour).ending(u8::from(!entries.is_empty())));
    };
    let mut files = Files::of(&found.entries, &sides, wish.with_git, wish.all)?;
    let is_other = found.entries.iter().any(|entry| is_asked_for(entry, &paths));
    files.retain(|path| is_below(path, &paths));
    let code = u8::from(is_other || !files.changes.is_empty());
    match wish.form {
        Form::Stat => Ok(stat::counted(&files, &sides, colour)?.ending(code)),
        Form::Names | Form::Patch => {
            print_patch(&files, &sides, colour)?;
            Ok(Output::exit(code))
        }
    }
}

fn is_below(path: &[u8], tops: &[Vec<u8>]) -> bool {
    let below = |top: &Vec<u8>| {
        top.is_empty()
            || path.strip_prefix(top.as_slice()).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    };
    tops.is_empty() || tops.iter().any(below)
}

/// What is in a directory that was moved differs with it.
fn is_asked_for(entry: &DiffEntry, paths: &[Vec<u8>]) -> bool {
    let its = [Some(entry.path.as_slice()), entry.from.as_deref()];
    let is_in = |path: &Vec<u8>| its.iter().flatten().any(|own| is_below(path, &[own.to_vec()]));
    its.iter().flatten().any(|own| is_below(own, paths)) || (entry.from.is_some() && paths.iter().any(is_in))
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

/// Of a binary file its name alone: git takes no patch with one of which it is told more and not all.
fn write_one(
    out: &mut dyn Write,
    old: Option<&patch::Side<'_>>,
    new: Option<&patch::Side<'_>>,
    paint: Paint,
) -> io::Result<()> {
    let mut written = Vec::new();
    let counts = patch::write(&mut written, old, new, paint)?;
    let is_named = |line: &&[u8]| line.starts_with(b"Binary files ");
    let name = written.split_inclusive(|byte| *byte == b'\n').find(is_named).filter(|_| counts.is_binary);
    out.write_all(name.unwrap_or(&written))
}

fn print_patch(files: &Files, sides: &Sides<'_>, colour: bool) -> Result<(), Failure> {
    let paint = if colour { Paint::Colour } else { Paint::Plain };
    let mut out = BufWriter::new(io::stdout().lock());
    files.tell_of_others();
    let is_shown = io::stdout().is_terminal();
    for change in &files.changes {
        interrupt::check()?;
        let (old, new) = sides.read(change, is_shown)?;
        let written = match (&old, &new) {
            (Some(sides::Read::TooLarge), _) | (_, Some(sides::Read::TooLarge)) => {
                patch::write_unread(&mut out, change.old_path(), change.new_path())
            }
            (old, new) => {
                let (old, new) =
                    (sides::side(&change.old, old.as_ref()), sides::side(&change.new, new.as_ref()));
                write_one(&mut out, old.as_ref(), new.as_ref(), paint)
            }
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
            is_asked_for(
                entry,
                &paths.iter().map(|path| from_root(path.as_bytes()).join(&b'/')).collect::<Vec<_>>(),
            )
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
