#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(target_os = "none", no_std)]

mod account;
mod handover;
mod ledger;
#[cfg(test)]
mod simulation;
mod split;
mod timeline;
mod tunables;
pub mod weight;

pub use account::{Account, Params, Place, Policy};
pub use handover::{Handover, WakeCost};
pub use ledger::{Found, Holder, Ledger, ProcessorTimes};
pub use split::{SAMPLE_NS, Sampler, Split};
pub use timeline::{Class, Enqueue, Preemption, Queueing, Timeline};
pub use tunables::Tunables;
