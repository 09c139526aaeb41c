#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

/// Appends formatted text to a byte vector.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {
        // Writing to a vector does not fail.
        let _ = core::fmt::Write::write_fmt(&mut $crate::Out($out), format_args!($($arg)*));
    };
}

mod binfmt;
mod cpu;
mod fds;
mod global;
mod idmap;
mod interrupts;
mod kernel_side;
mod locks;
mod maps;
mod mem;
mod memory;
mod mounts;
mod options;
mod pid;
mod printk;
mod root;
mod status;
mod sysctl;
mod sysctl_vm;
mod sysrq;
mod sysvipc;

use crate::options::Shown;
use abi::Result;
use alloc::sync::Arc;
use alloc::vec::Vec;
use process::pid::PidNamespace;
use pseudo::Node;
use vfs::{FileSystemType, MountRequest, SuperBlock};

/// A byte vector that text can be written to.
pub(crate) struct Out<'a>(pub(crate) &'a mut Vec<u8>);

impl core::fmt::Write for Out<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

const MAGIC: u64 = 0x9fa0;

struct Proc;

impl FileSystemType for Proc {
    fn name(&self) -> &'static str {
        "proc"
    }
    fn userns_mount(&self) -> bool {
        true
    }
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        let ns = match process::try_current() {
            Some(task) => task.pid().namespace().clone(),
            None => PidNamespace::initial().clone(),
        };
        let shown = Shown::new(ns, request.data)?;
        Ok(pseudo::super_block("proc", MAGIC, root::node(shown.clone()), Some(shown)))
    }
}

/// The root of a mount that shows the processes of `ns`.
pub fn root_node(ns: Arc<PidNamespace>) -> Node {
    root::node(Shown::everything(ns))
}

/// The names in a process's directory, each with its permission bits.
pub fn process_files() -> impl Iterator<Item = (&'static str, u32)> {
    pid::files()
}

/// Makes the type known to `mount(2)`; `command_line` is what `/proc/cmdline` shows.
pub fn init(command_line: &str) {
    global::set_command_line(command_line);
    vfs::register_file_system(&Proc);
    binfmt::init();
}
