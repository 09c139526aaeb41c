//! Sense data: why a device refused a command (SPC-4 §4.5).

use abi::Errno;

/// Sense key and additional sense code with its qualifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sense {
    /// The kind of trouble.
    pub key: u8,
    /// What exactly.
    pub code: u8,
    /// And how.
    pub qualifier: u8,
}

/// What has to be done about a refused command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It succeeded after all.
    Recovered,
    /// The device told of a change (a reset, a new medium) and did not look at the command: again.
    Again,
    /// It becomes ready: again, after a while.
    Soon,
    /// It fails.
    Failed(Errno),
}

mod key {
    pub(super) const NONE: u8 = 0x0;
    pub(super) const RECOVERED: u8 = 0x1;
    pub(super) const NOT_READY: u8 = 0x2;
    pub(super) const ILLEGAL_REQUEST: u8 = 0x5;
    pub(super) const UNIT_ATTENTION: u8 = 0x6;
    pub(super) const DATA_PROTECT: u8 = 0x7;
    pub(super) const ABORTED: u8 = 0xb;
}

const MEDIUM_NOT_PRESENT: u8 = 0x3a;
const TRAY_OPEN: u8 = 0x02;
const NOT_READY: u8 = 0x04;
const BECOMES_READY: u8 = 0x01;
const WRITE_PROTECTED: u8 = 0x27;
const NO_SPACE: u8 = 0x07;
const MEDIUM_CHANGED: u8 = 0x28;
const NO_SUCH_COMMAND: u8 = 0x20;

impl Sense {
    /// From the data of REQUEST SENSE, in fixed or descriptor format; `None` if it is neither.
    pub fn parse(data: &[u8]) -> Option<Sense> {
        let byte = |at: usize| data.get(at).copied().unwrap_or(0);
        match data.first()? & 0x7f {
            0x70 | 0x71 => Some(Sense { key: byte(2) & 15, code: byte(12), qualifier: byte(13) }),
            0x72 | 0x73 => Some(Sense { key: byte(1) & 15, code: byte(2), qualifier: byte(3) }),
            _ => None,
        }
    }

    /// In fixed format, as programs get it.
    pub fn to_bytes(self) -> [u8; 18] {
        let mut bytes = [0; 18];
        (bytes[0], bytes[2], bytes[7]) = (0x70, self.key, 10);
        (bytes[12], bytes[13]) = (self.code, self.qualifier);
        bytes
    }

    /// Whether there is no medium in the drive.
    pub fn is_without_medium(self) -> bool {
        self.key == key::NOT_READY && self.code == MEDIUM_NOT_PRESENT
    }

    /// Whether there is none because the tray is open.
    pub fn is_tray_open(self) -> bool {
        self.is_without_medium() && self.qualifier == TRAY_OPEN
    }

    /// Whether another medium may be in the drive than before.
    pub fn is_medium_changed(self) -> bool {
        self.key == key::UNIT_ATTENTION && self.code == MEDIUM_CHANGED
    }

    /// What is to be done about a request that met it.
    pub fn condition(self) -> Condition {
        match (self.key, self.code, self.qualifier) {
            (key::NONE | key::RECOVERED, ..) => Condition::Recovered,
            (key::UNIT_ATTENTION | key::ABORTED, ..) => Condition::Again,
            (key::NOT_READY, NOT_READY, BECOMES_READY) => Condition::Soon,
            (key::DATA_PROTECT, WRITE_PROTECTED, NO_SPACE) => Condition::Failed(Errno::ENOSPC),
            (key::ILLEGAL_REQUEST, ..) => Condition::Failed(Errno::EREMOTEIO),
            _ => Condition::Failed(Errno::EIO),
        }
    }

    /// What a program is told whose own command it was.
    pub fn to_errno(self) -> Errno {
        match (self.key, self.code) {
            (key::NOT_READY, MEDIUM_NOT_PRESENT) => Errno::ENOMEDIUM,
            (key::ILLEGAL_REQUEST, NO_SUCH_COMMAND) => Errno::EOPNOTSUPP,
            _ => Errno::EIO,
        }
    }
}

impl core::fmt::Display for Sense {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "sense {:x}/{:02x}/{:02x}", self.key, self.code, self.qualifier)
    }
}
