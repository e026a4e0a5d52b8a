//! A plan as edits of a branch.

use std::collections::HashMap;

use super::plan::{Guard, Plan};
use crate::branch::Draft;
use crate::error::{FsError, Result};
use crate::tree::{Directory, Entry, Inode};
use crate::types::{FileKind, InodeId, Name, Timestamp};

/// Drafts what a plan says, all of it in one step.
///
/// # Errors
/// `Contended` when the branch is not what the plan relies on any more; nothing is to be changed then.
pub fn emit(plan: &Plan, draft: &mut Draft<'_>) -> Result<()> {
    let is_directory = |dir: &InodeId| {
        plan.new.contains_key(dir)
            || draft.version().get(*dir).is_some_and(|inode| inode.directory().is_some())
    };
    let is_free = |ino: &InodeId| draft.inode(*ino).is_err();
    if !plan.guards.iter().all(|guard| holds(guard, draft))
        || !plan.removed.keys().chain(plan.added.keys()).all(|(dir, _)| is_directory(dir))
        || !plan.new.keys().all(is_free)
    {
        return Err(FsError::Contended);
    }
    let now = Timestamp::now();
    let (mut names, mut directories) = (HashMap::new(), HashMap::new());
    for (place, entry) in &plan.added {
        *names.entry(entry.ino()).or_insert(0_i64) += 1;
        if entry.kind() == FileKind::Directory {
            *directories.entry(place.0).or_insert(0_u32) += 1;
        }
    }
    for (ino, new) in &plan.new {
        let mut inode = new.inode.clone();
        if inode.directory().is_some() {
            inode.meta.nlink = 2 + directories.get(ino).copied().unwrap_or(0);
            inode.meta.times.mtime = now;
        } else {
            inode.meta.nlink = names.get(ino).copied().unwrap_or(0) as u32;
            if inode.meta.nlink == 0 {
                continue; // what was put in its place later took its last name
            }
        }
        new.first.iter().for_each(|object| draft.is_to_be_durable(*object));
        draft.put(*ino, inode);
    }
    for ((dir, name), entry) in &plan.removed {
        draft.unlink(*dir, name, *entry, now)?;
        *names.entry(entry.ino()).or_insert(0) -= 1;
    }
    for ((dir, name), entry) in &plan.added {
        if plan.new.contains_key(dir) {
            draft.add_name(*dir, name, *entry);
        } else {
            draft.link(*dir, name, *entry, now)?;
        }
        if entry.kind() == FileKind::Directory && !plan.new.contains_key(&entry.ino()) {
            draft.set_parent(entry.ino(), *dir);
            draft.meta(entry.ino())?.times.ctime = now;
        }
    }
    count_names(plan, draft, names, now)?;
    let is_there = |ino: &InodeId| draft.version().get(*ino).is_some();
    let learnt: Vec<_> = plan.learnt.iter().filter(|(ino, _)| is_there(ino)).cloned().collect();
    learnt.into_iter().for_each(|(ino, replaces)| draft.set_replaces(ino, replaces));
    for (ino, attributes) in &plan.attributes {
        let meta = draft.meta(*ino)?;
        meta.mode = attributes.mode.unwrap_or(meta.mode);
        (meta.uid, meta.gid) = attributes.owner.unwrap_or((meta.uid, meta.gid));
        meta.times.ctime = now;
        if let Some(replaces) = &attributes.replaces {
            draft.set_replaces(*ino, replaces.clone());
        }
        if let Some(xattrs) = &attributes.xattrs {
            draft.set_xattrs(*ino, xattrs.as_deref().cloned().unwrap_or_default());
        }
    }
    Ok(())
}

/// Files that have more or fewer names than before; those that have none go.
fn count_names(
    plan: &Plan,
    draft: &mut Draft<'_>,
    names: HashMap<InodeId, i64>,
    now: Timestamp,
) -> Result<()> {
    for (ino, more) in names {
        if plan.new.contains_key(&ino) || more == 0 {
            continue;
        }
        let kind = draft.inode(ino)?.kind();
        if more > 0 {
            let meta = draft.meta(ino)?;
            meta.nlink += more as u32;
            meta.times.ctime = now;
        }
        for _ in more..0 {
            draft.release(Entry::new(ino, kind), now)?;
        }
    }
    Ok(())
}

/// Is the branch still what a plan relies on?
fn holds(guard: &Guard, draft: &Draft<'_>) -> bool {
    let now = |ino: &InodeId| draft.version().get(*ino);
    match guard {
        Guard::Inode(ino, was) => now(ino).is_some_and(|now| is_as_it_was(was, now)),
        Guard::Name(dir, name, was) => {
            let directory = now(dir).and_then(|inode| inode.directory());
            directory.is_none_or(|directory| directory.get(name) == *was)
                && (directory.is_some() || was.is_none())
        }
        Guard::Names(dir, was) => now(dir).is_some_and(|now| names(now) == names(was)),
        Guard::Parent(dir, parent) => {
            now(dir).and_then(|inode| inode.directory()).is_some_and(|directory| directory.parent == *parent)
        }
    }
}

fn names(directory: &Inode) -> Vec<(&Name, Entry)> {
    directory.directory().into_iter().flat_map(Directory::iter).collect()
}

/// Is a file what it was, read times excepted? Of a directory its names are not asked.
fn is_as_it_was(was: &Inode, now: &Inode) -> bool {
    let of = |inode: &Inode| {
        let meta = inode.meta;
        (meta.mode, meta.uid, meta.gid, meta.size, meta.times.mtime)
    };
    let is_directory = was.directory().is_some() && now.directory().is_some();
    let attributes = |inode: &Inode| (inode.meta.mode, inode.meta.uid, inode.meta.gid);
    was.xattrs == now.xattrs
        && if is_directory {
            attributes(was) == attributes(now)
        } else {
            of(was) == of(now) && was.body == now.body && was.meta.nlink == now.meta.nlink
        }
}
