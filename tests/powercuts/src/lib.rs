//! Power cuts of a whole guest, after the fact: a log of all that the guest's disk wrote is replayed to many
//! moments, what the disk may have held then is recovered, and compared with what programs had been promised.
//!
//! [`log`] reads the log, [`replay`] makes the disk of a moment, [`tree`] recovers it and reads all of it,
//! [`story`] and [`file`] know what may be there, [`database`] asks SQLite; [`judge`] puts them together.
//! How programs say what they were promised is told in [`guest::marks`].

#![forbid(unsafe_code)]

pub mod database;
pub mod disk;
pub mod file;
pub mod judge;
pub mod log;
pub mod replay;
pub mod story;
pub mod tree;
