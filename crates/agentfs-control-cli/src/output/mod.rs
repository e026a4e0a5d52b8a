//! How answers look, as text that scripts split at tabs and as JSON: the one place that knows.

mod log;
mod merging;

use std::io::{self, Write};

use agentfs_proto::record::{
    BranchEntry, BranchRecord, ProcessEntry, RequestCount, SnapshotEntry, SnapshotRecord,
};
use agentfs_proto::response::{
    BindReply, BranchDeleteReply, SnapshotDeleteReply, StatusReply, StopReply, UnbindReply, UsageReply,
    WhoamiReply,
};
use serde_json::{Map, Value, json};

pub(crate) use self::log::{Past, log};
pub(crate) use self::merging::{counted, differences, discarded, merged, pruned, revived};

/// Which of the two looks is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Format {
    /// Lines for scripts.
    Text,
    /// One JSON value in one line.
    Json,
}

/// An answer in both looks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    lines: Vec<String>,
    /// None is nothing to print.
    json: Option<Value>,
    code: u8,
    /// Standard output has something else.
    is_aside: bool,
}

impl Output {
    fn line(line: String, json: Value) -> Self {
        Self { lines: vec![line], json: Some(json), ..Output::default() }
    }

    fn list<T>(items: &[T], line: impl Fn(&T) -> String, json: impl Fn(&T) -> Value) -> Self {
        let lines = items.iter().map(line).collect();
        let json = items.iter().map(json).collect();
        Self { lines, json: Some(json), ..Output::default() }
    }

    /// Nothing to say, and what to exit with.
    pub(crate) fn exit(code: u8) -> Self {
        Self { lines: Vec::new(), json: None, code, ..Output::default() }
    }

    /// The same, with another exit code.
    pub(crate) fn ending(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The same, on standard error, as standard output has something else.
    pub(crate) fn aside(self) -> Self {
        Self { is_aside: true, ..self }
    }

    /// Whether it belongs on standard error.
    pub(crate) fn is_aside(&self) -> bool {
        self.is_aside
    }

    /// What to exit with.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Writes the answer; an empty list is no line of text.
    pub(crate) fn print(&self, format: Format, out: &mut impl Write) -> io::Result<()> {
        match format {
            Format::Text => self.lines.iter().try_for_each(|line| writeln!(out, "{line}"))?,
            Format::Json => self.json.iter().try_for_each(|json| writeln!(out, "{json}"))?,
        }
        out.flush()
    }
}

pub(crate) fn snapshot_created(snapshot: &SnapshotRecord) -> Output {
    let line = format!("SNAPSHOT_ID={}{}", shown(&snapshot.id), name_field(snapshot.name.as_deref()));
    Output::line(line, snapshot_json(snapshot))
}

pub(crate) fn snapshot_renamed(snapshot: &SnapshotRecord) -> Output {
    let line = format!("SNAPSHOT_RENAMED={}{}", shown(&snapshot.id), name_field(snapshot.name.as_deref()));
    Output::line(line, snapshot_json(snapshot))
}

pub(crate) fn snapshot_deleted(reply: &SnapshotDeleteReply) -> Output {
    let line =
        format!("SNAPSHOT_DELETED={}\tBYTES_RECLAIMED={}", shown(&reply.snapshot), reply.bytes_reclaimed);
    let json = json!({"snapshot": text(&reply.snapshot), "bytes_reclaimed": reply.bytes_reclaimed});
    Output::line(line, json)
}

pub(crate) fn snapshot_list(snapshots: &[SnapshotEntry]) -> Output {
    let line =
        |entry: &SnapshotEntry| format!("SNAPSHOT\t{}\t{}", shown(&entry.id), or_dash(entry.name.as_deref()));
    Output::list(snapshots, line, |entry| {
        json!({
            "id": text(&entry.id),
            "name": entry.name.as_deref().map(text),
            "branch": text(&entry.branch),
            "created_ms": entry.created_ms,
            "children": entry.children,
        })
    })
}

pub(crate) fn branch_created(branch: &BranchRecord) -> Output {
    let line = format!("BRANCH_ID={}{}", shown(&branch.id), name_field(branch.name.as_deref()));
    Output::line(line, branch_json(branch))
}

pub(crate) fn branch_renamed(branch: &BranchRecord) -> Output {
    let line = format!("BRANCH_RENAMED={}{}", shown(&branch.id), name_field(branch.name.as_deref()));
    Output::line(line, branch_json(branch))
}

pub(crate) fn branch_deleted(reply: &BranchDeleteReply) -> Output {
    let line = format!("BRANCH_DELETED={}\tBYTES_RECLAIMED={}", shown(&reply.branch), reply.bytes_reclaimed);
    Output::line(line, json!({"branch": text(&reply.branch), "bytes_reclaimed": reply.bytes_reclaimed}))
}

pub(crate) fn branch_list(branches: &[BranchEntry]) -> Output {
    let line = |entry: &BranchEntry| {
        let [name, parent] = [&entry.name, &entry.parent].map(|field| or_dash(field.as_deref()));
        format!("BRANCH\t{}\t{name}\t{parent}", shown(&entry.id))
    };
    Output::list(branches, line, |entry| {
        json!({
            "id": text(&entry.id),
            "name": entry.name.as_deref().map(text),
            "parent": entry.parent.as_deref().map(text),
            "created_ms": entry.created_ms,
            "open_files": entry.open_files,
        })
    })
}

pub(crate) fn bound(reply: &BindReply) -> Output {
    Output::line("BRANCH_BIND_OK".into(), json!({"branch": text(&reply.branch), "pid": reply.pid}))
}

pub(crate) fn unbound(reply: &UnbindReply) -> Output {
    let json = json!({"pid": reply.pid, "previous_branch": text(&reply.previous_branch)});
    Output::line("BRANCH_UNBIND_OK".into(), json)
}

/// What was done to a directory, or is to be.
pub(crate) fn applied(is_dry: bool, steps: &[(&str, &[u8])]) -> Output {
    let count = |word: &str| steps.iter().filter(|(done, _)| *done == word).count();
    let (put, removed) = (count("put"), count("remove"));
    let mut lines: Vec<String> = Vec::new();
    if is_dry {
        lines.extend(steps.iter().map(|(word, path)| format!("{word}\t{}", shown(path))));
    }
    lines.push(format!("{}\tPUT={put}\tREMOVED={removed}", if is_dry { "DRY_RUN" } else { "APPLIED" }));
    let listed: Vec<Value> =
        steps.iter().map(|(word, path)| json!({"step": word, "path": text(path)})).collect();
    let json = json!({"dry_run": is_dry, "put": put, "removed": removed, "steps": listed});
    Output { lines, json: Some(json), ..Output::default() }
}

/// How many files were copied.
pub(crate) fn transferred(word: &str, files: u64) -> Output {
    Output::line(format!("{word}\tFILES={files}"), json!({"files": files}))
}

pub(crate) fn whoami(reply: &WhoamiReply) -> Output {
    let of = reply.of.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let name = or_dash(reply.name.as_deref());
    let line = format!("BRANCH\t{}\t{name}\t{}\t{of}", shown(&reply.branch), shown(&reply.reason));
    let json = json!({
        "branch": text(&reply.branch),
        "name": reply.name.as_deref().map(text),
        "pid": reply.pid,
        "reason": text(&reply.reason),
        "of": reply.of,
    });
    Output::line(line, json)
}

pub(crate) fn stopped(reply: &StopReply) -> Output {
    Output::line("STOP_OK".into(), json!({"pid": reply.pid}))
}

pub(crate) fn request_counts(counts: &[RequestCount]) -> Output {
    let line = |count: &RequestCount| {
        format!("REQUEST\t{}\t{}\t{}", shown(&count.operation), count.count, count.total_ns)
    };
    Output::list(
        counts,
        line,
        |count| json!({"operation": text(&count.operation), "count": count.count, "total_ns": count.total_ns}),
    )
}

/// One `key: value` a line, the values in one column, then a line for each branch and each process; in JSON the settings
/// are an object of their own, branches and processes are lists.
pub(crate) fn status(
    reply: &StatusReply,
    usages: &[(BranchEntry, UsageReply)],
    processes: &[ProcessEntry],
) -> Output {
    let fields = status_fields(reply);
    let settings = reply.settings.iter().map(|setting| (text(&setting.key), text(&setting.value).into()));
    let mut rows: Vec<(String, String)> =
        fields.iter().map(|(key, value)| ((*key).to_owned(), plain(value))).collect();
    rows.extend(
        reply
            .settings
            .iter()
            .map(|setting| (format!("settings.{}", shown(&setting.key)), shown(&setting.value))),
    );
    let mut json: Map<String, Value> =
        fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    json.insert("settings".to_owned(), Value::Object(settings.collect()));
    let mut lines = aligned(&rows);
    lines.extend(usages.iter().map(usage_line));
    json.insert("branch_usage".to_owned(), usages.iter().map(usage_json).collect());
    let name =
        |id: &[u8]| usages.iter().find(|(entry, _)| entry.id == id).and_then(|(entry, _)| entry.name.clone());
    lines.extend(processes.iter().map(|process| process_line(process, name(&process.branch).as_deref())));
    json.insert("processes".to_owned(), processes.iter().map(process_json).collect());
    Output { lines, json: Some(Value::Object(json)), code: 0, ..Output::default() }
}

fn usage_line((entry, usage): &(BranchEntry, UsageReply)) -> String {
    let (id, name) = (shown(&entry.id), or_dash(entry.name.as_deref()));
    let (open, inodes) = (entry.open_files, usage.inodes);
    let (private, shared) = (usage.private_bytes, usage.shared_bytes);
    format!("BRANCH\t{id}\t{name}\tOPEN_FILES={open}\tINODES={inodes}\tPRIVATE={private}\tSHARED={shared}")
}

fn usage_json((entry, usage): &(BranchEntry, UsageReply)) -> Value {
    json!({
        "id": text(&entry.id),
        "name": entry.name.as_deref().map(text),
        "open_files": entry.open_files,
        "inodes": usage.inodes,
        "private_bytes": usage.private_bytes,
        "shared_bytes": usage.shared_bytes,
    })
}

fn process_line(process: &ProcessEntry, branch: Option<&[u8]>) -> String {
    let branch = branch.map_or_else(|| shown(&process.branch), shown);
    let (pid, reason, since) = (process.pid, shown(&process.reason), process.since_ms);
    format!("PROCESS\t{pid}\t{branch}\t{reason}\tSINCE_MS={since}\t{}", shown(&process.command))
}

fn process_json(process: &ProcessEntry) -> Value {
    json!({
        "pid": process.pid,
        "command": text(&process.command),
        "branch": text(&process.branch),
        "reason": text(&process.reason),
        "since_ms": process.since_ms,
    })
}

fn status_fields(reply: &StatusReply) -> [(&'static str, Value); 10] {
    [
        ("version", text(&reply.version).into()),
        ("store", text(&reply.store).into()),
        ("owner_uid", reply.owner_uid.into()),
        ("uptime_ms", reply.uptime_ms.into()),
        ("branches", reply.branches.into()),
        ("snapshots", reply.snapshots.into()),
        ("open_handles", reply.open_handles.into()),
        ("known_inodes", reply.known_inodes.into()),
        ("inodes", reply.inodes.into()),
        ("reflink", reply.reflink.into()),
    ]
}

fn aligned(rows: &[(String, String)]) -> Vec<String> {
    let width = rows.iter().map(|(key, _)| key.chars().count() + 1).max().unwrap_or_default();
    rows.iter().map(|(key, value)| format!("{:<width$} {value}", format!("{key}:"))).collect()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |string| shown(string.as_bytes()))
}

fn snapshot_json(snapshot: &SnapshotRecord) -> Value {
    json!({"id": text(&snapshot.id), "name": snapshot.name.as_deref().map(text)})
}

fn branch_json(branch: &BranchRecord) -> Value {
    let parent = Some(&branch.parent).filter(|parent| !parent.is_empty());
    json!({
        "id": text(&branch.id),
        "name": branch.name.as_deref().map(text),
        "parent": parent.map(|parent| text(parent)),
    })
}

fn name_field(name: Option<&[u8]>) -> String {
    name.map(|name| format!("\tNAME={}", shown(name))).unwrap_or_default()
}

fn or_dash(value: Option<&[u8]>) -> String {
    value.map_or_else(|| "-".to_owned(), shown)
}

/// A string for JSON, which escapes control characters by itself.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A string for a terminal: control characters and what is not UTF-8 are escaped, all else is as it is.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                shown.extend(character.escape_default());
            } else {
                shown.push(character);
            }
        }
        shown.push_str(&chunk.invalid().escape_ascii().to_string());
    }
    shown
}

#[cfg(test)]
mod tests;
