//! What scripts rely on, to the byte.

use agentfs_proto::record::Setting;

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef";
const NUMBER: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;

fn printed(output: &Output, format: Format) -> String {
    let mut bytes = Vec::new();
    output.print(format, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// The text, which is exact, and the JSON, whose keys may come in any order.
fn assert_looks(output: &Output, text: &str, json: Value) {
    assert_eq!(printed(output, Format::Text), text);
    let line = printed(output, Format::Json);
    assert_eq!(line.matches('\n').count(), 1);
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), json);
}

#[test]
fn one_snapshot() {
    let [named, unnamed] = [SnapshotRecord::new(NUMBER, Some("demo")), SnapshotRecord::new(NUMBER, None)];
    let created = snapshot_created(&named);
    assert_looks(&created, &format!("SNAPSHOT_ID={ID}\tNAME=demo\n"), json!({"id": ID, "name": "demo"}));
    let created = snapshot_created(&unnamed);
    assert_looks(&created, &format!("SNAPSHOT_ID={ID}\n"), json!({"id": ID, "name": null}));
    let renamed = snapshot_renamed(&named);
    assert_looks(&renamed, &format!("SNAPSHOT_RENAMED={ID}\tNAME=demo\n"), json!({"id": ID, "name": "demo"}));
}

#[test]
fn one_branch() {
    let main = BranchRecord::new(NUMBER, Some("main"), None);
    let json = json!({"id": ID, "name": "main", "parent": null});
    assert_looks(&branch_created(&main), &format!("BRANCH_ID={ID}\tNAME=main\n"), json.clone());
    assert_looks(&branch_renamed(&main), &format!("BRANCH_RENAMED={ID}\tNAME=main\n"), json);
    let child = BranchRecord::new(NUMBER, None, Some(NUMBER));
    let json = json!({"id": ID, "name": null, "parent": ID});
    assert_looks(&branch_created(&child), &format!("BRANCH_ID={ID}\n"), json);
}

#[test]
fn what_was_deleted() {
    let reply = SnapshotDeleteReply { snapshot: ID.into(), bytes_reclaimed: 65536 };
    let json = json!({"snapshot": ID, "bytes_reclaimed": 65536});
    assert_looks(&snapshot_deleted(&reply), &format!("SNAPSHOT_DELETED={ID}\tBYTES_RECLAIMED=65536\n"), json);
    let reply = BranchDeleteReply { branch: ID.into(), bytes_reclaimed: 0 };
    let json = json!({"branch": ID, "bytes_reclaimed": 0});
    assert_looks(&branch_deleted(&reply), &format!("BRANCH_DELETED={ID}\tBYTES_RECLAIMED=0\n"), json);
}

#[test]
fn lists_are_a_line_an_entry() {
    let snapshots = [Some("demo"), None].map(|name| SnapshotEntry {
        id: ID.into(),
        name: name.map(Into::into),
        branch: ID.into(),
        created_ms: 7,
        children: 1,
    });
    let json =
        |name: Option<&str>| json!({"id": ID, "name": name, "branch": ID, "created_ms": 7, "children": 1});
    assert_looks(
        &snapshot_list(&snapshots),
        &format!("SNAPSHOT\t{ID}\tdemo\nSNAPSHOT\t{ID}\t-\n"),
        json!([json(Some("demo")), json(None)]),
    );
    assert_looks(&snapshot_list(&[]), "", json!([]));
}

#[test]
fn branches_tell_their_parents() {
    let branches = [None, Some(ID)].map(|parent| BranchEntry {
        id: ID.into(),
        name: None,
        parent: parent.map(Into::into),
        created_ms: 7,
        open_files: 2,
    });
    let json = |parent: Option<&str>| json!({"id": ID, "name": null, "parent": parent, "created_ms": 7, "open_files": 2});
    assert_looks(
        &branch_list(&branches),
        &format!("BRANCH\t{ID}\t-\t-\nBRANCH\t{ID}\t-\t{ID}\n"),
        json!([json(None), json(Some(ID))]),
    );
}

#[test]
fn bindings() {
    let reply = BindReply { branch: ID.into(), pid: 42 };
    assert_looks(&bound(&reply), "BRANCH_BIND_OK\n", json!({"branch": ID, "pid": 42}));
    let reply = UnbindReply { pid: 42, previous_branch: ID.into() };
    assert_looks(&unbound(&reply), "BRANCH_UNBIND_OK\n", json!({"pid": 42, "previous_branch": ID}));
}

#[test]
fn counts_of_requests() {
    let count = RequestCount { operation: "lookup".into(), count: 3, total_ns: 900 };
    let json = json!([{"operation": "lookup", "count": 3, "total_ns": 900}]);
    assert_looks(&request_counts(&[count]), "REQUEST\tlookup\t3\t900\n", json);
}

#[test]
fn the_status_is_aligned_and_complete() {
    let reply = StatusReply {
        version: "0.1.0".into(),
        store: "memory".into(),
        owner_uid: 1000,
        uptime_ms: 5,
        branches: 2,
        snapshots: 1,
        open_handles: 3,
        known_inodes: 4,
        inodes: 9,
        reflink: false,
        settings: vec![Setting::new("max_write", 4_194_304)],
    };
    let output = status(&reply, &[], &[]);
    let text = printed(&output, Format::Text);
    assert!(text.starts_with("version:            0.1.0\nstore:              memory\n"), "{text}");
    assert!(text.ends_with("reflink:            false\nsettings.max_write: 4194304\n"), "{text}");
    let json: Value = serde_json::from_str(&printed(&output, Format::Json)).unwrap();
    assert_eq!(json["settings"], json!({"max_write": "4194304"}));
    assert_eq!(json.as_object().unwrap().len(), 13);
}

#[test]
fn names_of_bad_will_are_harmless() {
    assert_eq!(shown("café \\ ok".as_bytes()), "café \\ ok");
    assert_eq!(shown(b"a\tb\nc\x1b[0m\xff\x7f"), r"a\tb\nc\u{1b}[0m\xff\u{7f}");
}

#[test]
fn a_reader_that_left_is_an_error_and_no_panic() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let created = snapshot_created(&SnapshotRecord::new(NUMBER, None));
    assert_eq!(created.print(Format::Text, &mut Closed).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
