//! What drives are called and numbered.

use alloc::string::String;

/// A family of drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Naming {
    /// Start of the name.
    pub prefix: &'static str,
    /// Letters (`vda`) or digits (`ram0`) behind it.
    pub suffix: Suffix,
    /// Major number; 259 numbers each device by itself.
    pub major: u32,
    /// Minors per drive, the drive's own included.
    pub minors: u32,
}

/// What follows the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suffix {
    /// a, b, … z, aa, ab.
    Letters,
    /// 0, 1, …
    Digits,
}

/// virtio-blk.
pub const VIRTIO: Naming = Naming { prefix: "vd", suffix: Suffix::Letters, major: 254, minors: 16 };
/// SCSI and ATA disks.
pub const SCSI: Naming = Naming { prefix: "sd", suffix: Suffix::Letters, major: 8, minors: 16 };
/// CD-ROM drives.
pub const CDROM: Naming = Naming { prefix: "sr", suffix: Suffix::Digits, major: 11, minors: 1 };
/// RAM disks.
pub const RAM: Naming = Naming { prefix: "ram", suffix: Suffix::Digits, major: 1, minors: 1 };
/// Loop devices.
pub const LOOP: Naming = Naming { prefix: "loop", suffix: Suffix::Digits, major: 7, minors: 1 };
/// Drives named by their driver.
pub(crate) const OWN: Naming = Naming { prefix: "", suffix: Suffix::Digits, major: 259, minors: 0 };

impl Naming {
    pub(crate) fn disk_name(&self, index: u32) -> String {
        if self.suffix == Suffix::Digits {
            return alloc::format!("{}{index}", self.prefix);
        }
        let mut letters = String::new();
        let mut rest = index;
        loop {
            letters.insert(0, char::from(b'a' + (rest % 26) as u8));
            if rest < 26 {
                break;
            }
            rest = rest / 26 - 1;
        }
        alloc::format!("{}{letters}", self.prefix)
    }
}
