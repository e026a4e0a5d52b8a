//! Who merges a branch knows what that had written out to the lower directory.

use std::collections::HashMap;
use std::sync::Arc;

use super::changes::directories_over_lower;
use crate::branch::Tree;
use crate::compare::Sight;
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::merge::is_applied;
use crate::store::split;
use crate::tree::{DirectoryCopy, Entry, LowerEntry, Version};
use crate::types::{FileKind, InodeId, Name};

/// What a version shows of a path of the lower directory.
enum Over {
    /// What is there.
    Shown,
    /// Nothing: a directory above it is hidden, or shows nothing from below.
    Hidden,
    /// What the version says of the name in a directory of its own.
    Own(InodeId, Name, Entry),
}

impl FsCore {
    /// What `merged`, which `tree` has merged, wrote out to the lower directory is there as it was written: `tree` relies on
    /// that from now on, where it has something itself. Paths below that are not `is_wanted` are passed by.
    ///
    /// # Errors
    /// What the host or the journal answers.
    pub(super) fn learn_applied(
        &self,
        tree: &Tree,
        merged: &Sight,
        is_wanted: &dyn Fn(&[u8], bool) -> bool,
    ) -> Result<()> {
        let Some((lower, since)) = tree.lower() else { return Ok(()) };
        let version = tree.read(Version::clone)?;
        let (directories, mut is_new) = (directories_over_lower(&version), false);
        for (path, written) in merged.version.lower_entries() {
            let is_directory = matches!(written, LowerEntry::Directory { .. });
            let known = version.lower_entry(path);
            if known == Some(written)
                || !is_wanted(path, is_directory)
                || !is_applied(merged, lower, path, written)?
            {
                continue;
            }
            let own = match over(&version, &directories, path) {
                Over::Shown => continue,
                Over::Hidden => None,
                Over::Own(dir, name, entry) => Some((dir, name, entry)),
            };
            let entry = match written {
                LowerEntry::Absent if !known.is_some_and(LowerEntry::is_present) => continue,
                LowerEntry::Absent => written,
                LowerEntry::File { token, .. } => LowerEntry::File { token, copy_of: None },
                // What the two hold is compared name by name.
                LowerEntry::Directory { copy_of } => {
                    let entry = own.as_ref().map(|(.., entry)| *entry);
                    let ino = entry.filter(|entry| entry.kind() == FileKind::Directory).map(Entry::ino);
                    let its = |copy| ino.map(|ino| DirectoryCopy { ino, ..copy });
                    LowerEntry::Directory { copy_of: copy_of.and_then(its) }
                }
            };
            if known == Some(entry) {
                continue;
            }
            is_new = true;
            // `main` shows what others put there from now on.
            let shown = own.filter(|_| entry == LowerEntry::Absent && since.is_none());
            self.change_tree(tree, |draft| {
                draft.set_lower_entry(path.clone(), entry);
                if let Some((dir, name, _)) = &shown
                    && draft.entry_or_whiteout(*dir, name).is_some_and(Entry::is_whiteout)
                {
                    draft.show_name(*dir, name);
                }
                Ok(())
            })?;
        }
        if is_new { self.journal.sync() } else { Ok(()) }
    }
}

/// What a version shows of a path of the lower directory, wherever the directory is that shows what lies there.
fn over(version: &Version, directories: &HashMap<Arc<[u8]>, InodeId>, path: &[u8]) -> Over {
    let Some((above, last)) = split(path) else { return Over::Shown };
    let (mut dir, mut so_far) = (InodeId::ROOT, Vec::new());
    for part in above.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        if !so_far.is_empty() {
            so_far.push(b'/');
        }
        so_far.extend(part);
        dir = match (directories.get(so_far.as_slice()), Name::new(part)) {
            (Some(over), _) => *over,
            (None, Ok(part)) => match at(version, dir, part) {
                Over::Own(_, _, entry) if entry.kind() == FileKind::Directory && !entry.is_whiteout() => {
                    entry.ino()
                }
                Over::Own(..) => return Over::Hidden,
                other => return other,
            },
            (None, Err(_)) => return Over::Shown,
        };
        if version.get(dir).is_none_or(|inode| inode.is_from_elsewhere(&so_far)) {
            return Over::Hidden;
        }
    }
    at(version, dir, last)
}

/// What a version shows of a name that lies under one of its directories.
fn at(version: &Version, dir: InodeId, name: Name) -> Over {
    let inode = version.get(dir);
    match inode.and_then(|inode| inode.directory()?.get_any(&name)) {
        Some(entry) => Over::Own(dir, name, entry),
        None if inode.is_some_and(|inode| inode.lower.is_some()) => Over::Shown,
        None => Over::Hidden,
    }
}
