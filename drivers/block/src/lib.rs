#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod bio;
mod device;
mod disk;
mod driver;
mod flush;
mod line;
pub mod memory;
pub mod names;
pub mod partition;
pub mod probe;
mod queue;
mod request;
mod stats;

#[cfg(test)]
mod tests;

pub use bio::{Bio, BioFlags, Done, Op, SECTOR_SHIFT, SECTOR_SIZE, Segment};
pub use device::{Claim, Device, DeviceId, Use};
pub use disk::{
    Disk, Event, EventHook, ReadOnly, attributes_changed, attributes_generation, by_id, by_spec,
    devices, disk_of, disks, set_event_hook, set_watcher,
};
pub use driver::{
    Asker, Controller, Driver, Limits, Medium, Parent, Purpose, ScsiPlace, TimeoutAction,
};
pub use line::{DeadlineKnobs, Scheduler};
pub use request::Request;
pub use stats::{KindStats, Stats, StatsSnapshot};

/// Starts the thread that looks for requests past their time. Once, when the scheduler runs.
pub fn init() {
    sched::spawn_kernel("kblockd", || {
        let pause = sched::WaitQueue::new();
        loop {
            let deadline = arch::time::now_ns() + 5_000_000_000;
            let _: Option<()> = pause.wait_deadline(deadline, || None);
            for disk in disks() {
                disk.check_timeouts();
            }
        }
    });
}
