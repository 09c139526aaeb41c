//! How the machine ends: what was printed last must come out, disks must be told.
//!
//! Process 1 is `tests/guest`'s `lastwords`, which prints more than the serial port's FIFO holds and
//! ends the machine at once. Whoever reads the line stops for a moment just then, so that the bytes
//! wait in the guest.

use crate::build::{Profile, build};
use crate::tally::{Tally, check, is_wanted};
use crate::{Result, guest, paths, shell};
use rustix::pipe::{fcntl_setpipe_size, pipe};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Seconds of wall time a machine gets.
const PATIENCE: &str = "120";
const PAUSE: &str = "@@PAUSE@@";
const LAST: &str = "@@LAST@@";
/// How long the reader stops. Shorter than what the kernel grants a port that is stuck.
const STOP: Duration = Duration::from_millis(600);
/// What the pipe holds, so that the guest has to keep the rest.
const PIPE_LEN: usize = 4096;

/// How it ends, what else must come out, and what QEMU must have seen the devices be told.
struct Case {
    end: &'static str,
    expected: &'static [&'static str],
    is_orderly: bool,
    /// The panic that it is, if it is one.
    panic: Option<&'static str>,
}

const CASES: &[Case] = &[
    Case { end: "poweroff", expected: &["Power down"], is_orderly: true, panic: None },
    Case { end: "restart", expected: &["Restarting system"], is_orderly: true, panic: None },
    Case { end: "sysrq-o", expected: &["Power Off"], is_orderly: true, panic: None },
    Case { end: "sysrq-b", expected: &["Resetting"], is_orderly: false, panic: None },
    Case { end: "exit", expected: &[], is_orderly: false, panic: Some("Attempted to kill init!") },
];

/// What QEMU traces when a disk is told.
const TRACED: [&str; 2] = ["pci_nvme_mmio_shutdown_set", "virtio_set_status"];

/// Runs all cases whose name contains one of `filters` (or all).
pub(crate) fn cases(filters: &[&str]) -> Result<Tally> {
    let mut tally = Tally::default();
    let name_of = |case: &Case| format!("the machine's end: {}", case.end);
    if !CASES.iter().any(|case| is_wanted(&name_of(case), filters)) {
        return Ok(tally);
    }
    shell::ensure_programs(&[("qemu-system-x86_64", "qemu-system-x86"), ("cpio", "cpio")])?;
    let kernel = build(Profile::Release)?;
    let directory = paths::output().join("power");
    let archive = archive(&directory)?;
    for case in CASES.iter().filter(|case| is_wanted(&name_of(case), filters)) {
        tally.count(&name_of(case), run(case, &kernel.vmlinuz, &archive, &directory));
    }
    Ok(tally)
}

/// A RAM disk with the one program.
fn archive(directory: &Path) -> Result<PathBuf> {
    let tree = directory.join("tree");
    fs::create_dir_all(tree.join("dev"))?;
    fs::copy(guest::program("lastwords")?, tree.join("init"))?;
    let path = directory.join("lastwords.cpio");
    let pack = "find . | cpio --quiet -o -H newc > \"$1\"";
    let mut command = shell::tool("sh");
    shell::run(command.args(["-c", pack, "sh"]).arg(&path).current_dir(&tree))?;
    Ok(path)
}

fn run(case: &Case, kernel: &Path, archive: &Path, directory: &Path) -> Result {
    let disk = directory.join("disk.img");
    File::create(&disk)?.set_len(16 << 20)?;
    let trace = directory.join("trace");
    let (reader, writer) = pipe()?;
    fcntl_setpipe_size(&writer, PIPE_LEN)?;
    let mut command = Command::new("timeout");
    command
        .args([PATIENCE, "qemu-system-x86_64", "-M", "q35", "-nodefaults", "-display", "none"])
        .args(["-no-reboot", "-serial", "stdio", "-accel", "tcg,thread=multi"])
        .args(["-m", "512", "-smp", "2"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(archive)
        .args(["-append", &format!("console=ttyS0,115200 panic=-1 end={}", case.end)]);
    for (id, device) in [("n", "nvme,serial=1"), ("v", "virtio-blk-pci")] {
        let drive = format!("if=none,id={id},format=raw,snapshot=on,file={}", disk.display());
        command.args(["-drive", &drive, "-device", &format!("{device},drive={id}")]);
    }
    for event in TRACED {
        command.args(["-trace", event]);
    }
    command.arg("-D").arg(&trace);
    let mut child = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::null()).spawn()?;
    // The command holds an end of the pipe, which would never close.
    drop(command);
    let log = listen(File::from(reader))?;
    let status = child.wait()?;

    if !status.success() {
        return Err(format!("the machine did not end ({status})\n{log}").into());
    }
    check(&log, &[case.expected, &[LAST]].concat(), case.panic)?;
    let traced = fs::read_to_string(&trace).unwrap_or_default();
    let reset = traced.lines().rev().find(|line| line.contains("virtio_set_status"));
    let is_reset = reset.is_some_and(|line| line.trim_end().ends_with("val 0"));
    let is_told = traced.contains("pci_nvme_mmio_shutdown_set") && is_reset;
    if case.is_orderly && !is_told {
        return Err(format!("the disks were not told of the end:\n{traced}").into());
    }
    Ok(())
}

/// Reads all, with a stop after the mark.
fn listen(mut reader: File) -> Result<String> {
    let mut log = Vec::new();
    let mut has_stopped = false;
    let mut buffer = [0; 256];
    loop {
        let len = reader.read(&mut buffer)?;
        if len == 0 {
            return Ok(String::from_utf8_lossy(&log).into_owned());
        }
        log.extend_from_slice(&buffer[..len]);
        if !has_stopped && String::from_utf8_lossy(&log).contains(PAUSE) {
            has_stopped = true;
            std::thread::sleep(STOP);
        }
    }
}
