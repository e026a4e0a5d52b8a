//! Requests that compare trees, and those that merge, restore and undo: each begins a job.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use agentfs_core::{
    ConflictKind, Deed, DiffStatus, Difference, Face, FileKind, FsError, LOWER, MergeWish, Merged, Policy,
    Progress, Result, Undone, Verb, git_root,
};
use agentfs_proto::ids::format_id;
use agentfs_proto::page::Page;
use agentfs_proto::record::{EventEntry, SnapshotRecord};
use agentfs_proto::request::{BranchDiscard, DiffStart, MergeStart, RestoreStart};
use agentfs_proto::response::{DiscardReply, JobReply};
use agentfs_proto::result::{self, ConflictRecord, DiffEntry, DiffResult, MergeResult, StepRecord};
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::dispatch::{Dispatcher, Exactness, snapshot_record, unix_ms};
use super::{Asker, text};

/// Which paths of a tree are not meant for others: a file in its root.
const IGNORE_FILE: &[u8] = b".agentfsignore";
/// The longest such file, in bytes.
const MAX_IGNORE_FILE: u64 = 1 << 20;

impl Dispatcher {
    pub(super) fn diff(self: &Arc<Self>, asked: DiffStart) -> Result<JobReply> {
        let (a, b) = (text(&asked.a)?.to_owned(), text(&asked.b)?.to_owned());
        let its = self.clone();
        self.jobs.start("diff", move |progress| {
            its.write_out(&a)?;
            its.write_out(&b)?;
            let differences = its.core.diff(&a, &b, progress)?;
            let ignored = if asked.all { Gitignore::empty() } else { its.ignored(&b)? };
            let mut sieve =
                Sieve { with_git: asked.with_git, ignored: &ignored, git: BTreeSet::new(), count: 0 };
            let entries = differences
                .into_iter()
                .filter_map(|difference| sieve.sift(difference))
                .map(diff_entry)
                .collect();
            let left_git = sieve.git.into_iter().collect();
            Ok(DiffResult { entries, left_git, left_out: sieve.count }.encode())
        })
    }

    pub(super) fn merge(self: &Arc<Self>, asked: MergeStart) -> Result<JobReply> {
        let policy = match asked.conflicts.as_slice() {
            b"refuse" => Policy::Refuse,
            b"ours" => Policy::Ours,
            b"theirs" => Policy::Theirs,
            b"markers" => Policy::Markers,
            other => {
                return Err(FsError::BadName(format!(
                    "\"{}\" is no way to settle conflicts: say refuse, ours, theirs or markers",
                    other.escape_ascii()
                )));
            }
        };
        let source = text(&asked.source)?.to_owned();
        let into = asked.into.as_deref().map(text).transpose()?.map(str::to_owned);
        let its = self.clone();
        self.jobs.start("merge", move |progress| {
            its.write_out(&source)?;
            let into = its.core.merge_target_of(&source, into.as_deref())?.to_string();
            its.write_out(&into)?;
            let ignored = if asked.all { Gitignore::empty() } else { its.ignored(&source)? };
            let left_out = |path: &[u8], is_directory: bool| is_ignored(&ignored, path, is_directory);
            let wish = MergeWish {
                source: &source,
                into: Some(&into),
                policy,
                is_dry: asked.dry_run,
                with_git: asked.with_git,
                left_out: &left_out,
            };
            let merged = its.core.merge(&wish, progress)?;
            Ok(its.tell(merged, b"merge")?.encode())
        })
    }

    pub(super) fn restore(self: &Arc<Self>, asked: RestoreStart) -> Result<JobReply> {
        let (branch, from) = (text(&asked.branch)?.to_owned(), text(&asked.from)?.to_owned());
        let its = self.clone();
        self.jobs.start("restore", move |progress| {
            its.write_out(&branch)?;
            let merged = its.core.restore(&branch, &from, &asked.paths, asked.dry_run, progress)?;
            Ok(its.tell(merged, b"restore")?.encode())
        })
    }

    pub(super) fn undo(self: &Arc<Self>) -> Result<JobReply> {
        let its = self.clone();
        self.jobs.start("undo", move |progress| its.undo_last(progress).map(|result| result.encode()))
    }

    fn undo_last(&self, progress: &Progress) -> Result<MergeResult> {
        if let Some(event) = self.core.to_undo().filter(|event| event.deed != Deed::Deleted) {
            self.write_out(&event.branch.to_string())?;
        }
        Ok(match self.core.undo(progress)? {
            Undone::Restored(Deed::Merged, merged) => self.tell(*merged, b"undo-merge")?,
            Undone::Restored(Deed::Imported, merged) => self.tell(*merged, b"undo-import")?,
            Undone::Restored(_, merged) => self.tell(*merged, b"undo-restore")?,
            Undone::Revived(info) => MergeResult {
                deed: b"undo-delete".into(),
                branch: info.id.to_string().into(),
                name: info.name.map(|name| name.as_bytes().into()),
                ..MergeResult::default()
            },
        })
    }

    pub(super) fn discard(&self, asker: Asker, asked: &BranchDiscard) -> Result<DiscardReply> {
        let branch = text(&asked.branch)?;
        self.write_mapped(branch, Exactness::Any)?;
        let discard = || {
            let (id, kept, bytes) = self.core.discard_branch(branch, asked.force)?;
            Ok((id, (kept, bytes)))
        };
        let (id, (kept, bytes_reclaimed)) = self.retire(asker, branch, discard)?;
        Ok(DiscardReply { branch: id.to_string().into(), snapshot: snapshot_record(&kept), bytes_reclaimed })
    }

    pub(super) fn events(&self, after: Option<&[u8]>) -> Page<EventEntry> {
        let events = self.core.events().into_iter().enumerate();
        let entries = events.map(|(number, event)| EventEntry {
            key: format!("{number:010}").into(),
            deed: match event.deed {
                Deed::Merged => b"merge".into(),
                Deed::Restored => b"restore".into(),
                Deed::Deleted => b"delete".into(),
                Deed::Undone => b"undo".into(),
                Deed::Imported => b"import".into(),
            },
            when_ms: unix_ms(event.when),
            branch: event.branch.to_string().into(),
            name: event.name.map(|name| name.as_bytes().into()),
            source: format_id(event.source).into(),
            source_name: event.source_name.map(|name| name.as_bytes().into()),
            kept: event.kept.map(|id| id.to_string().into()),
            is_undone: event.is_undone,
        });
        Page::fill(entries.filter(|entry| after.is_none_or(|after| entry.key.as_slice() > after)))
    }

    /// All that the kernel keeps of a branch is written out; of what does not change there is nothing.
    fn write_out(&self, of: &str) -> Result<()> {
        if of == LOWER || self.core.find_branch(of).is_err() {
            return Ok(());
        }
        self.write_mapped(of, Exactness::OneMoment)
    }

    /// What is not meant for others of a tree.
    fn ignored(&self, of: &str) -> Result<Gitignore> {
        let file = self.core.read_path(of, IGNORE_FILE, MAX_IGNORE_FILE)?.unwrap_or_default();
        let wrong =
            |error: ignore::Error| FsError::Refused(format!(".agentfsignore of {of:?} is wrong: {error}"));
        let mut builder = GitignoreBuilder::new("/");
        for line in String::from_utf8_lossy(&file).lines() {
            builder.add_line(None, line).map_err(wrong)?;
        }
        builder.build().map_err(wrong)
    }

    /// What was done, for whoever asked; the kernel comes to know it first.
    fn tell(&self, merged: Merged, deed: &[u8]) -> Result<MergeResult> {
        let mut result =
            MergeResult { deed: deed.into(), source: merged.source.into(), ..MergeResult::default() };
        if let Some(info) = merged.into {
            if merged.kept.is_some() {
                self.caching.changed(info.view, &merged.names, &merged.inodes);
            }
            result.branch = info.id.to_string().into();
            result.name = info.name.map(|name| name.as_bytes().into());
        }
        result.kept = merged.kept.map(|kept| SnapshotRecord::new(kept.id.0, kept.name.as_deref()));
        let verb = |verb: Verb| match verb {
            Verb::Add => b"add".to_vec(),
            Verb::Take => b"take".to_vec(),
            Verb::Merge => b"merge".to_vec(),
            Verb::Move => b"move".to_vec(),
            Verb::Delete => b"delete".to_vec(),
        };
        let step = |step: &agentfs_core::Step| StepRecord { verb: verb(step.verb), path: step.path.to_vec() };
        result.steps = merged.steps.iter().map(step).collect();
        let conflict = |conflict: &agentfs_core::Conflict| ConflictRecord {
            kind: kind(conflict.kind).into(),
            path: conflict.path.to_vec(),
            other: conflict.other.as_ref().map(|path| path.to_vec()),
        };
        result.conflicts = merged.conflicts.iter().map(conflict).collect();
        result.left_git = merged.left_git.iter().map(|path| path.to_vec()).collect();
        match merged.unsynced {
            // It is done, and not durable yet: the log is written anew.
            Some(error) => Err(error),
            None => Ok(result),
        }
    }
}

fn is_ignored(ignored: &Gitignore, path: &[u8], is_directory: bool) -> bool {
    let path = Path::new(OsStr::from_bytes(path));
    !path.as_os_str().is_empty() && ignored.matched_path_or_any_parents(path, is_directory).is_ignore()
}

/// What of a comparison is told.
struct Sieve<'a> {
    with_git: bool,
    ignored: &'a Gitignore,
    /// The `.git` directories of which nothing was told.
    git: BTreeSet<Vec<u8>>,
    /// What else was not told.
    count: u64,
}

impl Sieve<'_> {
    /// What came from where nothing is told of is new; what went there is gone.
    fn sift(&mut self, mut difference: Difference) -> Option<Difference> {
        let is_directory = |face: &Option<Face>| face.is_some_and(|face| face.kind == FileKind::Directory);
        let is_left = self.leaves(&difference.path, is_directory(&difference.new.or(difference.old)));
        let is_old_left =
            difference.from.as_ref().map(|from| self.leaves(from, is_directory(&difference.old)));
        match (is_left, is_old_left) {
            (false, None | Some(false)) => {}
            (true, None | Some(true)) => return None,
            (false, Some(true)) => {
                (difference.status, difference.from, difference.old) = (DiffStatus::Added, None, None);
            }
            (true, Some(false)) => {
                difference.path = difference.from.take()?;
                (difference.status, difference.new) = (DiffStatus::Deleted, None);
            }
        }
        Some(difference)
    }

    fn leaves(&mut self, path: &[u8], is_directory: bool) -> bool {
        if let Some(root) = git_root(path).filter(|_| !self.with_git) {
            self.git.insert(root.to_vec());
            return true;
        }
        let is_left = is_ignored(self.ignored, path, is_directory);
        self.count += u64::from(is_left);
        is_left
    }
}

fn kind(kind: ConflictKind) -> &'static str {
    match kind {
        ConflictKind::EditEdit => "edit/edit",
        ConflictKind::EditDelete => "edit/delete",
        ConflictKind::RenameDelete => "rename/delete",
        ConflictKind::RenameRename => "rename/rename",
        ConflictKind::RenameAdd => "rename/add",
        ConflictKind::AddAdd => "add/add",
        ConflictKind::Type => "type",
        ConflictKind::Mode => "mode",
        ConflictKind::Owner => "owner",
        ConflictKind::Xattr => "xattr",
        ConflictKind::DirectoryFile => "directory/file",
    }
}

fn diff_entry(difference: Difference) -> DiffEntry {
    DiffEntry {
        path: difference.path.to_vec(),
        from: difference.from.map(|path| path.to_vec()),
        status: match difference.status {
            DiffStatus::Added => b'A',
            DiffStatus::Deleted => b'D',
            DiffStatus::Modified => b'M',
            DiffStatus::Renamed => b'R',
            DiffStatus::TypeChanged => b'T',
        },
        old: difference.old.map(face),
        new: difference.new.map(face),
        content: difference.content,
        xattrs: difference.xattrs,
    }
}

fn face(face: Face) -> result::Face {
    let kind = match face.kind {
        FileKind::File => libc::S_IFREG,
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
    };
    let Face { mode, uid, gid, size, links, .. } = face;
    result::Face { mode: kind | u32::from(mode), uid, gid, size, links }
}
