//! What a device says it is: SPC-4 §6.6.2.

use alloc::string::String;

/// Standard INQUIRY data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inquiry {
    /// Peripheral device type: 0 a disk, 5 a CD-ROM drive, 31 nothing.
    pub kind: u8,
    /// The medium can be taken out.
    pub is_removable: bool,
    /// Eight characters, blanks at the end.
    pub vendor: String,
    /// Sixteen characters.
    pub model: String,
    /// Four characters.
    pub revision: String,
}

impl Inquiry {
    /// The bytes that have it all.
    pub const LEN: usize = 36;

    /// From the device's data; `None` if it is too short or the device says that there is none.
    pub fn parse(data: &[u8]) -> Option<Inquiry> {
        let data = data.get(..Self::LEN)?;
        let [first, second, ..] = data else { return None };
        // A peripheral qualifier other than 0: nothing is connected there.
        if first >> 5 != 0 || first & 31 == 31 {
            return None;
        }
        Some(Inquiry {
            kind: first & 31,
            is_removable: second & 0x80 != 0,
            vendor: text(data.get(8..16)?),
            model: text(data.get(16..32)?),
            revision: text(data.get(32..36)?),
        })
    }
}

/// Characters that are not printable become blanks.
fn text(bytes: &[u8]) -> String {
    let printable = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { ' ' };
    bytes.iter().map(printable).collect()
}
