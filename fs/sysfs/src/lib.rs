#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod beside;
mod disks;
mod dmi;
mod functions;
mod memory;
mod networks;
mod nodes;
mod scsi;
mod system;
mod tree;
mod uevents;

use abi::Result;
use alloc::string::String;
use alloc::sync::Arc;
use arch::lock::Once;
use pseudo::{Node, show};
use socket::NetNamespace;
use vfs::{FileSystemType, MountRequest, SuperBlock};

const MAGIC: u64 = 0x6265_6572;

struct Sys;

impl FileSystemType for Sys {
    fn name(&self) -> &'static str {
        "sysfs"
    }
    fn userns_mount(&self) -> bool {
        true
    }
    fn mount(&self, _request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        // One for all mounts of the machine's own namespace, so that mount(2) knows a second one.
        static MACHINE: Once<Arc<SuperBlock>> = Once::new();
        let make = || pseudo::super_block("sysfs", MAGIC, root_node(), None);
        let namespace = socket::identity::network();
        let is_machine = match (&namespace, NetNamespace::initial()) {
            (Some(own), Some(initial)) => Arc::ptr_eq(own, initial),
            _ => false,
        };
        let Some(own) = namespace.filter(|_| is_machine) else { return Ok(make()) };
        let first = || {
            networks::follow(&own);
            kept(make())
        };
        Ok(MACHINE.call_once(first).clone())
    }
}

/// Makes the type known to `mount(2)`.
pub fn init() {
    vfs::register_file_system(&Sys);
    disks::follow();
    beside::init();
}

/// A super block that stays when its last mount is gone.
fn kept(sb: Arc<SuperBlock>) -> Arc<SuperBlock> {
    sb.activate();
    sb
}

/// A file with one line.
fn line(text: impl Fn() -> String + Send + Sync + 'static) -> Node {
    show(move |out| {
        out.extend_from_slice(text().as_bytes());
        out.push(b'\n');
        Ok(())
    })
}

/// The root of a mount, which shows the network interfaces of who mounts it.
pub fn root_node() -> Node {
    let namespace = socket::identity::network();
    tree::root(namespace.map(|namespace| Arc::downgrade(&namespace)))
}
