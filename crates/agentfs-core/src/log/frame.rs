//! A frame: length and CRC-32C of a payload, then the payload. What is torn or changed is not taken for good.

/// Bytes before the payload: its length and its checksum, both little-endian `u32`.
pub(super) const HEADER: usize = 8;
/// Longest payload. A longer length is damage, not a reason to allocate.
pub(super) const MAX_PAYLOAD: usize = 1 << 28;

/// Puts a payload in its frame. `frame` begins with room for the header.
pub(super) fn seal(frame: &mut [u8]) {
    if let Some((header, payload)) = frame.split_at_mut_checked(HEADER) {
        let (length, checksum) = header.split_at_mut(4);
        length.copy_from_slice(&(payload.len() as u32).to_le_bytes());
        checksum.copy_from_slice(&checksum_of(payload).to_le_bytes());
    }
}

/// The payload of the first frame in `bytes` and what follows it; `None` when there is no whole and sound frame.
pub(super) fn open(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    // An empty payload would make a run of zeroes, as a crash may leave, a run of frames.
    if length == 0 || length > MAX_PAYLOAD {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(length)?;
    (checksum_of(payload) == u32::from_le_bytes(*checksum)).then_some((payload, rest))
}

/// Longest frame of a mark, in bytes.
pub(super) const SHORT: usize = 64;

/// As [`open`], of a frame of at most [`SHORT`] bytes; cheap to try anywhere.
pub(super) fn open_short(bytes: &[u8]) -> Option<&[u8]> {
    let length = bytes.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize)?;
    if length > SHORT - HEADER { None } else { open(bytes).map(|(payload, _)| payload) }
}

/// Will the frame that begins here not become sound, whatever follows?
pub(super) fn is_unsound(bytes: &[u8]) -> bool {
    let Some(length) = bytes.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize) else {
        return false;
    };
    length == 0 || length > MAX_PAYLOAD || bytes.len() >= HEADER + length
}

fn checksum_of(payload: &[u8]) -> u32 {
    // The length is part of it by its start value.
    crc32c::crc32c_append(payload.len() as u32, payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let mut frame = vec![0; HEADER];
        frame.extend_from_slice(b"a record");
        seal(&mut frame);
        assert_eq!(open(&frame), Some((&b"a record"[..], &b""[..])));
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&bad), None, "bit {bit}");
        }
        for cut in 0..frame.len() {
            assert_eq!(open(&frame[..cut]), None);
        }
        assert_eq!(open(&[0; 64]), None);
    }
}
