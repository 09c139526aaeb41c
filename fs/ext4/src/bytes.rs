//! Little-endian fields of on-disk structures, by offset. Out of range reads as zero and writes
//! nothing: offsets are checked where they come from the disk.

pub(crate) fn u16_at(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}
pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}
pub(crate) fn put16(b: &mut [u8], at: usize, value: u16) {
    if let Some(field) = b.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_le_bytes());
    }
}
pub(crate) fn put32(b: &mut [u8], at: usize, value: u32) {
    if let Some(field) = b.get_mut(at..at + 4) {
        field.copy_from_slice(&value.to_le_bytes());
    }
}
pub(crate) fn be32_at(b: &[u8], at: usize) -> u32 {
    u32_at(b, at).swap_bytes()
}
pub(crate) fn put_be32(b: &mut [u8], at: usize, value: u32) {
    put32(b, at, value.swap_bytes());
}
