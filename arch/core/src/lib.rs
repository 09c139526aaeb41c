#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod boot;
pub mod cpu;
pub mod crc;
#[cfg(target_os = "none")]
pub mod firmware;
#[cfg(target_os = "none")]
pub mod hooks;
#[cfg(not(target_os = "none"))]
pub mod host;
#[cfg(target_os = "none")]
pub mod image;
pub mod irq;
pub mod irq_count;
pub mod lock;
#[cfg(target_os = "none")]
pub mod mmio;
pub mod paging;
pub mod percpu;
pub mod phys;
pub mod preempt;
pub mod shared;
pub mod stack;
pub mod thread;
pub mod tlb;
pub mod trap;
pub mod user;
pub mod vdso_image;
#[cfg(target_os = "none")]
pub mod x86;

pub use addr::{PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, USER_END, VirtAddr};
pub use archtypes::addr;
