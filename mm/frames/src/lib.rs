#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(target_os = "none", no_std)]

mod alloc;
mod init;
mod nodes;
mod percpu;
mod pressure;
mod stats;
mod tables;
mod zone;

pub use alloc::{Flags, alloc, alloc_huge, alloc_page};
pub use framemeta::{FrameBlock, HugePage, MAX_ORDER, Mapped, Page, PageRef, flag, kind, page};
#[cfg(not(target_os = "none"))]
pub use init::init_host;
pub use init::{contains_ram, init, page_if_ram, set_nodes, total_pages};
pub use nodes::{node_count, node_of_cpu, node_of_frame, set_cpu_node};
pub use percpu::{drain_all, drain_local};
pub use pressure::{
    Reclaim, Watermarks, as_reclaimer, has_room, is_reclaimer, reclaim_everything,
    reclaim_in_background, register_reclaim, set_background_hook, set_min_free, set_oom_hook,
    watermarks,
};
pub use stats::{Counter, NodeStats, Stats, free, node_stats, stats, zone_info};

/// There is no frame to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

impl From<OutOfMemory> for abi::Errno {
    fn from(_: OutOfMemory) -> abi::Errno {
        abi::Errno::ENOMEM
    }
}

impl From<OutOfMemory> for arch::paging::NoMemory {
    fn from(_: OutOfMemory) -> arch::paging::NoMemory {
        arch::paging::NoMemory
    }
}
