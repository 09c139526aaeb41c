#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod cdb;
mod cdrom;
mod contents;
mod generic;
mod inquiry;
mod sense;
#[cfg(test)]
mod tests;

pub use cdb::Cdb;
pub use cdrom::{Cdrom, NO_MEDIUM_SECTORS};
pub use generic::answer_address;
pub use inquiry::Inquiry;
pub use sense::{Condition, Sense};

use abi::Errno;

/// What a command moves.
pub enum Data<'a> {
    /// Nothing.
    None,
    /// From the device; shorter answers leave the rest as it is.
    In(&'a mut [u8]),
    /// To the device.
    Out(&'a [u8]),
}

impl Data<'_> {
    /// The bytes that are to be moved.
    pub fn len(&self) -> usize {
        match self {
            Data::None => 0,
            Data::In(bytes) => bytes.len(),
            Data::Out(bytes) => bytes.len(),
        }
    }

    /// Whether nothing is moved.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a command did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The device refused it (status CHECK CONDITION) and said why.
    Check(Sense),
    /// It did not get to the device, or its answer not back.
    Lost(Errno),
}

impl Failure {
    /// What a program is told.
    pub fn to_errno(self) -> Errno {
        match self {
            Failure::Check(sense) => sense.to_errno(),
            Failure::Lost(error) => error,
        }
    }
}

impl From<Failure> for Errno {
    fn from(failure: Failure) -> Errno {
        failure.to_errno()
    }
}

/// The way to a device.
pub trait Transport: Send + Sync {
    /// Runs a command and sleeps until it ends: the bytes that were moved. A unit attention is reported like
    /// any other condition. Ends within the time, with `ETIMEDOUT` if the device does not.
    ///
    /// # Errors
    /// The device's sense data, or `EIO`, `ETIMEDOUT`, `ENOMEM`, `ENODEV` of the way there.
    fn execute(&self, cdb: &Cdb, data: Data<'_>, timeout_ns: u64) -> Result<usize, Failure>;
}
