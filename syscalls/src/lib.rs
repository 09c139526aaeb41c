#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod cx;
pub mod names;
pub mod table;
pub mod tracer;

mod anon;
mod asyncio;
mod cred;
mod direct;
mod event;
mod fcntl;
mod file;
mod fsctx;
mod futex;
mod getdents;
mod inotify;
mod ipc;
mod keys;
mod log;
mod misc;
mod mm;
mod mount;
mod mountfd;
mod mqueue;
mod namespace;
mod path;
mod pidfd;
mod poll;
mod prctl;
mod process;
mod ptrace;
mod rlimit;
mod sched;
mod seccomp;
mod signal;
mod signalfd;
mod socket;
mod splice;
mod stat;
mod sysinfo;
mod time;
mod timer;
mod uring;
mod xattr;

pub use cx::{Cx, dispatch};

/// What waits for kernel messages: `syslog(2)` and `/dev/kmsg` readers. Woken by the log's append
/// hook, which the kernel image registers.
pub fn kmsg_queue() -> &'static ::sched::WaitQueue {
    static QUEUE: ::sched::WaitQueue = ::sched::WaitQueue::new();
    &QUEUE
}

/// Every family's list; the table is built from it.
pub(crate) const FAMILIES: &[&[table::Call]] = &[
    anon::CALLS,
    asyncio::CALLS,
    cred::CALLS,
    event::CALLS,
    file::CALLS,
    futex::CALLS,
    getdents::CALLS,
    inotify::CALLS,
    ipc::CALLS,
    keys::CALLS,
    misc::CALLS,
    mm::CALLS,
    mount::CALLS,
    mountfd::CALLS,
    mqueue::CALLS,
    namespace::CALLS,
    path::CALLS,
    poll::CALLS,
    prctl::CALLS,
    process::CALLS,
    ptrace::CALLS,
    rlimit::CALLS,
    sched::CALLS,
    seccomp::CALLS,
    signal::CALLS,
    socket::CALLS,
    splice::CALLS,
    signalfd::CALLS,
    stat::CALLS,
    sysinfo::CALLS,
    time::CALLS,
    timer::CALLS,
    uring::CALLS,
    xattr::CALLS,
];
