//! `check --repair`: mends what can be mended without guessing, in a store that nobody serves. Names and link counts follow
//! from what is there; what no name leads to gets one in `lost+found`. What is taken away is kept beside the log.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::check::{Report, check_store};
use super::checkpoint::PastState;
use super::recover::{LateJournal, Past, keep_bytes, keep_what_ends_the_log};
use crate::config::Config;
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::log::NO_PIECE;
use crate::store::{Change, Device};
use crate::tree::{Aside, Body, Directory, Edit, Entry, Fault, Inode, Meta, Times, Version, check};
use crate::types::{FileKind, InodeId, Name, Timestamp};

/// What a repair did.
#[derive(Clone, Debug, Default)]
pub struct Repaired {
    /// What was mended, in words.
    pub mended: Vec<String>,
    /// What is found afterwards.
    pub report: Report,
}

/// Where what no name leads to is put.
const LOST_AND_FOUND: &str = "lost+found";
/// A tree that is not sound after so many rounds is left as it is then.
const ROUNDS: usize = 8;

/// Mends a store, and looks at it again.
///
/// # Errors
/// What the device answers; a log whose beginning is lost cannot be mended, and is left alone.
pub fn repair_store(device: &Arc<dyn Device>, config: &Config) -> Result<Repaired> {
    let mut repaired = Repaired::default();
    let before = check_store(device.clone(), config.clone())?;
    if before.findings.is_empty() {
        return Ok(Repaired { report: before, ..repaired });
    }
    let core = FsCore::bare(device.clone(), Arc::new(LateJournal::default()), config.clone(), None);
    let mut past = Past::read(&core)?;
    past.check_beginning()?;
    if let Some(damage) = &past.log.damage {
        repaired.mended.push(format!("{damage}; they are kept in lost-* files"));
    }
    let room = past.history.marks.inode.max(InodeId::FIRST_FREE.0);
    let mut removed = Vec::new();
    past.history.mend(&mut |tree, version| {
        mend(tree, version, InodeId(room), &mut repaired.mended, &mut removed);
    });
    past.history.marks.inode = room + 1;
    if !repaired.mended.is_empty() {
        if !removed.is_empty() {
            keep_bytes(&**device, (NO_PIECE, 0), (removed.join("\n") + "\n").as_bytes())?;
        }
        keep_what_ends_the_log(&**device, &past.log)?;
        let end = past.log.end().map_or(0, |(piece, _)| piece);
        let boot = past.log.boot.unwrap_or(config.boot);
        let Past { history, log, .. } = past;
        let (dirty, is_closed) = (history.dirty(), log.is_closed());
        core.take_over(history);
        core.store.begin_mount();
        core.rewrite_log(end + 1, PastState { boot, dirty, is_closed })?;
    }
    repaired.report = check_store(device.clone(), config.clone())?;
    Ok(repaired)
}

/// Mends one tree, round by round: what one fault hides shows in the next.
fn mend(
    tree: &str,
    version: &mut Version,
    room: InodeId,
    mended: &mut Vec<String>,
    removed: &mut Vec<String>,
) {
    let mut aside = Aside::default();
    for _ in 0..ROUNDS {
        let faults = check(version);
        let heads = heads(version, &faults);
        let before = mended.len();
        for fault in faults {
            let edits = mending(version, &fault, room, &heads);
            if !edits.is_empty() {
                mended.push(format!("in {tree}: {fault}"));
            }
            for edit in edits {
                if let Edit::Unlink(dir, name) = &edit {
                    removed
                        .push(format!("in {tree}, directory inode {}: the name {name:?} ({fault})", dir.0));
                }
                edit.apply(version, &mut aside);
            }
        }
        if mended.len() == before {
            return;
        }
    }
}

/// Of the inodes that nothing leads to, those to be given a name: what others of them lead to comes along.
fn heads(version: &Version, faults: &[Fault]) -> HashSet<InodeId> {
    let lost = |fault: &Fault| if let Fault::Unreachable(ino) = fault { Some(*ino) } else { None };
    let lost: BTreeSet<InodeId> = faults.iter().filter_map(lost).collect();
    let inside = |dir: InodeId| {
        let entries =
            version.get(dir).and_then(|inode| inode.directory()).into_iter().flat_map(Directory::iter);
        entries.map(|(_, entry)| entry.ino()).filter(move |ino| *ino != dir)
    };
    let held: HashSet<InodeId> = lost.iter().flat_map(|dir| inside(*dir)).collect();
    let (mut heads, mut covered) = (HashSet::new(), HashSet::new());
    // Directories that lie in each other have no first: one of them is as good as another.
    let in_order = lost.iter().filter(|ino| !held.contains(ino)).chain(&lost);
    for ino in in_order {
        if covered.insert(*ino) {
            heads.insert(*ino);
            let mut next = vec![*ino];
            while let Some(dir) = next.pop() {
                next.extend(inside(dir).filter(|ino| lost.contains(ino) && covered.insert(*ino)));
            }
        }
    }
    heads
}

/// Edits that mend a fault.
fn mending(version: &Version, fault: &Fault, room: InodeId, heads: &HashSet<InodeId>) -> Vec<Edit> {
    match fault {
        Fault::DanglingEntry(dir, ino) => {
            names_of(version, *dir, *ino).into_iter().map(|name| Edit::Unlink(*dir, name)).collect()
        }
        Fault::WrongKind(dir, ino, _) => {
            let Some(kind) = version.get(*ino).map(|inode| inode.kind()) else { return Vec::new() };
            let link = |name| Edit::Link(*dir, name, Entry::new(*ino, kind));
            names_of(version, *dir, *ino).into_iter().map(link).collect()
        }
        Fault::LinkCount(ino, _, found) => match version.get(*ino) {
            Some(inode) => vec![Edit::Meta(*ino, Meta { nlink: *found, ..inode.meta })],
            None => Vec::new(),
        },
        Fault::WrongParent(dir, lies, _) => vec![Edit::Parent(*dir, *lies)],
        Fault::SecondName(dir, name, _) => vec![Edit::Unlink(*dir, name.clone())],
        Fault::ContentBehindEnd(ino, size, end) => {
            vec![Edit::Layers(*ino, vec![Change::hole(*size, end - size)])]
        }
        Fault::Unreachable(ino) if heads.contains(ino) => shelter(version, *ino, room),
        Fault::Unreachable(_) => Vec::new(),
    }
}

/// The names that a directory has for an inode.
pub(super) fn names_of(version: &Version, dir: InodeId, ino: InodeId) -> Vec<Name> {
    let entries = version.get(dir).and_then(|inode| inode.directory()).into_iter().flat_map(Directory::iter);
    entries.filter(|(_, entry)| entry.ino() == ino).map(|(name, _)| name.clone()).collect()
}

/// Gives an inode that nothing leads to a name in `lost+found`.
fn shelter(version: &Version, ino: InodeId, room: InodeId) -> Vec<Edit> {
    let (Some(inode), Ok(name)) = (version.get(ino), Name::new(format!("#{}", ino.0).as_bytes())) else {
        return Vec::new();
    };
    let mut edits = Vec::new();
    if version.get(room).is_none() {
        edits = lost_and_found(version, room);
        if edits.is_empty() {
            return edits; // there is no root to put it in
        }
    }
    edits.push(Edit::Link(room, name, Entry::new(ino, inode.kind())));
    if inode.directory().is_some() {
        edits.push(Edit::Parent(ino, room));
    }
    edits
}

/// Makes the directory, under the first name that is free.
fn lost_and_found(version: &Version, room: InodeId) -> Vec<Edit> {
    let root = version.get(InodeId::ROOT).and_then(|inode| inode.directory());
    let names = (0..).filter_map(|n: u32| {
        let name = if n == 0 { LOST_AND_FOUND.to_owned() } else { format!("{LOST_AND_FOUND}.{n}") };
        Name::new(name.as_bytes()).ok()
    });
    let mut free = names.filter(|name| root.is_some_and(|root| root.get(name).is_none()));
    let Some(name) = root.and_then(|_| free.next()) else { return Vec::new() };
    let meta = Meta {
        mode: 0o700,
        uid: 0,
        gid: 0,
        nlink: 2,
        times: Times::all(Timestamp::now()),
        size: 0,
        blocks: 0,
    };
    let body = Body::Directory(Directory::new(InodeId::ROOT));
    vec![
        Edit::Put(room, Arc::new(Inode::new(meta, body))),
        Edit::Link(InodeId::ROOT, name, Entry::new(room, FileKind::Directory)),
    ]
}
