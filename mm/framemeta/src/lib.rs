#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]

mod block;
mod free;
mod huge;
mod page;
mod pageref;

pub use block::FrameBlock;
pub use free::{CHUNK, FreeFrames, FreshRange, MAX_ORDER, adopt};
pub use huge::{HugePage, Mapped};
pub use page::{Page, entry, flag, kind, page};
pub use pageref::PageRef;

/// Names the function that takes frames whose last reference is gone. Once, by `frames`.
#[macro_export]
macro_rules! define_give {
    ($give:path) => {
        const _: () = {
            #[unsafe(no_mangle)]
            fn frames_give(frames: $crate::FreeFrames) {
                $give(frames);
            }
        };
    };
}
