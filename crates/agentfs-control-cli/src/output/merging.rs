//! How comparisons, merges and what comes of them look.

use agentfs_proto::record::SnapshotEntry;
use agentfs_proto::response::DiscardReply;
use agentfs_proto::result::{DiffEntry, Face, MergeResult};
use serde_json::{Value, json};

use super::{Output, name_field, or_dash, shown, snapshot_json, text};
use crate::patch::Counts;

/// What a name is coloured as.
fn ink(status: u8) -> &'static str {
    match status {
        b'A' => "\x1b[32m",
        b'D' => "\x1b[31m",
        b'R' => "\x1b[36m",
        _ => "\x1b[33m",
    }
}

/// A line a path: status, path, for what was renamed where it was before, and what differs.
pub(crate) fn differences(entries: &[DiffEntry], colour: bool) -> Output {
    let line = |entry: &DiffEntry| {
        let mut fields = vec![char::from(entry.status).to_string()];
        fields.extend(entry.from.as_deref().map(shown));
        fields.push(shown(&entry.path));
        let details = details(entry);
        if !details.is_empty() {
            fields.push(details.join(", "));
        }
        let line = fields.join("\t");
        if colour { format!("{}{line}\x1b[m", ink(entry.status)) } else { line }
    };
    Output::list(entries, line, |entry| {
        json!({
            "status": char::from(entry.status).to_string(),
            "path": text(&entry.path),
            "from": entry.from.as_deref().map(text),
            "old": entry.old.map(face_json),
            "new": entry.new.map(face_json),
            "content": entry.content,
            "xattrs": entry.xattrs,
        })
    })
}

/// What differs of a file that is there in both.
fn details(entry: &DiffEntry) -> Vec<String> {
    let (Some(old), Some(new)) = (entry.old, entry.new) else { return Vec::new() };
    let mut details = Vec::new();
    let (old_kind, new_kind) = (kind(old), kind(new));
    if old_kind != new_kind {
        details.push(format!("{old_kind} -> {new_kind}"));
    } else if entry.content {
        details.push("content".into());
    }
    let permissions = |face: Face| face.mode & 0o7777;
    if permissions(old) != permissions(new) {
        details.push(format!("mode {:04o} -> {:04o}", permissions(old), permissions(new)));
    }
    if (old.uid, old.gid) != (new.uid, new.gid) {
        details.push(format!("owner {}:{} -> {}:{}", old.uid, old.gid, new.uid, new.gid));
    }
    if old.links != new.links && new_kind != "directory" && old_kind != "directory" {
        details.push(format!("links {} -> {}", old.links, new.links));
    }
    if entry.xattrs && old_kind == new_kind {
        details.push("xattrs".into());
    }
    details
}

fn kind(face: Face) -> &'static str {
    match face.mode & 0o170_000 {
        0o040_000 => "directory",
        0o100_000 => "file",
        0o120_000 => "symlink",
        0o010_000 => "fifo",
        0o140_000 => "socket",
        0o020_000 => "char device",
        0o060_000 => "block device",
        _ => "unknown",
    }
}

fn face_json(face: Face) -> Value {
    let Face { mode, uid, gid, size, links } = face;
    json!({"kind": kind(face), "mode": format!("{:04o}", mode & 0o7777), "uid": uid, "gid": gid, "size": size, "links": links})
}

/// How many lines differ; the lines of the table are made where the terminal is known.
pub(crate) fn counted(lines: Vec<String>, counts: &[(&[u8], Counts)]) -> Output {
    let json = |(path, counts): &(&[u8], Counts)| {
        let Counts { added, removed, is_binary } = counts;
        json!({"path": text(path), "added": added, "removed": removed, "binary": is_binary})
    };
    Output { lines, json: Some(counts.iter().map(json).collect()), code: 0, ..Output::default() }
}

/// What was merged, restored or undone, or would be; `is_refused` when nothing was done as something conflicts.
pub(crate) fn merged(result: &MergeResult, word: &str, is_dry: bool, is_refused: bool) -> Output {
    let mut lines = Vec::new();
    if is_dry {
        lines.extend(result.steps.iter().map(|step| format!("{}\t{}", shown(&step.verb), shown(&step.path))));
    }
    for conflict in &result.conflicts {
        let other = conflict.other.as_deref().map(|other| format!("\t{}", shown(other))).unwrap_or_default();
        lines.push(format!("CONFLICT\t{}\t{}{other}", shown(&conflict.kind), shown(&conflict.path)));
    }
    let branch = result.name.as_deref().map_or_else(|| shown(&result.branch), shown);
    let kept = result
        .kept
        .as_ref()
        .map_or_else(|| "-".to_owned(), |kept| kept.name.as_deref().map_or_else(|| shown(&kept.id), shown));
    let word = match (is_dry, is_refused, result.kept.is_some()) {
        (true, ..) => "DRY_RUN",
        (_, true, _) => "NOT_MERGED",
        (_, _, true) => word,
        (_, _, false) if word.starts_with("UNDONE") => word,
        (_, _, false) => "UP_TO_DATE",
    };
    let count = if is_refused { 0 } else { result.steps.len() };
    lines.push(format!(
        "{word}\tBRANCH={branch}\tCHANGED={count}\tCONFLICTS={}\tSNAPSHOT={kept}",
        result.conflicts.len()
    ));
    Output {
        lines,
        json: Some(merged_json(result, is_dry, is_refused)),
        code: u8::from(is_refused),
        ..Output::default()
    }
}

fn merged_json(result: &MergeResult, is_dry: bool, is_refused: bool) -> Value {
    let steps: Vec<Value> =
        result.steps.iter().map(|step| json!({"step": text(&step.verb), "path": text(&step.path)})).collect();
    let conflict = |conflict: &agentfs_proto::result::ConflictRecord| {
        json!({
            "kind": text(&conflict.kind),
            "path": text(&conflict.path),
            "other": conflict.other.as_deref().map(text),
        })
    };
    json!({
        "deed": text(&result.deed),
        "branch": text(&result.branch),
        "name": result.name.as_deref().map(text),
        "source": text(&result.source),
        "dry_run": is_dry,
        "done": !is_dry && !is_refused,
        "snapshot": result.kept.as_ref().map(snapshot_json),
        "steps": steps,
        "conflicts": result.conflicts.iter().map(conflict).collect::<Vec<_>>(),
        "left_git": result.left_git.iter().map(|path| text(path)).collect::<Vec<_>>(),
    })
}

/// A branch that was deleted is there again.
pub(crate) fn revived(result: &MergeResult) -> Output {
    let line =
        format!("UNDONE\tdelete\tBRANCH_ID={}{}", shown(&result.branch), name_field(result.name.as_deref()));
    Output { lines: vec![line], json: Some(merged_json(result, false, false)), code: 0, ..Output::default() }
}

/// A branch that was deleted, and the snapshot that it can be had back from.
pub(crate) fn discarded(reply: &DiscardReply) -> Output {
    let line = format!(
        "BRANCH_DELETED={}\tBYTES_RECLAIMED={}\tSNAPSHOT={}",
        shown(&reply.branch),
        reply.bytes_reclaimed,
        or_dash(reply.snapshot.name.as_deref())
    );
    let json = json!({
        "branch": text(&reply.branch),
        "bytes_reclaimed": reply.bytes_reclaimed,
        "snapshot": snapshot_json(&reply.snapshot),
    });
    Output { lines: vec![line], json: Some(json), code: 0, ..Output::default() }
}

/// Snapshots that were deleted, with the bytes that came back, or would be.
pub(crate) fn pruned(entries: &[(SnapshotEntry, Option<u64>)], is_dry: bool) -> Output {
    let word = if is_dry { "WOULD_DELETE" } else { "SNAPSHOT_DELETED" };
    let line = |(entry, bytes): &(SnapshotEntry, Option<u64>)| {
        let bytes = bytes.map(|bytes| format!("\tBYTES_RECLAIMED={bytes}")).unwrap_or_default();
        format!("{word}\t{}\t{}{bytes}", shown(&entry.id), or_dash(entry.name.as_deref()))
    };
    let json = |(entry, bytes): &(SnapshotEntry, Option<u64>)| {
        json!({
            "id": text(&entry.id),
            "name": entry.name.as_deref().map(text),
            "created_ms": entry.created_ms,
            "deleted": !is_dry,
            "bytes_reclaimed": bytes,
        })
    };
    Output::list(entries, line, json)
}
