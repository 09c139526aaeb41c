#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod beside;
mod disks;
mod functions;
mod memory;
mod networks;
mod nodes;
mod system;
mod tree;
mod uevents;

use abi::Result;
use alloc::string::String;
use alloc::sync::Arc;
use pseudo::{Node, show};
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
        Ok(pseudo::super_block("sysfs", MAGIC, root_node(), None))
    }
}

/// Makes the type known to `mount(2)`.
pub fn init() {
    vfs::register_file_system(&Sys);
    beside::init();
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
