//! Who merges a branch knows what that had written out to the lower directory.

use std::sync::Arc;

use crate::branch::{Lower, Tree};
use crate::compare::Sight;
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::store::split;
use crate::tree::{Entry, LowerEntry, Version};
use crate::types::{FileKind, InodeId, Name};

/// Where a version has something itself that lies over a path of the lower directory.
struct Over {
    dir: InodeId,
    name: Name,
    entry: Entry,
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
        let mut is_new = false;
        for (path, written) in merged.version.lower_entries() {
            let is_directory = matches!(written, LowerEntry::Directory { .. });
            let known = version.lower_entry(path);
            if known == Some(written)
                || !is_wanted(path, is_directory)
                || !is_applied(merged, lower, path, written)?
            {
                continue;
            }
            let Some(over) = over(&version, path) else { continue };
            let entry = match written {
                LowerEntry::Absent if !known.is_some_and(LowerEntry::is_present) => continue,
                LowerEntry::Absent => written,
                LowerEntry::File { token, .. } => LowerEntry::File { token, copy_of: None },
                LowerEntry::Directory { copy_of } => {
                    LowerEntry::Directory { copy_of: copy_of.filter(|copy| copy.ino == over.entry.ino()) }
                }
            };
            if known == Some(entry) {
                continue;
            }
            is_new = true;
            // `main` shows what others put there from now on.
            let shows = entry == LowerEntry::Absent && since.is_none() && over.entry.is_whiteout();
            self.change_tree(tree, |draft| {
                draft.set_lower_entry(path.clone(), entry);
                if shows && draft.entry_or_whiteout(over.dir, &over.name).is_some_and(Entry::is_whiteout) {
                    draft.show_name(over.dir, &over.name);
                }
                Ok(())
            })?;
        }
        if is_new { self.journal.sync() } else { Ok(()) }
    }
}

/// Is a path of the lower directory as a version wrote it out, and did not only take it over?
fn is_applied(of: &Sight, lower: &Lower, path: &Arc<[u8]>, written: LowerEntry) -> Result<bool> {
    let found = lower.find(path)?;
    let (copy, found) = match (written, found) {
        (LowerEntry::Absent, found) => return Ok(found.is_none()),
        (LowerEntry::File { token, copy_of: Some(copy) }, Some((found, stat)))
            if stat.change_token() == token =>
        {
            (copy.ino, found)
        }
        (LowerEntry::Directory { copy_of: Some(copy) }, Some((found, stat)))
            if stat.kind == FileKind::Directory =>
        {
            (copy.ino, found)
        }
        _ => return Ok(false),
    };
    Ok(copy != found || of.version.get(copy).is_some_and(|own| own.is_from_elsewhere(path)))
}

/// What a version has itself at a path, in directories that are in the same place below or are not there.
fn over(version: &Version, path: &[u8]) -> Option<Over> {
    let (above, name) = split(path)?;
    let (mut dir, mut so_far) = (InodeId::ROOT, Vec::new());
    for part in above.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        if !so_far.is_empty() {
            so_far.push(b'/');
        }
        so_far.extend(part);
        let entry = version.get(dir)?.directory()?.get(&Name::new(part).ok()?)?;
        let inode = version.get(entry.ino())?;
        if inode.is_from_elsewhere(&so_far) {
            return None;
        }
        dir = entry.ino();
    }
    let entry = version.get(dir)?.directory()?.get_any(&name)?;
    Some(Over { dir, name, entry })
}
