#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod bar;
mod bus;
mod capability;
mod config;
mod device;
mod interrupt;
mod proc;
#[cfg(test)]
mod tests;

pub use bar::{Bar, BarKind};
pub use bus::{Driver, devices, init, register_driver, shut_down};
pub use capability::{Capability, capability_id};
pub use config::{Address, EcamRegion};
pub use device::{Device, Id};
pub use interrupt::{Handler, Interrupts, Vector};
pub use proc::{config_bytes, describe_devices};
