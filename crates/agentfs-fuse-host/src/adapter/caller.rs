//! Who asks.

use agentfs_core::Caller;
use fuser::INodeNo;

use super::Adapter;

const SGID: u16 = 0o2000;

/// The user and group that a request is made as.
pub(super) fn caller(req: &fuser::Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), is_member: true }
}

impl Adapter {
    /// Who is about to change a file. Whether it is a member of the file's group is asked where the file has sgid.
    pub(super) fn changer(&self, req: &fuser::Request, ino: INodeNo) -> Caller {
        let caller = caller(req);
        if caller.is_root() {
            return caller;
        }
        let attr = self.tree(req, ino).and_then(|(view, ino)| self.core.getattr(view, ino)).ok();
        let group = attr.filter(|attr| attr.mode & SGID != 0).map(|attr| attr.gid);
        let has = |group| caller.gid == group || supplementary_groups(req.pid()).contains(&group);
        Caller { is_member: group.is_none_or(has), ..caller }
    }
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
