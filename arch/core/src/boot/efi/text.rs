//! Between the firmware's UTF-16 and the command line's bytes.

/// The longest path of a file.
const PATH_MAX: usize = 512;

/// Writes UTF-16 text, up to its NUL, as UTF-8; how many bytes fitted.
pub(super) fn to_utf8(units: impl Iterator<Item = u16>, out: &mut [u8]) -> usize {
    let mut len = 0;
    for unit in char::decode_utf16(units.take_while(|unit| *unit != 0)) {
        let mut bytes = [0; 4];
        let text = unit.unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut bytes);
        let Some(room) = out.get_mut(len..len + text.len()) else { break };
        room.copy_from_slice(text.as_bytes());
        len += text.len();
    }
    len
}

/// A path as the firmware's file systems take it: UTF-16 with a NUL, `\` between names. `None` if it
/// is too long.
pub(super) fn to_path(text: &str) -> Option<[u16; PATH_MAX]> {
    let mut path = [0; PATH_MAX];
    for (len, unit) in text.encode_utf16().enumerate() {
        let slot = path.get_mut(len).filter(|_| len + 1 < PATH_MAX)?;
        *slot = if unit == u16::from(b'/') { u16::from(b'\\') } else { unit };
    }
    Some(path)
}
