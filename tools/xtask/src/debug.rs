//! `make debug`: QEMU stopped at the first instruction, waiting for gdb on port 1234.

use crate::options::Options;
use crate::{Result, build, paths, qemu};

/// Starts QEMU, stopped, and tells how to attach.
pub(crate) fn run(options: &Options) -> Result<u8> {
    let mut options = options.clone();
    options.append.push_str(" nokaslr");
    options.qemu_args.extend(["-s", "-S"].map(String::from));
    let profile =
        if options.is_debug_build { build::Profile::Debug } else { build::Profile::Release };
    let kernel = build::build(profile)?;
    eprintln!(
        "xtask: in another terminal: gdb -x {} {}",
        paths::project().join("tools/gdb/kernel.py").display(),
        kernel.vmlinux.display()
    );
    qemu::run(&options)
}
