//! How ids look on the wire. Which names are allowed is the daemon's to say.

/// An id as it is shown and sent: 32 lower-case hex characters. Its first byte is the number's highest, so that text
/// sorts as numbers do.
pub fn format_id(id: u128) -> String {
    format!("{id:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_as_their_numbers_do() {
        assert_eq!(format_id(0x23), "00000000000000000000000000000023");
        assert!(format_id(u128::MAX) > format_id(1 << 127));
        assert_eq!(format_id(u128::MAX).len(), crate::limits::ID_HEX_LEN);
    }
}
