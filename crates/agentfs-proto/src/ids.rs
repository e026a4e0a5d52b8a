//! How ids look on the wire. Which names are allowed is the daemon's to say.

use crate::limits::ID_HEX_LEN;

/// An id as it is shown and sent: 32 lower-case hex characters. Its first byte is the number's highest, so that text
/// sorts as numbers do.
pub fn format_id(id: u128) -> String {
    format!("{id:032x}")
}

/// The number that an id says, if it is one.
pub fn parse_id(id: &[u8]) -> Option<u128> {
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let text = std::str::from_utf8(id).ok().filter(|_| id.len() == ID_HEX_LEN && id.iter().all(is_digit))?;
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_as_their_numbers_do() {
        assert_eq!(format_id(0x23), "00000000000000000000000000000023");
        assert!(format_id(u128::MAX) > format_id(1 << 127));
        assert_eq!(format_id(u128::MAX).len(), ID_HEX_LEN);
    }

    #[test]
    fn only_what_is_shown_as_an_id_is_one() {
        for id in [0, 0x23, u128::MAX] {
            assert_eq!(parse_id(format_id(id).as_bytes()), Some(id));
        }
        for other in [
            "",
            "..",
            "23",
            "+0000000000000000000000000000023",
            "0000000000000000000000000000002A",
            "../../../../../../../../../../etc/",
        ] {
            assert_eq!(parse_id(other.as_bytes()), None, "{other}");
        }
    }
}
