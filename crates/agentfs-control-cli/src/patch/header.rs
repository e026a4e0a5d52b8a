//! The lines above a file's hunks: names, modes, hashes.

use std::io;

use sha1::{Digest, Sha1};

use crate::patch::paint::{Ink, Printer};
use crate::patch::quote::quoted;
use crate::patch::{Side, similarity};

/// What stands for the name of a file that is not there.
const NOTHING: &[u8] = b"/dev/null";

/// A file's names, quoted where need be.
pub(crate) struct Names {
    /// With `a/`.
    old: Vec<u8>,
    /// With `b/`.
    new: Vec<u8>,
    /// As `old`, or what stands for nothing.
    old_label: Vec<u8>,
    /// As `new`, or what stands for nothing.
    new_label: Vec<u8>,
}

impl Names {
    /// None when there is no file.
    pub(crate) fn of(old: Option<&Side<'_>>, new: Option<&Side<'_>>) -> Option<Names> {
        let (old_path, new_path) = (old.or(new)?.path, new.or(old)?.path);
        let (old_name, new_name) = (quoted(b"a/", old_path), quoted(b"b/", new_path));
        let label = |name: &Vec<u8>, is_there: bool| if is_there { name.clone() } else { NOTHING.to_vec() };
        Some(Names {
            old_label: label(&old_name, old.is_some()),
            new_label: label(&new_name, new.is_some()),
            old: old_name,
            new: new_name,
        })
    }

    /// What is said of a binary file instead of its hunks.
    pub(crate) fn binary(&self) -> Vec<u8> {
        [b"Binary files ", &*self.old_label, b" and ", &*self.new_label, b" differ"].concat()
    }
}

/// Writes all that comes before `---`: nothing when the sides are equal.
pub(crate) fn write(
    printer: &mut Printer<'_>,
    names: &Names,
    old: Option<&Side<'_>>,
    new: Option<&Side<'_>>,
) -> io::Result<()> {
    let mut lines = vec![[b"diff --git ", &*names.old, b" ", &*names.new].concat()];
    match (old, new) {
        (None, Some(side)) => lines.push(format!("new file mode {:06o}", side.mode).into()),
        (Some(side), None) => lines.push(format!("deleted file mode {:06o}", side.mode).into()),
        (Some(old), Some(new)) => lines.extend(differences(old, new)),
        (None, None) => {}
    }
    let is_content_equal = old.zip(new).is_some_and(|(old, new)| old.bytes == new.bytes);
    if !is_content_equal {
        lines.push(index_line(old, new));
    } else if lines.len() == 1 {
        return Ok(());
    }
    lines.iter().try_for_each(|line| printer.line(Ink::Meta, line))
}

/// Writes the two names above the hunks.
pub(crate) fn write_labels(printer: &mut Printer<'_>, names: &Names) -> io::Result<()> {
    printer.label(b"--- ", &names.old_label)?;
    printer.label(b"+++ ", &names.new_label)
}

fn differences(old: &Side<'_>, new: &Side<'_>) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    if old.mode != new.mode {
        lines.push(format!("old mode {:06o}", old.mode).into());
        lines.push(format!("new mode {:06o}", new.mode).into());
    }
    if old.path != new.path {
        let percent = similarity::percent(old.bytes, new.bytes);
        lines.push(format!("similarity index {percent}%").into());
        lines.push([b"rename from ", &*quoted(b"", old.path)].concat());
        lines.push([b"rename to ", &*quoted(b"", new.path)].concat());
    }
    lines
}

fn index_line(old: Option<&Side<'_>>, new: Option<&Side<'_>>) -> Vec<u8> {
    let [before, after] = [old, new].map(|side| side.map_or("0000000".to_owned(), |side| short(side.bytes)));
    let mode = match (old, new) {
        (Some(old), Some(new)) if old.mode == new.mode => format!(" {:06o}", old.mode),
        _ => String::new(),
    };
    format!("index {before}..{after}{mode}").into()
}

/// The first 7 digits of what git calls a file's content.
fn short(bytes: &[u8]) -> String {
    let hash = Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
    let mut digits: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    digits.truncate(7);
    digits
}
