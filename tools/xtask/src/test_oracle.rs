//! The cases of `tests/oracle` on Debian's Linux kernel and on ours: what they print must be equal.

use crate::build::{Profile, build};
use crate::tally::Tally;
use crate::{Result, test_locks};
use std::process::Stdio;

/// The machines: the first is part of `make test`.
const SHAPES: [&str; 2] = ["2:1024:nvme", "1:256:virtio"];
/// On Linux these read programs from the disk again and again until memory is really gone, for minutes
/// where two processors do all the work.
const SLOW_ON_LINUX: [&str; 2] = ["memory-eater", "memory.oom"];

/// Runs all on every machine; the status is 1 if something failed.
pub(crate) fn run() -> Result<u8> {
    Ok(u8::from(compare(&SHAPES)?.failed > 0))
}

/// Runs all on the first machine.
pub(crate) fn cases() -> Result<Tally> {
    compare(&SHAPES[..1])
}

fn compare(shapes: &[&str]) -> Result<Tally> {
    let rootfs = test_locks::rootfs();
    if !rootfs.exists() {
        let name = rootfs.display();
        println!("FAILED  no {name}: name a CentOS 7 root by ROOTFS= to run the cases");
        return Ok(Tally::FAILURE);
    }
    let kernel = build(Profile::Release)?;
    let mut command = test_locks::runner("oracle");
    command.arg("--kernel").arg(&kernel.vmlinuz).arg("--rootfs").arg(&rootfs);
    for shape in shapes {
        command.args(["--shape", shape]);
    }
    for word in SLOW_ON_LINUX {
        command.args(["--skip", word]);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{text}");
    Ok(Tally::told(&text).unwrap_or(Tally::FAILURE))
}
