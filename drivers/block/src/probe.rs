//! Which file system is on a device, with its UUID and label: enough for `root=UUID=…` and
//! `root=LABEL=…`.

use alloc::string::String;

use abi::Result;

use crate::partition::ReadAt;

/// What a super block says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// `ext2`, `ext3`, `ext4`, `xfs`, `swap`, `vfat`, `iso9660`, `squashfs`.
    pub kind: &'static str,
    /// Text of the UUID, lower case, or empty.
    pub uuid: String,
    /// Label, or empty.
    pub label: String,
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from(String::from_utf8_lossy(&bytes[..end]).trim_end())
}

fn uuid(bytes: &[u8]) -> String {
    use core::fmt::Write;
    let mut text = String::new();
    for (place, byte) in bytes.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Looks at the first blocks of a device.
pub fn probe(read: &ReadAt<'_>) -> Result<Option<Probed>> {
    let mut start = [0; 4096];
    read(0, &mut start)?;
    let le32 =
        |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
    if start[1024 + 56] == 0x53 && start[1024 + 57] == 0xef {
        let (compatible, incompatible, read_only) =
            (le32(1024 + 92), le32(1024 + 96), le32(1024 + 100));
        let kind = if incompatible & !0x16 != 0 || read_only & !0x7 != 0 {
            "ext4"
        } else if compatible & 4 != 0 {
            "ext3"
        } else {
            "ext2"
        };
        let uuid = uuid(&start[1024 + 104..1024 + 120]);
        return Ok(Some(Probed { kind, uuid, label: text(&start[1024 + 120..1024 + 136]) }));
    }
    if &start[..4] == b"XFSB" {
        let uuid = uuid(&start[32..48]);
        return Ok(Some(Probed { kind: "xfs", uuid, label: text(&start[108..120]) }));
    }
    if &start[4086..] == b"SWAPSPACE2" {
        let uuid = uuid(&start[1036..1052]);
        return Ok(Some(Probed { kind: "swap", uuid, label: text(&start[1052..1068]) }));
    }
    if &start[..4] == b"hsqs" {
        return Ok(Some(Probed { kind: "squashfs", ..Probed::default() }));
    }
    if start[510] == 0x55 && start[511] == 0xaa {
        let (at, label) = match (&start[82..87], &start[54..58]) {
            (b"FAT32", _) => (67, 71),
            (_, b"FAT1") => (39, 43),
            _ => return Ok(None),
        };
        let id = le32(at);
        let uuid = alloc::format!("{:04X}-{:04X}", id >> 16, id & 0xffff);
        return Ok(Some(Probed { kind: "vfat", uuid, label: text(&start[label..label + 11]) }));
    }
    Ok(None)
}
