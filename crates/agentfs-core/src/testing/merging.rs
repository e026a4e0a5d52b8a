//! Merging, and what must hold of all branches whatever was done.

use crate::{FsCore, MergeWish, Merged, Policy, Progress, Result, check};

/// Merges all of a branch or snapshot into a branch.
///
/// # Errors
/// As [`FsCore::merge`].
pub fn merge(core: &FsCore, source: &str, into: &str, policy: Policy) -> Result<Merged> {
    let left_out = &|_: &[u8], _| false;
    let wish = MergeWish { source, into: Some(into), policy, is_dry: false, with_git: false, left_out };
    core.merge(&wish, &Progress::default())
}

/// Do all branches hold together?
///
/// # Errors
/// The first that does not, and why.
///
/// # Panics
/// When a branch has no version.
pub fn sound(core: &FsCore) -> std::result::Result<(), String> {
    for info in core.list_branches(None, usize::MAX) {
        let version = core.version(info.view).expect("a branch has a version");
        let faults = check(&version);
        if !faults.is_empty() || !version.leads_back() {
            return Err(format!("{:?}: {faults:?}", info.name));
        }
    }
    Ok(())
}
