//! Commands and completions: NVMe 1.4 §4.2, §4.6, §5, §6.

use abi::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A submission queue entry.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Command {
    /// Opcode in bits 0 to 7, SGL use in bits 14 and 15, identifier in bits 16 to 31.
    pub(crate) head: u32,
    pub(crate) namespace: u32,
    pub(crate) reserved: u64,
    pub(crate) metadata: u64,
    pub(crate) data: [u64; 2],
    pub(crate) words: [u32; 6],
}

/// A completion queue entry.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Completion {
    pub(crate) result: u32,
    pub(crate) reserved: u32,
    pub(crate) queue_head: u16,
    pub(crate) queue: u16,
    pub(crate) id: u16,
    /// Phase in bit 0, status above.
    pub(crate) status: u16,
}

impl Command {
    pub(crate) fn new(opcode: u8, namespace: u32) -> Self {
        Self { head: u32::from(opcode), namespace, ..Self::default() }
    }

    pub(crate) fn with_id(mut self, id: u16) -> Self {
        self.head = self.head & 0xffff | u32::from(id) << 16;
        self
    }

    pub(crate) fn with_words(mut self, words: &[u32]) -> Self {
        for (to, from) in self.words.iter_mut().zip(words) {
            *to = *from;
        }
        self
    }

    /// `data` holds an SGL descriptor instead of PRPs.
    pub(crate) fn use_sgl(&mut self) {
        self.head |= 1 << 14;
    }
}

/// Opcodes of admin commands.
pub(crate) mod admin {
    pub(crate) const CREATE_SUBMISSION_QUEUE: u8 = 0x01;
    pub(crate) const CREATE_COMPLETION_QUEUE: u8 = 0x05;
    pub(crate) const IDENTIFY: u8 = 0x06;
    pub(crate) const ABORT: u8 = 0x08;
    pub(crate) const SET_FEATURES: u8 = 0x09;
    pub(crate) const FEATURE_WRITE_CACHE: u32 = 0x06;
    pub(crate) const FEATURE_QUEUES: u32 = 0x07;
}

/// Opcodes of I/O commands.
pub(crate) mod io {
    pub(crate) const FLUSH: u8 = 0x00;
    pub(crate) const WRITE: u8 = 0x01;
    pub(crate) const READ: u8 = 0x02;
    pub(crate) const WRITE_ZEROES: u8 = 0x08;
    pub(crate) const DATASET_MANAGEMENT: u8 = 0x09;
    /// In word 12 of a write.
    pub(crate) const FUA: u32 = 1 << 30;
    /// In word 11 of a dataset management command.
    pub(crate) const DEALLOCATE: u32 = 1 << 2;
}

/// The outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(u16);

impl Status {
    pub(crate) fn of(completion: &Completion) -> Self {
        Self(completion.status >> 1)
    }

    pub(crate) fn is_success(self) -> bool {
        self.code() == 0
    }

    /// Status code type and status code.
    fn code(self) -> u16 {
        self.0 & 0x7ff
    }

    /// Whether trying again may help: the controller does not say no, and the medium is not at
    /// fault.
    pub(crate) fn is_retryable(self) -> bool {
        let is_final = self.0 & 1 << 14 != 0;
        let is_media_error = self.code() >> 8 == 2;
        !self.is_success() && !is_final && !is_media_error
    }

    /// What it means for the request.
    pub(crate) fn to_result(self) -> Result<(), Errno> {
        match self.code() {
            0 => Ok(()),
            // Invalid opcode.
            0x001 => Err(Errno::EOPNOTSUPP),
            // Capacity exceeded.
            0x081 => Err(Errno::ENOSPC),
            // Namespace write protected.
            0x020 => Err(Errno::EROFS),
            _ => Err(Errno::EIO),
        }
    }
}

impl core::fmt::Display for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{:02x}", self.code() >> 8, self.code() & 0xff)
    }
}
