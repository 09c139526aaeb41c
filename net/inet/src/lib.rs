#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod autoconf;
mod control;
mod errors;
mod family;
mod filter;
mod fragments;
mod groups;
mod icmp;
mod ipin;
mod ipopts;
mod ipout;
mod lane;
mod loopback;
mod neighbour;
mod ports;
mod proc;
mod raw;
mod rtnetlink;
mod sockaddr;
mod stack;
mod sysctl;
mod table;
mod tcp;
mod timers;
mod udp;

pub use family::{init, set_random};
pub use stack::{Counters, Inet, Knobs};

pub(crate) use family::{check_bindable, check_port, random};
