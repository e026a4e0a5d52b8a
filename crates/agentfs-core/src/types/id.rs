//! Identities, each its own type, so that they cannot be mixed up.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// An inode: unique in its store for ever, the same in every branch and snapshot that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId(pub u64);

impl InodeId {
    /// Is it of a lower directory?
    pub fn is_lower(self) -> bool {
        self >= InodeId::LOWER
    }

    /// The root directory of every version.
    pub const ROOT: InodeId = InodeId(1);
    /// The first number given to an inode made later; those between are for the adapter's own nodes.
    pub const FIRST_FREE: InodeId = InodeId(16);
    /// From here on: files of a lower directory, by the host's numbers.
    pub const LOWER: InodeId = InodeId(1 << 32);
    /// One more than the largest inode number: node ids keep 33 bits of it.
    pub const LIMIT: u64 = 1 << 33;
}

/// A backing object of the store. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub u64);

/// A file that holds the bytes of many small files. Never reused; numbered with the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackId(pub u64);

/// An open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

/// A tree that can be operated on: a branch, or a snapshot while somebody looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewId(pub u32);

impl ViewId {
    /// The view of the branch `main`.
    pub const MAIN: ViewId = ViewId(0);
}

/// A span of a branch's life between two snapshots. Unique in its store: content made in a branch's
/// present epoch is seen by no other version, and may be written in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// An id was not 32 lower-case hexadecimal characters.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 lower-case hexadecimal characters")]
pub struct ParseIdError;

fn parse_hex(text: &str) -> Result<u128, ParseIdError> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != 32 || !text.bytes().all(hex) {
        return Err(ParseIdError);
    }
    u128::from_str_radix(text, 16).map_err(|_| ParseIdError)
}

macro_rules! durable_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u128);

        impl $name {
            /// A new id, later in order than all made before by this process (UUIDv7).
            pub fn generate() -> Self {
                Self(Uuid::now_v7().as_u128())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self)
            }
        }
    };
}

durable_id! {
    /// A branch, for ever.
    BranchId
}
durable_id! {
    /// A snapshot, for ever.
    SnapshotId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_shown_and_read_back_in_order_of_creation() {
        let ids: Vec<BranchId> = (0..1000).map(|_| BranchId::generate()).collect();
        assert!(ids.windows(2).all(|w| w[0] < w[1]));
        for id in ids {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert_eq!("0123456789ABCDEF0123456789abcdef".parse::<BranchId>(), Err(ParseIdError));
        assert_eq!("+123456789abcdef0123456789abcdef".parse::<BranchId>(), Err(ParseIdError));
    }
}
