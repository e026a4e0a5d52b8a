//! A volume as it was found after a crash, and how that differs from what was expected.

use std::collections::HashSet;
use std::sync::Arc;

use agentfs_core::testing::{Cut, Dump, dump, sound};
use agentfs_core::{Caller, CreateMode, FileKind, FsCore, InodeId, Memory, Name, ViewId};

use super::steps::{BOOT, small};
use super::{FileOf, Moment, Trees};

/// Set in numbers of the model's inodes.
pub(super) const MODEL: u64 = 1 << 63;

/// A volume as it was found.
pub struct Found {
    pub(super) cut: Cut,
    pub(super) branches: Vec<(u128, Dump)>,
    pub(super) snapshots: Vec<(u128, Dump)>,
}

impl Found {
    /// Opens what a crash left, has it swept and tended, and looks at all there is.
    pub fn of(part: u64, device: Memory, cut: Cut) -> Result<Found, String> {
        let boot = if cut == Cut::Kill { BOOT } else { BOOT + 1 };
        let (core, recovered) =
            FsCore::open_volume(Arc::new(device), small(part, boot)).map_err(|e| e.to_string())?;
        if let Some(damage) = recovered.damage {
            return Err(damage.to_string());
        }
        core.sweep().and_then(|_| core.sync()).and_then(|()| core.tend()).map_err(|e| e.to_string())?;
        let found = Found::in_core(&core, cut)?;
        // And it takes what comes next.
        let what = CreateMode { kind: FileKind::File, mode: 0o600, umask: 0, rdev: 0 };
        let name = Name::new(b"what comes next").unwrap();
        core.create(ViewId::MAIN, InodeId::ROOT, &name, what, Caller::ROOT).map_err(|e| e.to_string())?;
        core.create_snapshot("main", None).map(drop).or_else(|e| {
            if matches!(e, agentfs_core::FsError::LimitReached(_)) { Ok(()) } else { Err(e.to_string()) }
        })?;
        Ok(found)
    }

    pub(super) fn in_core(core: &FsCore, cut: Cut) -> Result<Found, String> {
        sound(core)?;
        let mut found = Found { cut, branches: Vec::new(), snapshots: Vec::new() };
        for info in core.list_branches(None, usize::MAX) {
            found.branches.push((info.id.0, dump(core, info.view)));
        }
        for info in core.list_snapshots(None, usize::MAX) {
            let view = core.enter_snapshot(info.id, InodeId::ROOT).unwrap();
            found.snapshots.push((info.id.0, dump(core, view)));
            core.forget(view, InodeId::ROOT, 1);
        }
        Ok(found)
    }

    pub(super) fn differences(&self, moment: &Moment, doubtful: &HashSet<FileOf>) -> Vec<String> {
        let ids = |trees: &Trees| trees.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        let found = |trees: &[(u128, Dump)]| trees.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        if ids(&moment.branches) != found(&self.branches) || ids(&moment.snapshots) != found(&self.snapshots)
        {
            return vec!["other branches or snapshots".into(); 1000];
        }
        let expected = moment.branches.iter().chain(&moment.snapshots);
        let pairs = expected.zip(self.branches.iter().chain(&self.snapshots));
        pairs
            .flat_map(|((id, expected), (_, found))| tree_differences(*id, expected, found, doubtful))
            .collect()
    }
}

pub(super) fn tree_differences(
    id: u128,
    expected: &Dump,
    found: &Dump,
    doubtful: &HashSet<FileOf>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let named = |path: &[u8]| path.escape_ascii().to_string().chars().take(60).collect::<String>();
    let gone = expected.keys().filter(|path| !found.contains_key(*path));
    wrong.extend(gone.map(|path| format!("{id:x}/{} is missing", named(path))));
    let extra = found.keys().filter(|path| !expected.contains_key(*path));
    wrong.extend(extra.map(|path| format!("{id:x}/{} should not be there", named(path))));
    for (path, expected) in expected {
        let Some(found) = found.get(path) else { continue };
        let in_doubt = doubtful.contains(&(id, found.ino)) || doubtful.contains(&(id, expected.ino | MODEL));
        let mut shown = expected.stat;
        if in_doubt {
            shown.size = found.stat.size;
        }
        let content = in_doubt
            || (expected.bytes == found.bytes && (expected.mtime.is_none() || expected.mtime == found.mtime));
        if shown != found.stat || !content || expected.xattrs != found.xattrs {
            wrong.push(format!("{id:x}/{}:\n  expected {expected:?}\n  found    {found:?}", named(path)));
        }
    }
    wrong
}
