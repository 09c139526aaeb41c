#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod epoll;
pub mod eventfd;
mod inode;
pub mod inotify;
mod pages;
pub mod pipe;
pub mod timerfd;
mod wait;

pub use inode::anon_file;
