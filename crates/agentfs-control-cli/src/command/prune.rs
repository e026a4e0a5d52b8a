//! `prune`: old snapshots go, those without a name of their own unless others are asked for.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentfs_proto::Response;
use agentfs_proto::record::SnapshotEntry;
use agentfs_proto::request::SnapshotDelete;

use super::snapshot;
use crate::client::{Client, unexpected};
use crate::failure::Failure;
use crate::output::{self, Output, shown};

/// What is to go.
pub(super) struct Wish {
    /// Of each branch, so many of the newest stay.
    pub(super) keep_last: Option<usize>,
    /// Younger ones stay.
    pub(super) older_than: Option<Duration>,
    /// Those that somebody named, too.
    pub(super) named: bool,
    /// Delete them; else say which.
    pub(super) delete: bool,
}

pub(super) fn run(client: &Client, wish: &Wish) -> Result<Output, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let chosen = choose(snapshot::all(client)?, wish, now);
    if !wish.delete {
        let chosen: Vec<_> = chosen.into_iter().map(|entry| (entry, None)).collect();
        return Ok(output::pruned(&chosen, true));
    }
    let (mut deleted, mut failed) = (Vec::new(), 0_usize);
    for entry in chosen {
        match client.call(SnapshotDelete { snapshot: entry.id.clone() }) {
            Ok(Response::SnapshotDelete(reply)) => deleted.push((entry, Some(reply.bytes_reclaimed))),
            Ok(_) => return Err(unexpected()),
            Err(failure) => {
                failed += 1;
                let _ = writeln!(io::stderr(), "not deleted: {}: {failure}", shown(&entry.id));
            }
        }
    }
    Ok(output::pruned(&deleted, false).ending(u8::from(failed > 0)))
}

/// Has nobody given it this name?
fn is_unnamed(entry: &SnapshotEntry) -> bool {
    entry.name.as_deref().is_none_or(|name| {
        let number = ["before-merge-", "before-restore-", "before-delete-", "before-undo-", "before-import-"]
            .iter()
            .find_map(|start| name.strip_prefix(start.as_bytes()));
        number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
    })
}

/// Those that go, oldest first.
fn choose(mut entries: Vec<SnapshotEntry>, wish: &Wish, now: Duration) -> Vec<SnapshotEntry> {
    // One that a branch grew from stays as long as that.
    entries.retain(|entry| entry.children == 0 && (wish.named || is_unnamed(entry)));
    entries.sort_by_key(|entry| entry.created_ms);
    let mut left: HashMap<Vec<u8>, usize> = HashMap::new();
    for entry in &entries {
        *left.entry(entry.branch.clone()).or_default() += 1;
    }
    entries.retain(|entry| {
        let left = left.entry(entry.branch.clone()).or_default();
        let is_last = wish.keep_last.is_some_and(|keep| *left <= keep);
        *left -= 1;
        let age = (now.as_millis() as u64).saturating_sub(entry.created_ms);
        let is_young = wish.older_than.is_some_and(|limit| u128::from(age) < limit.as_millis());
        !is_last && !is_young
    });
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, name: Option<&str>, branch: &str, created_ms: u64) -> SnapshotEntry {
        SnapshotEntry {
            id: id.into(),
            name: name.map(Into::into),
            branch: branch.into(),
            created_ms,
            children: 0,
        }
    }

    fn chosen(keep_last: Option<usize>, older_than: Option<u64>, named: bool) -> String {
        let entries = vec![
            entry("a", None, "m", 1000),
            entry("b", Some("before-merge-1"), "m", 2000),
            entry("c", Some("before-refactoring"), "m", 3000),
            entry("d", None, "m", 4000),
            entry("e", None, "x", 1000),
        ];
        let older_than = older_than.map(Duration::from_millis);
        let wish = Wish { keep_last, older_than, named, delete: false };
        let chosen = choose(entries, &wish, Duration::from_millis(5000));
        chosen.iter().map(|entry| shown(&entry.id)).collect()
    }

    #[test]
    fn what_is_new_or_among_the_last_of_its_branch_stays() {
        assert_eq!(chosen(Some(0), None, false), "aebd");
        assert_eq!(chosen(Some(1), None, false), "ab");
        assert_eq!(chosen(Some(1), None, true), "abc");
        assert_eq!(chosen(None, Some(3000), false), "aeb");
        assert_eq!(chosen(Some(1), Some(3500), false), "a");
        assert_eq!(chosen(Some(9), None, true), "");
    }
}
