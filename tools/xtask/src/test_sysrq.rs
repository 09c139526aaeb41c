//! Magic system requests from the serial console: process 1 is `tests/guest`'s `sysrqs`, which asks
//! for keys; each is sent with a break before it. The disk that was made read-only must be clean.

use crate::build::{Profile, build};
use crate::tally::{Tally, check, is_wanted};
use crate::{Result, guest, paths, shell};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

const NAME: &str = "sysrq: keys on the console";
/// Seconds of wall time the machine gets.
const PATIENCE: &str = "180";
const DISK_LEN: u64 = 64 << 20;
/// QEMU's way to have a serial line see a break.
const BREAK: [u8; 2] = [1, b'b'];

/// What must come out.
const EXPECTED: &[&str] = &[
    "sysrq: HELP : loglevel(0-9) reboot(b) crash(c) terminate-all-tasks(e) \
     memory-full-oom-kill(f) kill-all-tasks(i) sak(k) show-backtrace-all-active-cpus(l) \
     show-memory-usage(m) nice-all-RT-tasks(n) poweroff(o) show-registers(p) show-all-timers(q) \
     sync(s) show-task-states(t) unmount(u) show-blocked-tasks(w)",
    "sysrq: Show backtrace of all active CPUs",
    "NMI backtrace for cpu 0",
    "NMI backtrace for cpu 1",
    "sysrq: Show Regs",
    "EFLAGS: ",
    "sysrq: Show Memory",
    "Mem-Info:",
    "sysrq: Show clockevent devices & pending hrtimers (no others)",
    ".expires_next",
    "sysrq: Show State",
    "task:init",
    "syscalls::cx::dispatch",
    "sysrq: Show Blocked State",
    "sysrq: Nice All RT Tasks",
    "sysrq: Emergency Sync",
    "Emergency Sync complete",
    "sysrq: Terminate All Tasks",
    "plain ended by 15",
    "sysrq: Kill All Tasks",
    "stubborn ended by 9",
    "sysrq: SAK",
    "SAK: killed process ",
    "with the terminal ended by 9",
    "sysrq: Manual OOM execution",
    "Out of memory: Killed process ",
    "large ended by 9",
    "sysrq: Emergency Remount R/O",
    "busy ended by 0",
    "mounted read-only",
    "Emergency Remount complete",
    "refused 5 of 5",
    "sysrq: This sysrq operation is disabled.",
    "sysrq: Resetting",
];

/// Runs it if its name contains one of `filters` (or there are none).
pub(crate) fn cases(filters: &[&str]) -> Result<Tally> {
    let mut tally = Tally::default();
    if is_wanted(NAME, filters) {
        shell::ensure_programs(&[
            ("qemu-system-x86_64", "qemu-system-x86"),
            ("cpio", "cpio"),
            ("mke2fs", "e2fsprogs"),
        ])?;
        tally.count(NAME, run());
    }
    Ok(tally)
}

/// A RAM disk with the one program.
fn archive(directory: &Path) -> Result<PathBuf> {
    let tree = directory.join("tree");
    fs::create_dir_all(tree.join("dev"))?;
    fs::copy(guest::program("sysrqs")?, tree.join("init"))?;
    let path = directory.join("sysrqs.cpio");
    let pack = "find . | cpio --quiet -o -H newc > \"$1\"";
    let mut command = shell::tool("sh");
    shell::run(command.args(["-c", pack, "sh"]).arg(&path).current_dir(&tree))?;
    Ok(path)
}

fn run() -> Result {
    let kernel = build(Profile::Release)?;
    let directory = paths::output().join("sysrq");
    let archive = archive(&directory)?;
    let disk = directory.join("disk.img");
    File::create(&disk)?.set_len(DISK_LEN)?;
    shell::run(shell::tool("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&disk))?;
    let mut command = Command::new("timeout");
    command
        .args([PATIENCE, "qemu-system-x86_64", "-M", "q35", "-nodefaults", "-display", "none"])
        .args(["-no-reboot", "-serial", "mon:stdio", "-accel", "tcg,thread=multi"])
        .args(["-m", "512", "-smp", "2", "-append", "console=ttyS0,115200 quiet panic=-1"])
        .arg("-kernel")
        .arg(&kernel.vmlinuz)
        .arg("-initrd")
        .arg(&archive);
    let drive = format!("if=virtio,format=raw,file={}", disk.display());
    command.args(["-drive", &drive]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let (Some(keys), Some(console)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("no pipes to the machine".into());
    };
    let log = converse(keys, console)?;
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("the machine did not end ({status})\n{log}").into());
    }
    check(&log, EXPECTED, None)?;
    // A file without a name was open: that it goes now is no damage.
    for (how, allowed) in [("-p", 1), ("-fn", 0)] {
        let checked = shell::tool("e2fsck").arg(how).arg(&disk).output()?;
        if checked.status.code().is_none_or(|code| code > allowed) {
            let said = String::from_utf8_lossy(&checked.stdout).into_owned();
            return Err(format!("the disk is not clean:\n{said}\n{log}").into());
        }
    }
    Ok(())
}

/// Sends the keys that are asked for; all that was printed.
fn converse(mut keys: ChildStdin, mut console: impl Read) -> Result<String> {
    const ASKS: &[u8] = b"@@KEY ";
    let mut log = Vec::new();
    let mut seen = 0;
    let mut buffer = [0; 256];
    loop {
        let len = console.read(&mut buffer)?;
        if len == 0 {
            return Ok(String::from_utf8_lossy(&log).into_owned());
        }
        log.extend_from_slice(&buffer[..len]);
        while let Some(at) = log[seen..].windows(ASKS.len()).position(|words| words == ASKS) {
            let Some(&key) = log.get(seen + at + ASKS.len()) else { break };
            seen += at + ASKS.len();
            keys.write_all(&[BREAK[0], BREAK[1], key])?;
            keys.flush()?;
        }
    }
}
