#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

mod background;
mod errseq;
mod io;
mod mapping;
mod observe;
mod owners;
mod page;
mod pages;
mod read;
mod readahead;
pub mod reclaim;
pub mod stats;
mod tree;
mod truncate;
mod write;
pub mod writeback;

#[cfg(test)]
mod tests;

pub use errseq::{ErrorCursor, ErrorSequence};
pub use io::{ReadRun, WriteRun};
pub use mapping::{Backing, MAX_INDEX, Mapping, Owner};
pub use observe::{MapObserver, ObserverId};
pub use page::wait_writeback;
pub use read::mark_accessed;
pub use readahead::{DEFAULT_MAX_PAGES, ReadAhead};
pub use writeback::{Flusher, Periodic, Wait, sync_all};

static CACHE: reclaim::Cache = reclaim::Cache;

/// Offers the cache's clean pages to the frame allocator and starts the thread that frees memory
/// ahead of need. Once, at start-up.
pub fn init() {
    frames::register_reclaim(&CACHE);
    background::start();
}
