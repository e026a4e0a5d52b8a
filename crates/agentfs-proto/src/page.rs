//! Lists that are longer than a frame: as many entries as fit, and where the next page starts.

use ssz::{BYTES_PER_LENGTH_OFFSET, Decode, Encode};
use ssz_derive::{Decode, Encode};

use crate::limits::MAX_BODY;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Page<T: Encode + Decode> {
    /// The entries, in the list's order.
    pub entries: Vec<T>,
    /// What to send as `after` to get the next page; None on the last.
    pub next: Option<Vec<u8>>,
}

/// An entry of a list that is paged.
pub trait PageEntry: Encode + Decode {
    /// The entry's key in the list's order: the page that follows starts after it.
    fn key(&self) -> &[u8];
}

/// A page's bytes besides its entries: the selector, the offsets of the two fields, the tag of `next`.
const OVERHEAD: usize = 1 + 2 * BYTES_PER_LENGTH_OFFSET + 1;

impl<T: PageEntry> Page<T> {
    /// Takes entries while the response still fits a frame.
    ///
    /// `entries` starts after the request's `after`, in the order of their keys, and may be lazy: one entry
    /// more than fits is looked at. The first is taken whatever its size, so that paging always advances.
    pub fn fill(entries: impl IntoIterator<Item = T>) -> Self {
        let mut page = Self { entries: Vec::new(), next: None };
        let mut used = OVERHEAD;
        for entry in entries {
            used += BYTES_PER_LENGTH_OFFSET + entry.ssz_bytes_len();
            if let Some(last) = page.entries.last()
                && used + entry.key().len() > MAX_BODY
            {
                page.next = Some(last.key().to_vec());
                break;
            }
            page.entries.push(entry);
        }
        page
    }
}
