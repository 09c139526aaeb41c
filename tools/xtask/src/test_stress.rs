//! `stress-ng` from Debian's packages: its process, scheduler, memory, pipe, signal, timer and file
//! stressors, family by family and then together, on four processors and 1 GiB.
//!
//! `MINUTES` (1) is the time of all rounds together, `DEBUG=1` takes the kernel with the lock
//! checker; `ROUND="memory files"` runs these families alone. It fails on a stressor that fails or
//! does not end, a panic, a report of the lock checker, memory that does not come back, and a file system
//! that `e2fsck` finds fault with.

use crate::options::{Disk, Options};
use crate::tally::complaint;
use crate::{Result, image, paths, qemu, rootfs, shell};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const SCRIPT: &str = include_str!("stress.sh");
/// Rounds in the script, which share the time.
const ROUNDS: u64 = 7;
/// Seconds beyond its own time that a round may take, by the script's patience with it, and that the
/// boot and the check of memory take together.
const ROUND_SLACK: u64 = 180;
const BOOT_SLACK: u64 = 600;

/// Runs it; the status is 1 if something failed.
pub(crate) fn run() -> Result<u8> {
    shell::ensure_programs(&[("qemu-system-x86_64", "qemu-system-x86"), ("e2fsck", "e2fsprogs")])?;
    let minutes = match std::env::var("MINUTES") {
        Ok(text) => text.parse::<u64>().map_err(|error| format!("MINUTES={text}: {error}"))?,
        Err(_) => 1,
    };
    let round_seconds = (minutes * 60).div_ceil(ROUNDS);
    let options = options(round_seconds)?;
    let kernel = qemu::kernel_file(&options)?;
    let image = qemu::prepared_image(&options)?;
    let control = paths::output().join(format!("control.{}", std::process::id()));
    let machine = qemu::machine(&options, &kernel, &image, &control);
    let patience = ROUNDS * (2 * round_seconds + ROUND_SLACK) + BOOT_SLACK;
    let mut command = bounded(&machine, patience);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let console = child.stdout.take().ok_or("no console")?;
    let reader = std::thread::spawn(move || {
        let mut complaints = 0;
        for line in BufReader::new(console).split(b'\n').map_while(std::result::Result::ok) {
            let line = String::from_utf8_lossy(&line);
            println!("{}", line.trim_end());
            complaints += usize::from(complaint(&line).is_some());
        }
        complaints
    });
    let status = qemu::attend(child, &control);
    let _ = std::fs::remove_file(&control);
    let complaints = reader.join().map_err(|_| "the console's reader failed")?;
    let status = status.map_err(|why| format!("{why} (given {patience} s)"))?;
    let checked = Command::new("e2fsck").arg("-fn").arg(&image).output()?;
    let is_clean = checked.status.success();
    if !is_clean {
        println!("{}", String::from_utf8_lossy(&checked.stdout));
    }
    let is_fine = status == 0 && complaints == 0 && is_clean;
    let label = if is_fine { "ok     " } else { "FAILED " };
    println!(
        "{label} stress-ng, {minutes} minutes: status {status}, {complaints} complaints of the \
         kernel, file system {}",
        if is_clean { "clean" } else { "damaged" }
    );
    Ok(u8::from(!is_fine))
}

/// The command, killed after so many seconds: a guest that hangs must not hang its test.
fn bounded(command: &Command, seconds: u64) -> Command {
    let mut bounded = Command::new("timeout");
    bounded.args(["-k", "10", &seconds.to_string()]).arg(command.get_program());
    bounded.args(command.get_args());
    bounded
}

fn options(round_seconds: u64) -> Result<Options> {
    let mut options = Options::from_env(&[])?;
    let given = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if options.rootfs.is_none() {
        options.rootfs = Some(rootfs::archive(&rootfs::STRESS)?);
    }
    if !given("SMP") {
        options.cpus = 4;
    }
    if options.disk == Disk::Ram {
        return Err("DISK=ram: the file stressors want a disk".into());
    }
    let round = std::env::var("ROUND").unwrap_or_default();
    options.command = Some(format!("ROUND_SECONDS={round_seconds} ROUND='{round}'\n{SCRIPT}"));
    // Damage that an earlier run left would count again.
    image::discard(&options)?;
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_end_is_killed() -> Result {
        let mut sleep = Command::new("sleep");
        sleep.arg("60");
        assert_eq!(bounded(&sleep, 1).status()?.code(), Some(124));
        let mut quick = Command::new("sh");
        assert_eq!(bounded(quick.args(["-c", "exit 3"]), 60).status()?.code(), Some(3));
        Ok(())
    }
}
