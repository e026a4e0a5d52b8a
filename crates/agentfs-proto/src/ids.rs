//! How ids and names look, and which names are refused.
//!
//! A name is unique where it is used instead of an id, and becomes the name of a directory; so it may
//! neither look like an id nor be anything that a path component cannot be.

use std::fmt;

use crate::limits::{ID_HEX_LEN, MAX_NAME};

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// It has no bytes.
    Empty,
    /// It has more than [`MAX_NAME`] bytes.
    TooLong,
    /// It is not UTF-8.
    NotUtf8,
    /// It contains a control character.
    ControlCharacter,
    /// It contains a slash, which no directory's name can.
    Slash,
    /// It is `.` or `..`, which every directory already has.
    Dots,
    /// It could be mistaken for an id.
    LooksLikeId,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a name cannot be empty"),
            Self::TooLong => write!(f, "a name cannot be longer than {MAX_NAME} bytes"),
            Self::NotUtf8 => write!(f, "a name must be UTF-8"),
            Self::ControlCharacter => write!(f, "a name cannot contain control characters"),
            Self::Slash => write!(f, "a name cannot contain a slash"),
            Self::Dots => write!(f, "a name cannot be '.' or '..'"),
            Self::LooksLikeId => write!(f, "a name cannot look like an id"),
        }
    }
}

impl std::error::Error for NameError {}

/// The name, if a snapshot or a branch may bear it.
pub fn check_name(name: &[u8]) -> Result<&str, NameError> {
    match name.len() {
        0 => return Err(NameError::Empty),
        1..=MAX_NAME => {}
        _ => return Err(NameError::TooLong),
    }
    let text = std::str::from_utf8(name).map_err(|_| NameError::NotUtf8)?;
    match text {
        "." | ".." => Err(NameError::Dots),
        _ if text.contains('/') => Err(NameError::Slash),
        _ if text.contains(char::is_control) => Err(NameError::ControlCharacter),
        _ if is_id(name) => Err(NameError::LooksLikeId),
        _ => Ok(text),
    }
}

/// Whether the bytes have the form of an id: 32 lower-case hex digits.
pub fn is_id(text: &[u8]) -> bool {
    text.len() == ID_HEX_LEN && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// An id as it is shown and sent. Its first byte is the number's highest, so that text sorts as numbers do.
pub fn format_id(id: u128) -> String {
    format!("{id:032x}")
}

/// The id that the text shows, or None when it has another form.
pub fn parse_id(text: &[u8]) -> Option<u128> {
    let digits = std::str::from_utf8(text).ok().filter(|_| is_id(text))?;
    u128::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_directories_can_bear_are_accepted() {
        for name in ["a", "feature-x", "...", ".hidden", "é", &"n".repeat(255)] {
            assert_eq!(check_name(name.as_bytes()), Ok(name));
        }
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let refused: [(&[u8], NameError); 9] = [
            (b"", NameError::Empty),
            (&[b'n'; 256], NameError::TooLong),
            (b"\xff", NameError::NotUtf8),
            (b"a\nb", NameError::ControlCharacter),
            ("a\u{85}".as_bytes(), NameError::ControlCharacter),
            (b"a/b", NameError::Slash),
            (b".", NameError::Dots),
            (b"..", NameError::Dots),
            (b"0123456789abcdef0123456789abcdef", NameError::LooksLikeId),
        ];
        for (name, reason) in refused {
            assert_eq!(check_name(name), Err(reason), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn ids_come_back_as_they_went() {
        let text = "0023456789abcdef0123456789abcdef";
        assert_eq!(parse_id(text.as_bytes()).map(format_id).as_deref(), Some(text));
        assert_eq!(parse_id(b"0023456789ABCDEF0123456789ABCDEF"), None, "upper case is another form");
        assert_eq!(parse_id(b"+023456789abcdef0123456789abcdef"), None, "a sign is no digit");
        assert_eq!(parse_id(b"23"), None);
    }
}
