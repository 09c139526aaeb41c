#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod acpi;
pub mod backtrace;
pub mod boot;
pub mod checksum;
pub mod console;
pub mod cpu_info;
#[cfg(not(target_os = "none"))]
pub mod host;
pub mod ipi;
pub mod irq;
#[cfg(target_os = "none")]
pub mod power;
pub mod smbios;
#[cfg(target_os = "none")]
pub mod smp;
pub mod symbols;
pub mod time;
pub mod timer;
pub mod tlb;
pub mod trap;
pub mod uio;
pub mod user;
pub mod vdso;
#[cfg(target_os = "none")]
pub mod x86;

pub use addr::{PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr, USER_END, VirtAddr};
#[cfg(target_os = "none")]
pub use machine::mmio;
pub use machine::{addr, cpu, lock, paging, percpu, phys, preempt, shared, thread};
