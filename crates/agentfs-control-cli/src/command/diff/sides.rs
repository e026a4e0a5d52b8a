//! The two trees of a comparison, to be read from.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use agentfs_proto::{Request, Response};

use super::files::{Change, File};
use crate::client::{Client, unexpected};
use crate::command::frozen::{Frozen, no_branch};
use crate::failure::Failure;
use crate::output::shown;
use crate::patch::{LARGEST_TEXT, Side};

/// What means the directory that the volume lies over.
const LOWER: &str = "lower";

/// A tree, and where it is seen.
enum Tree<'a> {
    Frozen(Frozen<'a>),
    Lower(PathBuf),
}

/// Both; what is a branch is frozen while this lives.
pub(super) struct Sides<'a> {
    a: Tree<'a>,
    b: Tree<'a>,
}

/// What was read of a file.
pub(super) enum Read {
    /// All.
    Bytes(Vec<u8>),
    /// Nothing, as it is larger than any text.
    TooLarge,
}

impl Tree<'_> {
    fn open<'a>(client: &'a Client, of: &str) -> Result<Tree<'a>, Failure> {
        match Frozen::find(client, of, "diff")? {
            Some(frozen) => Ok(Tree::Frozen(frozen)),
            None if of == LOWER => {
                let Response::Lower(lower) = client.call(Request::Lower)? else { return Err(unexpected()) };
                Ok(Tree::Lower(format!("/proc/{}/fd/{}", lower.pid, lower.descriptor).into()))
            }
            None => Err(no_branch(of)),
        }
    }

    fn root(&self) -> &Path {
        match self {
            Tree::Frozen(frozen) => &frozen.view,
            Tree::Lower(root) => root,
        }
    }

    fn id(&self) -> Vec<u8> {
        match self {
            Tree::Frozen(frozen) => frozen.id.clone(),
            Tree::Lower(_) => LOWER.into(),
        }
    }
}

impl<'a> Sides<'a> {
    pub(super) fn open(client: &'a Client, a: &str, b: &str) -> Result<Sides<'a>, Failure> {
        let a_tree = Tree::open(client, a)?;
        let b = if a == b { Tree::open(client, &shown(&a_tree.id()))? } else { Tree::open(client, b)? };
        Ok(Sides { a: a_tree, b })
    }

    /// What they are called to the daemon.
    pub(super) fn ids(&self) -> (Vec<u8>, Vec<u8>) {
        (self.a.id(), self.b.id())
    }

    /// Where the first is seen.
    pub(super) fn old_root(&self) -> &Path {
        self.a.root()
    }

    /// Where the second is seen.
    pub(super) fn new_root(&self) -> &Path {
        self.b.root()
    }

    /// Both sides of a file; without what a terminal would obey, if they are to be `shown` on one.
    pub(super) fn read(
        &self,
        change: &Change,
        shown_there: bool,
    ) -> Result<(Option<Read>, Option<Read>), Failure> {
        let read = |tree: &Tree<'_>, file: &Option<File>| {
            file.as_ref()
                .map(|file| {
                    let path = tree.root().join(std::ffi::OsStr::from_bytes(&file.path));
                    read(&path, file).map_err(|error| {
                        Failure::io(&format!("{} cannot be read", shown(&file.path)), &error)
                    })
                })
                .transpose()
        };
        let tamed = |read: Option<Read>| match read {
            Some(Read::Bytes(bytes)) if shown_there => Some(Read::Bytes(tame(&bytes))),
            read => read,
        };
        Ok((tamed(read(&self.a, &change.old)?), tamed(read(&self.b, &change.new)?)))
    }
}

fn read(path: &Path, file: &File) -> io::Result<Read> {
    if file.is_link() {
        return Ok(Read::Bytes(fs::read_link(path)?.as_os_str().as_bytes().to_vec()));
    }
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let mut open = fs::OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    if open.metadata()?.len() > LARGEST_TEXT as u64 {
        return Ok(Read::TooLarge);
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut open, &mut bytes)?;
    Ok(Read::Bytes(bytes))
}

/// Control characters as text, but for those that make lines and columns, and for zeros, which make a file a binary one.
fn tame(bytes: &[u8]) -> Vec<u8> {
    let mut tamed = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' | '\t' | '\0' => tamed.push(character as u8),
                control if control.is_control() => tamed.extend(control.escape_default().to_string().bytes()),
                plain => tamed.extend(plain.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        tamed.extend(chunk.invalid().escape_ascii().to_string().bytes());
    }
    tamed
}

/// A file as a patch wants it.
pub(super) fn side<'f>(file: &'f Option<File>, read: Option<&'f Read>) -> Option<Side<'f>> {
    let Some(Read::Bytes(bytes)) = read else { return None };
    file.as_ref().map(|file| Side { path: &file.path, mode: file.mode, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_no_file() {
        assert_eq!(tame("a\tb\n\0ä".as_bytes()), "a\tb\n\0ä".as_bytes());
        assert_eq!(tame(b"\x1b[2K\r\xc2\x9b\x9b"), br"\u{1b}[2K\r\u{9b}\x9b");
    }
}
