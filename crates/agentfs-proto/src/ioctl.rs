//! The one definition of the control command: its number and the size of its buffer.

/// The size of the buffer that travels both ways, in bytes.
pub const BUFFER_LEN: usize = 4096;

/// The number of the control ioctl, `_IOWR('A', 'F', 4096 bytes)`.
pub const CONTROL_IOCTL: u32 = read_write(b'A', b'F', BUFFER_LEN as u32);

// Clients have this number compiled in: it may never change.
const _: () = assert!(CONTROL_IOCTL == 0xD000_4146);

/// The kernel's `_IOWR`: direction in the top two bits, then 14 of size, 8 of group and 8 of number.
const fn read_write(group: u8, number: u8, size: u32) -> u32 {
    const READ_AND_WRITE: u32 = 3;
    (READ_AND_WRITE << 30) | (size << 16) | ((group as u32) << 8) | number as u32
}
