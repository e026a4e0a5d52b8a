//! A file's name in its directory: bytes, 1 to 255 of them, neither `.` nor `..`, without `/` and NUL.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::error::FsError;

/// Longest name, in bytes (`NAME_MAX`).
pub const MAX_NAME_LEN: usize = 255;

const INLINE: usize = 22;

/// A checked name. Up to 22 bytes take no allocation of their own: most names in source trees are shorter.
#[derive(Clone)]
pub struct Name(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE] },
    Shared(Arc<[u8]>),
}

impl Name {
    /// Checks `bytes` and makes them a name.
    ///
    /// # Errors
    /// `NameTooLong` past 255 bytes; `InvalidArgument` for an empty name, `.`, `..`, or one with `/` or NUL.
    pub fn new(bytes: &[u8]) -> Result<Name, FsError> {
        if bytes.len() > MAX_NAME_LEN {
            return Err(FsError::NameTooLong);
        }
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.iter().any(|b| matches!(b, 0 | b'/'))
        {
            return Err(FsError::InvalidArgument(
                "a name is neither empty, '.' nor '..', and has no '/' or NUL",
            ));
        }
        Ok(Name(Repr::from_bytes(bytes)))
    }

    /// Not a name, but what sorts before all of them: a bound for ranges.
    pub(crate) fn lowest() -> Name {
        Name(Repr::Inline { len: 0, bytes: [0; INLINE] })
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Repr::Shared(bytes) => bytes,
        }
    }
}

impl Repr {
    fn from_bytes(bytes: &[u8]) -> Repr {
        let mut inline = [0; INLINE];
        match (inline.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(room), Ok(len)) => {
                room.copy_from_slice(bytes);
                Repr::Inline { len, bytes: inline }
            }
            _ => Repr::Shared(bytes.into()),
        }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}
impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}
impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Name {
    fn cmp(&self, other: &Name) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_length_keep_their_bytes() {
        for len in 1..=MAX_NAME_LEN {
            let bytes = vec![0xff; len];
            assert_eq!(Name::new(&bytes).unwrap().as_bytes(), bytes);
        }
        assert_eq!(std::mem::size_of::<Name>(), 24);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert!(matches!(Name::new(&[b'a'; 256]), Err(FsError::NameTooLong)));
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert!(matches!(Name::new(bad), Err(FsError::InvalidArgument(_))));
        }
    }
}
