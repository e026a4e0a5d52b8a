//! How the past of a volume looks: as a tree, as a graph for `dot`, as JSON.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, UNIX_EPOCH};

use agentfs_proto::record::{BranchEntry, EventEntry, ProcessEntry, SnapshotEntry};
use serde_json::{Value, json};

use super::{Output, shown, text};

/// All that there is, and what was done.
pub(crate) struct Past {
    pub(crate) branches: Vec<BranchEntry>,
    pub(crate) snapshots: Vec<SnapshotEntry>,
    pub(crate) events: Vec<EventEntry>,
    pub(crate) processes: Vec<ProcessEntry>,
    /// The bytes that only a branch has.
    pub(crate) held: HashMap<Vec<u8>, u64>,
}

/// Something below a branch or a snapshot in the tree.
#[derive(Clone, Copy)]
enum Item<'a> {
    Branch(&'a BranchEntry),
    Snapshot(&'a SnapshotEntry),
    Event(&'a EventEntry),
}

impl Item<'_> {
    /// What happened first comes first; a snapshot before what grew from it and what was done after it.
    fn order(&self) -> (u64, u8) {
        match self {
            Item::Snapshot(entry) => (entry.created_ms, 0),
            Item::Branch(entry) => (entry.created_ms, 1),
            Item::Event(event) => (event.when_ms, 2),
        }
    }
}

/// Renders the past.
pub(crate) fn log(past: &Past, is_dot: bool) -> Output {
    let lines = if is_dot { dot(past) } else { tree(past) };
    Output { lines, json: Some(as_json(past)), code: 0, ..Output::default() }
}

impl Past {
    fn name(&self, id: &[u8], name: Option<&[u8]>) -> String {
        let branch =
            || self.branches.iter().find(|entry| entry.id == id).and_then(|entry| entry.name.as_deref());
        let snapshot =
            || self.snapshots.iter().find(|entry| entry.id == id).and_then(|entry| entry.name.as_deref());
        name.or_else(branch).or_else(snapshot).map_or_else(|| short(id), shown)
    }

    fn below(&self, id: &[u8]) -> Vec<Item<'_>> {
        let branches =
            self.branches.iter().filter(|entry| entry.parent.as_deref() == Some(id)).map(Item::Branch);
        let snapshots = self.snapshots.iter().filter(|entry| entry.branch == id).map(Item::Snapshot);
        let is_of = |event: &&EventEntry| event.branch == id && event.deed != b"delete";
        let events = self.events.iter().filter(is_of).map(Item::Event);
        let mut items: Vec<Item<'_>> = branches.chain(snapshots).chain(events).collect();
        items.sort_by_key(Item::order);
        items
    }
}

/// The end of an id, which differs also of two that were made at once.
fn short(id: &[u8]) -> String {
    let start = id.len().saturating_sub(12);
    format!("…{}", shown(id.get(start..).unwrap_or(id)))
}

fn when(ms: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(ms);
    humantime::format_rfc3339_seconds(time).to_string().replace('T', " ")
}

fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 100.0);
    format!("{value:.digits$} {}", units.get(unit).unwrap_or(&"B"))
}

fn tree(past: &Past) -> Vec<String> {
    let ids: HashSet<&[u8]> = past
        .branches
        .iter()
        .map(|entry| entry.id.as_slice())
        .chain(past.snapshots.iter().map(|entry| entry.id.as_slice()))
        .collect();
    let mut lines = Vec::new();
    for root in &past.branches {
        if root.parent.as_deref().is_none_or(|parent| !ids.contains(parent)) {
            lines.push(branch_label(past, root));
            draw(past, &root.id, "", &mut lines);
        }
    }
    let mut gone: Vec<&[u8]> = Vec::new();
    for entry in past.snapshots.iter().filter(|entry| !ids.contains(entry.branch.as_slice())) {
        if !gone.contains(&entry.branch.as_slice()) {
            gone.push(&entry.branch);
        }
    }
    for branch in gone {
        let deleted =
            past.events.iter().rev().find(|event| event.branch == branch && event.deed == b"delete");
        let name = past.name(branch, deleted.and_then(|event| event.name.as_deref()));
        let since = deleted.map(|event| format!(" {}", when(event.when_ms))).unwrap_or_default();
        lines.push(format!("({name}, deleted{since})"));
        draw(past, branch, "", &mut lines);
    }
    lines
}

fn draw(past: &Past, id: &[u8], indent: &str, lines: &mut Vec<String>) {
    let items = past.below(id);
    for (number, item) in items.iter().enumerate() {
        let (turn, go_on) = if number + 1 == items.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let label = match item {
            Item::Branch(entry) => branch_label(past, entry),
            Item::Snapshot(entry) => format!("◆ {}  {}", past.name(&entry.id, None), when(entry.created_ms)),
            Item::Event(event) => event_label(past, event),
        };
        lines.push(format!("{indent}{turn}{label}"));
        let below = format!("{indent}{go_on}");
        match item {
            Item::Branch(entry) => draw(past, &entry.id, &below, lines),
            Item::Snapshot(entry) => draw(past, &entry.id, &below, lines),
            Item::Event(_) => {}
        }
    }
}

fn branch_label(past: &Past, entry: &BranchEntry) -> String {
    let mut label = format!("● {}  {}", past.name(&entry.id, None), when(entry.created_ms));
    label.push_str(&format!("  {} of its own", bytes(past.held.get(&entry.id).copied().unwrap_or(0))));
    let inside: Vec<String> = past
        .processes
        .iter()
        .filter(|process| process.branch == entry.id)
        .map(|process| format!("{} {}", process.pid, shown(&process.command)))
        .collect();
    if !inside.is_empty() {
        label.push_str(&format!("  [{}]", inside.join(", ")));
    }
    label
}

fn event_label(past: &Past, event: &EventEntry) -> String {
    let source = past.name(&event.source, event.source_name.as_deref());
    let what = match event.deed.as_slice() {
        b"merge" => format!("⇐ merged {source}"),
        b"restore" => format!("↺ restored to {source}"),
        b"import" => "⇐ imported".into(),
        b"undo" => format!("↶ undone: back to {source}"),
        other => shown(other),
    };
    let undone = if event.is_undone { "  (undone)" } else { "" };
    format!("{what}  {}{undone}", when(event.when_ms))
}

/// Names in quotes, as `dot` has them.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

fn dot(past: &Past) -> Vec<String> {
    let node = |id: &[u8]| quoted(&shown(id));
    let mut lines = vec!["digraph agentfs {".to_owned(), "  rankdir=LR;".to_owned()];
    for entry in &past.branches {
        let label = quoted(&past.name(&entry.id, None));
        lines.push(format!("  {} [label={label}, shape=box];", node(&entry.id)));
        lines.extend(entry.parent.iter().map(|parent| format!("  {} -> {};", node(parent), node(&entry.id))));
    }
    for entry in &past.snapshots {
        let label = quoted(&past.name(&entry.id, None));
        lines.push(format!("  {} [label={label}, shape=note];", node(&entry.id)));
        lines.push(format!("  {} -> {};", node(&entry.branch), node(&entry.id)));
    }
    for event in past.events.iter().filter(|event| event.deed != b"delete" && event.source != event.branch) {
        let (from, to) = (node(&event.source), node(&event.branch));
        let label = quoted(&format!("{} {}", shown(&event.deed), when(event.when_ms)));
        lines.push(format!("  {from} -> {to} [style=dashed, label={label}];"));
    }
    lines.push("}".to_owned());
    lines
}

fn as_json(past: &Past) -> Value {
    let optional = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(text);
    let branch = |entry: &BranchEntry| {
        json!({
            "id": text(&entry.id),
            "name": optional(&entry.name),
            "parent": optional(&entry.parent),
            "created_ms": entry.created_ms,
            "private_bytes": past.held.get(&entry.id),
        })
    };
    let snapshot = |entry: &SnapshotEntry| {
        json!({
            "id": text(&entry.id),
            "name": optional(&entry.name),
            "branch": text(&entry.branch),
            "created_ms": entry.created_ms,
        })
    };
    let event = |event: &EventEntry| {
        json!({
            "deed": text(&event.deed),
            "when_ms": event.when_ms,
            "branch": text(&event.branch),
            "name": optional(&event.name),
            "source": text(&event.source),
            "source_name": optional(&event.source_name),
            "snapshot": optional(&event.kept),
            "undone": event.is_undone,
        })
    };
    json!({
        "branches": past.branches.iter().map(branch).collect::<Vec<_>>(),
        "snapshots": past.snapshots.iter().map(snapshot).collect::<Vec<_>>(),
        "events": past.events.iter().map(event).collect::<Vec<_>>(),
        "processes": past.processes.iter().map(super::process_json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(id: &str, parent: Option<&str>, created_ms: u64) -> BranchEntry {
        let (id, name) = (id.as_bytes().to_vec(), Some(id.as_bytes().to_vec()));
        BranchEntry { id, name, parent: parent.map(Into::into), created_ms, open_files: 0 }
    }

    fn past() -> Past {
        let snapshot = |id: &str, branch: &str, created_ms| SnapshotEntry {
            id: id.into(),
            name: Some(id.into()),
            branch: branch.into(),
            created_ms,
            children: 0,
        };
        let event = |deed: &str, branch: &str, source: &str, when_ms| EventEntry {
            key: b"0".to_vec(),
            deed: deed.into(),
            when_ms,
            branch: branch.into(),
            name: Some(branch.into()),
            source: source.into(),
            source_name: Some(source.into()),
            kept: None,
            is_undone: false,
        };
        Past {
            branches: vec![
                branch("main", None, 0),
                branch("left", Some("base"), 2000),
                branch("right", Some("main"), 3000),
            ],
            snapshots: vec![snapshot("base", "main", 1000), snapshot("before-delete-1", "old", 5000)],
            events: vec![event("merge", "main", "left", 4000), event("delete", "old", "old", 6000)],
            processes: vec![ProcessEntry {
                key: b"7".to_vec(),
                pid: 7,
                command: b"sh".to_vec(),
                branch: b"right".to_vec(),
                reason: b"bound".to_vec(),
                since_ms: 0,
            }],
            held: [(b"left".to_vec(), 3 << 19)].into(),
        }
    }

    #[test]
    fn the_tree_shows_what_came_from_what_in_its_order() {
        let expected = "\
● main  1970-01-01 00:00:00Z  0 B of its own
├─ ◆ base  1970-01-01 00:00:01Z
│  └─ ● left  1970-01-01 00:00:02Z  1.5 MiB of its own
├─ ● right  1970-01-01 00:00:03Z  0 B of its own  [7 sh]
└─ ⇐ merged left  1970-01-01 00:00:04Z
(old, deleted 1970-01-01 00:00:06Z)
└─ ◆ before-delete-1  1970-01-01 00:00:05Z";
        assert_eq!(tree(&past()).join("\n"), expected);
    }

    #[test]
    fn dot_gets_all_edges() {
        let lines = dot(&past());
        for edge in ["\"base\" -> \"left\";", "\"main\" -> \"right\";", "\"main\" -> \"base\";"] {
            assert!(lines.iter().any(|line| line.trim() == edge), "{edge}: {lines:?}");
        }
        assert!(lines.iter().any(|line| line.contains("\"left\" -> \"main\" [style=dashed")));
        assert_eq!(quoted(r#"a"b\"#), r#""a\"b\\""#);
    }
}
