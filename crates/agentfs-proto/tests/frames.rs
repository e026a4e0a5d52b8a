//! The envelope, and that what the daemon answers always fits it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod strategies;

use agentfs_proto::limits::{MAX_BODY, MAX_NAME, MIN_BRANCHES_PER_PAGE, MIN_SNAPSHOTS_PER_PAGE};
use agentfs_proto::record::{BranchEntry, SnapshotEntry, SnapshotRecord};
use agentfs_proto::response::SnapshotListReply;
use agentfs_proto::{ErrorReply, FrameError, Page, Response, frame};
use proptest::collection::vec;
use proptest::prelude::*;

const LONGEST_ID: [u8; 32] = [b'f'; 32];

fn longest_branch() -> BranchEntry {
    BranchEntry {
        id: LONGEST_ID.to_vec(),
        name: Some(vec![b'n'; MAX_NAME]),
        parent: Some(LONGEST_ID.to_vec()),
        created_ms: u64::MAX,
        open_files: u32::MAX,
    }
}

fn longest_snapshot() -> SnapshotEntry {
    SnapshotEntry {
        id: LONGEST_ID.to_vec(),
        name: Some(vec![b'n'; MAX_NAME]),
        branch: LONGEST_ID.to_vec(),
        created_ms: u64::MAX,
        children: u32::MAX,
    }
}

fn decoded(response: &Response) -> Response {
    Response::decode(frame::decode(&response.to_frame().unwrap()).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bodies_come_back(body in vec(any::<u8>(), 1..=MAX_BODY)) {
        let frame = frame::encode(&body).unwrap();
        prop_assert_eq!(frame::decode(&frame), Ok(&body[..]));
    }

    #[test]
    fn any_buffer_is_refused_or_within_itself(buffer in vec(any::<u8>(), 0..64)) {
        if let Ok(body) = frame::decode(&buffer) {
            prop_assert!(!body.is_empty() && body.len() + 4 <= buffer.len());
        }
    }

    #[test]
    fn pages_lose_nothing_and_fit(mut all in vec(strategies::branch_entry(), 0..200)) {
        for (number, entry) in (0_u32..).zip(&mut all) {
            entry.id = format!("{number:032x}").into_bytes();
        }
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let rest = all.iter().filter(|entry| after.as_ref().is_none_or(|after| entry.id > *after));
            let page = Page::fill(rest.cloned());
            prop_assert!(Response::BranchList(page.clone()).encode().len() <= MAX_BODY);
            seen.extend(page.entries);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        prop_assert_eq!(seen, all);
    }
}

#[test]
fn a_truncated_or_empty_frame_is_refused() {
    let whole = frame::encode(b"message").unwrap();
    assert_eq!(frame::decode(&whole[..11]), Ok(&b"message"[..]));
    assert_eq!(frame::decode(&whole[..10]), Err(FrameError::TooLong(7)));
    assert_eq!(frame::decode(&whole[..3]), Err(FrameError::NoLength));
    assert_eq!(frame::decode(&[0; 4096]), Err(FrameError::Empty));
    assert_eq!(frame::decode(&[0xff; 4096]), Err(FrameError::TooLong(0xffff_ffff)));
}

#[test]
fn a_body_of_the_wrong_length_makes_no_frame() {
    assert!(frame::encode(&[1; MAX_BODY]).is_ok());
    assert_eq!(frame::encode(&[1; MAX_BODY + 1]), Err(FrameError::TooLong(MAX_BODY + 1)));
    assert_eq!(frame::encode(&[]), Err(FrameError::Empty));
}

#[test]
fn a_page_holds_the_promised_number_of_the_longest_entries() {
    let page = Page::fill(std::iter::repeat_with(longest_branch));
    assert_eq!(page.entries.len(), MIN_BRANCHES_PER_PAGE);
    assert_eq!(page.next, Some(LONGEST_ID.to_vec()));
    let page = Page::fill(std::iter::repeat_with(longest_snapshot));
    assert_eq!(page.entries.len(), MIN_SNAPSHOTS_PER_PAGE);
}

#[test]
fn a_list_that_does_not_fit_is_answered_eoverflow() {
    let list = |count| {
        let snapshots = (0..count).map(|id| SnapshotRecord::new(id, None)).collect();
        Response::SnapshotList(SnapshotListReply { snapshots })
    };
    assert_eq!(decoded(&list(80)), list(80));
    let Response::Error(refusal) = decoded(&list(200)) else { panic!("200 snapshots fit no frame") };
    assert_eq!(refusal.code, Some(75));
    assert!(String::from_utf8(refusal.error).unwrap().contains("SnapshotPage"));
}

#[test]
fn a_very_long_sentence_is_cut_between_characters() {
    let refusal = ErrorReply::new(&format!("x{}", "é".repeat(4000)), Some(2));
    assert!(std::str::from_utf8(&refusal.error).is_ok());
    let response = Response::Error(refusal);
    assert_eq!(decoded(&response), response);
}
