//! What `/proc` tells of processes.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

/// A process, as one line of `/proc/<pid>/stat` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: u32,
    /// The session that it is in.
    pub(crate) session: u32,
    /// When it was started, in ticks since the boot: with the pid it tells two processes apart.
    pub(crate) started: u64,
}

/// From `linux/sched.h`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// All processes that can be seen from here.
pub(super) fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A process or thread; `None` when it is gone.
pub(super) fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command is in parentheses and may have any characters.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let flags: u32 = fields.nth(2)?.parse().ok()?;
    let threads: u32 = fields.nth(10)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    // A zombie sees nothing any more, unless it is one whose other threads live on; a thread of the kernel has nothing of
    // its own to see.
    let lives = !matches!(state, "Z" | "X") || threads > 1;
    (lives && flags & PF_KTHREAD == 0).then_some(Stat { parent, session, started })
}

/// The name of what a process runs.
pub(super) fn command(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let shown: Vec<u8> = words.iter().map(|byte| if *byte == 0 { b' ' } else { *byte }).collect();
    let line = String::from_utf8_lossy(&shown).trim().to_owned();
    if line.is_empty() {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
    } else {
        line.chars().take(120).collect()
    }
}

fn status_field(tid: u32, key: &str) -> Option<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().map(|word| word.parse().ok()).collect()
}

/// The process that a thread belongs to.
pub(crate) fn process_of(tid: u32) -> Option<u32> {
    status_field(tid, "Tgid:")?.first().copied()
}

/// Tells whether the process of a thread, as it is now, still lives; `None` when it does not.
pub(crate) fn watch(tid: u32) -> Option<impl Fn() -> bool + Send + use<>> {
    let process = process_of(tid)?;
    let started = stat(process)?.started;
    Some(move || stat(process).is_some_and(|stat| stat.started == started))
}

/// The real, effective, saved and filesystem user ids of a process.
pub(crate) fn uids(pid: u32) -> Option<Vec<u32>> {
    status_field(pid, "Uid:")
}

/// The real user and group id of a process.
pub(crate) fn owner(pid: u32) -> (Option<u32>, Option<u32>) {
    let first = |key| status_field(pid, key).and_then(|ids| ids.first().copied());
    (first("Uid:"), first("Gid:"))
}

fn namespace(pid: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// Does a process count processes in another way than we do? One that is not in our namespace, nor below, does; one that
/// may not be asked counts as we do.
pub(crate) fn namespace_differs(pid: u32) -> bool {
    if pid == 0 {
        return true;
    }
    match (namespace(&pid.to_string()), namespace("self")) {
        (Some(theirs), Some(ours)) => theirs != ours,
        _ => false,
    }
}

/// The mount namespace that a process is in; `None` when it is gone or may not be asked.
pub(super) fn mount_namespace(pid: u32) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(format!("/proc/{pid}/ns/mnt")).ok().map(|namespace| namespace.ino())
}

/// Returns whether orphans become children of a process.
pub(super) fn is_reaper(pid: u32) -> bool {
    // Nobody but itself can ask for the flag: those that have it are init-like, leaders of their sessions and of nobody.
    stat(pid).is_some_and(|stat| stat.session == pid && stat.parent <= 1)
}

/// A process's ancestors, the nearest first.
pub(crate) fn parents(pid: u32) -> impl Iterator<Item = u32> {
    let parent = |pid: &u32| stat(*pid).map(|stat| stat.parent).filter(|parent| *parent > 0);
    std::iter::successors(parent(&pid), parent)
}

/// A process and all that descend from it, with their parents, as one look at `/proc` shows them.
pub(super) fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in all() {
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while let Some(pid) = found.get(at).copied() {
        found.extend(children.remove(&pid).unwrap_or_default());
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_its_parents_and_children() {
        let me = std::process::id();
        let stat = stat(me).unwrap();
        assert_eq!(stat.parent, rustix::process::getppid().unwrap().as_raw_nonzero().get() as u32);
        assert!(parents(me).any(|pid| pid == stat.parent));
        let mut child = std::process::Command::new("sleep").arg("20").spawn().unwrap();
        assert!(tree(me).contains(&child.id()));
        assert_eq!(process_of(child.id()), Some(child.id()));
        assert!(command(child.id()).contains("sleep") || command(child.id()).contains("agentfs"));
        assert!(!namespace_differs(child.id()));
        assert_eq!(uids(child.id()).unwrap()[0], rustix::process::getuid().as_raw());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(super::stat(child.id()), None);
    }
}
