//! Messages come back as they went, and no bytes make the reader panic or accept two forms of one message.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod strategies;

use agentfs_proto::request::{
    ApplyGate, ApplyNote, ApplyStart, BranchDiscard, BranchEnter, BranchList, BranchRename, BranchSnapshot,
    BranchUsage, DiffStart, Events, FuzzySnapshot, ImportBegin, JobEnd, JobPoll, JobRead, KeepLower,
    MergeStart, ProcessList, RequestCounts, RestoreStart, SnapshotCreate, SnapshotDelete, SnapshotPage,
    SnapshotRename, Stop, SyncedSnapshot, Whoami,
};
use agentfs_proto::result::{DiffResult, MergeResult};
use agentfs_proto::{DecodeError, Request, Response};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Bytes that decode encode to themselves: SSZ has one form for each message, and the decoder insists on it.
fn assert_canonical(bytes: &[u8]) {
    if let Ok(request) = Request::decode(bytes) {
        assert_eq!(request.encode(), bytes);
    }
    if let Ok(response) = Response::decode(bytes) {
        assert_eq!(response.encode(), bytes);
    }
}

/// One byte replaced, one inserted, one removed, and the end cut off.
fn mutations(bytes: &[u8], at: Index, value: u8) -> [Vec<u8>; 4] {
    let at = at.index(bytes.len());
    let [mut replaced, mut inserted, mut removed] = [bytes.to_vec(), bytes.to_vec(), bytes.to_vec()];
    replaced[at] = value;
    inserted.insert(at, value);
    removed.remove(at);
    [replaced, inserted, removed, bytes[..at].to_vec()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_come_back(request in strategies::request()) {
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
    }

    #[test]
    fn responses_come_back(response in strategies::response()) {
        prop_assert_eq!(Response::decode(&response.encode()), Ok(response));
    }

    #[test]
    fn results_come_back(diff in strategies::diff_result(), merge in strategies::merge_result()) {
        prop_assert_eq!(DiffResult::decode(&diff.encode()), Ok(diff));
        prop_assert_eq!(MergeResult::decode(&merge.encode()), Ok(merge));
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_canonical(selector in 0..=128_u8, rest in vec(any::<u8>(), 0..200)) {
        assert_canonical(&rest);
        assert_canonical(&[vec![selector], rest].concat());
    }

    #[test]
    fn small_offsets_are_refused_or_canonical(selector in 0..8_u8, words in vec(0..40_u32, 0..12)) {
        let rest: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_canonical(&[vec![selector], rest.clone()].concat());
        assert_canonical(&[vec![selector + 95], rest].concat());
    }

    #[test]
    fn mutated_requests_are_refused_or_canonical(
        request in strategies::request(), at in any::<Index>(), value in any::<u8>(),
    ) {
        mutations(&request.encode(), at, value).iter().for_each(|bytes| assert_canonical(bytes));
    }

    #[test]
    fn mutated_responses_are_refused_or_canonical(
        response in strategies::response(), at in any::<Index>(), value in any::<u8>(),
    ) {
        mutations(&response.encode(), at, value).iter().for_each(|bytes| assert_canonical(bytes));
    }
}

#[test]
fn another_version_is_told_apart_from_nonsense() {
    let mut newer = Request::from(SnapshotCreate { name: None }).encode();
    assert_eq!(newer[9], b'1');
    newer[9] = b'2';
    newer.extend_from_slice(b"a payload that only version 2 knows");
    assert_eq!(Request::decode(&newer), Err(DecodeError::Version(b"2".to_vec())));
    assert_eq!(Request::decode(b"\x012"), Err(DecodeError::Version(b"2".to_vec())));
    assert_eq!(Request::decode(b"\x01"), Err(DecodeError::Version(Vec::new())));
}

#[test]
fn selectors_of_others_are_unknown() {
    for selector in (8..=94).chain([110, 113]).chain(127..=255) {
        assert_eq!(Request::decode(&[selector, b'1']), Err(DecodeError::UnknownSelector(selector)));
    }
    assert_eq!(Request::decode(&[]), Err(DecodeError::Malformed));
    assert_eq!(Response::decode(&[]), Err(DecodeError::Malformed));
}

#[test]
fn the_new_requests_have_their_selectors() {
    let id = || b"id".to_vec();
    let requests: [Request; 30] = [
        BranchList { after: None }.into(),
        SnapshotPage { after: None }.into(),
        SnapshotDelete { snapshot: id() }.into(),
        SnapshotRename { snapshot: id(), name: id() }.into(),
        BranchRename { branch: id(), name: id() }.into(),
        Request::Status,
        RequestCounts { after: None }.into(),
        BranchSnapshot { branch: id(), name: None }.into(),
        SyncedSnapshot { branch: id(), name: None }.into(),
        Whoami { pid: None }.into(),
        BranchEnter { branch: id() }.into(),
        ProcessList { after: None }.into(),
        BranchUsage { branch: id() }.into(),
        Stop { how: id() }.into(),
        FuzzySnapshot { branch: id(), name: None }.into(),
        Request::Lower,
        KeepLower { paths: vec![id()], deep: true }.into(),
        DiffStart { a: id(), b: id(), with_git: false, all: false }.into(),
        MergeStart { source: id(), into: None, conflicts: id(), dry_run: false, with_git: false, all: false }
            .into(),
        RestoreStart { branch: id(), from: id(), paths: vec![id()], dry_run: false }.into(),
        Request::UndoStart,
        JobPoll { job: 1 }.into(),
        JobRead { job: 1, offset: 0 }.into(),
        JobEnd { job: 1 }.into(),
        Events { after: None }.into(),
        BranchDiscard { branch: id(), force: false }.into(),
        ApplyStart { of: id() }.into(),
        ApplyNote { branch: id(), written: vec![], tokens: vec![] }.into(),
        ImportBegin { branch: id() }.into(),
        ApplyGate { is_closed: true }.into(),
    ];
    let selectors: Vec<u8> = requests.iter().map(|request| request.encode()[0]).collect();
    let expected = (95..=126).filter(|selector| ![110, 113].contains(selector));
    assert_eq!(selectors, expected.collect::<Vec<u8>>());
}
