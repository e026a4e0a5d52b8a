//! Who asks.

use agentfs_core::{Attr, Caller};
use fuser::INodeNo;

use super::Adapter;

/// The user and group that a request is made as.
pub(super) fn caller(req: &fuser::Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), is_member: true }
}

/// The same, about to change a file: is it a member of its group? Asked where that makes a difference.
fn changer(req: &fuser::Request, attr: Option<Attr>) -> Caller {
    let matters = |attr: &Attr| attr.mode & 0o2010 == 0o2000;
    let is_member = attr.filter(matters).is_none_or(|attr| keeps_sgid(req, attr.gid));
    Caller { is_member, ..caller(req) }
}

impl Adapter {
    /// Who is about to change a file.
    pub(super) fn changer(&self, req: &fuser::Request, ino: INodeNo) -> Caller {
        match caller(req) {
            root if root.is_root() => root,
            _ => changer(req, self.tree(ino).and_then(|(view, ino)| self.core.getattr(view, ino)).ok()),
        }
    }
}

/// May who asks have sgid set on a file of this group: as the superuser, or as a member of it?
pub(super) fn keeps_sgid(req: &fuser::Request, group: u32) -> bool {
    let caller = caller(req);
    caller.is_root() || caller.gid == group || supplementary_groups(req.pid()).contains(&group)
}

/// The other groups of a process or thread. None, when it is gone or not to be seen from here.
fn supplementary_groups(pid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    groups.into_iter().flat_map(str::split_whitespace).filter_map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_this_process_are_found_and_those_of_none_are_none() {
        let mut expected = rustix::process::getgroups().unwrap_or_default();
        let mut found = supplementary_groups(std::process::id());
        expected.sort_by_key(|gid| gid.as_raw());
        found.sort_unstable();
        assert_eq!(found, expected.iter().map(|gid| gid.as_raw()).collect::<Vec<_>>());
        assert!(supplementary_groups(0).is_empty());
    }
}
