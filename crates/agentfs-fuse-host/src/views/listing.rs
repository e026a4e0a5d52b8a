//! Descriptors of directories that fill the kernel's cache with the listing and read it from there. One that was opened
//! before the listing came to depend on who asks goes on to do so, and nothing takes that back. The kernel shows what it
//! has cached when somebody has read to the end, and that end is the last position it was told. So through such a
//! descriptor each listing ends at a position that no other descriptor knows, and before the end is told what is cached
//! is dropped.

/// The number of a descriptor of a directory, as the kernel repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListingNumber(pub(crate) u64);

/// Positions from here on are ends. A name's position is a hash: that two in one directory lie here does not happen.
const ENDS: u64 = i64::MAX as u64 - COUNTED;
/// Descriptors that are told apart.
const COUNTED: u64 = (1 << COUNTER_BITS) - 1;
const COUNTER_BITS: u32 = 24;

impl ListingNumber {
    /// Of a descriptor that reads nothing from the kernel's cache.
    pub(crate) const NONE: ListingNumber = ListingNumber(0);

    /// Of the `count`th descriptor, opened in an epoch of who asks what.
    pub(super) fn new(epoch: u64, count: u64) -> ListingNumber {
        ListingNumber((epoch + 1) << COUNTER_BITS | (count & COUNTED))
    }

    pub(super) fn is_of(self, epoch: u64) -> bool {
        self.0 >> COUNTER_BITS == epoch + 1
    }

    /// The position at which a listing through this descriptor alone ends.
    pub(crate) fn end(self) -> u64 {
        ENDS + (self.0 & COUNTED)
    }

    /// Is there nothing behind this position?
    pub(crate) fn is_end(position: u64) -> bool {
        position >= ENDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_descriptor_has_its_own_end_and_knows_its_epoch() {
        let (a, b) = (ListingNumber::new(0, 0), ListingNumber::new(0, COUNTED));
        assert_ne!(a, ListingNumber::NONE);
        assert!(a.is_of(0) && b.is_of(0) && !b.is_of(1) && ListingNumber::new(7, 3).is_of(7));
        assert_ne!(a.end(), b.end());
        assert!(
            b.end() <= i64::MAX as u64 && ListingNumber::is_end(a.end()) && ListingNumber::is_end(b.end())
        );
        assert!(!ListingNumber::is_end(1 << 62));
    }
}
