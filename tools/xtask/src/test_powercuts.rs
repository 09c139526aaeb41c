//! Power cuts of a whole guest: a machine whose disk keeps a log of all writes and flushes (QEMU's
//! `blklogwrites`) runs `tests/guest`'s `powerload`; `tests/powercuts` replays the log to many moments, recovers
//! what the disk may have held then and compares it with what programs had been promised.
//!
//! | variable   | what                                                                        |
//! |------------|-----------------------------------------------------------------------------|
//! | `CUTS=`    | moments of each machine (500)                                                |
//! | `SHAPE=`   | CPUs and disk, as `4:virtio`, `1:nvme` or `4:ahci`; all six without it         |
//! | `MODE=`    | `ordered`, `writeback` or `journal`; all three without it                     |
//! | `SECONDS=` | how long the load works (20)                                                 |
//! | `SEED=`    | another load, other moments                                                  |
//! | `KERNEL=`  | another kernel: Debian's has to pass too                                     |
//!
//! `make test` takes two machines side by side, briefly ([`step`]).
//!
//! What a run leaves is in `target/powercuts/CPUS-DISK-MODE`; a moment that fails is told with the command that
//! looks at it again.

use crate::build::{Profile, build, cargo};
use crate::tally::{Tally, check};
use crate::{Result, guest, paths, shell};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

/// Threads of the load, besides its databases.
const THREADS: u32 = 6;
/// Seconds of wall time that a machine gets beyond what its load takes.
const PATIENCE: u64 = 180;
const SEED: u64 = 0x70_6f77_6572;
/// What the guest prints when nothing went wrong.
const DONE: &str = "powerload: done";
const MODES: [&str; 3] = ["ordered", "writeback", "journal"];
const SHAPES: [(u32, &str); 6] =
    [(1, "virtio"), (4, "virtio"), (1, "nvme"), (4, "nvme"), (1, "ahci"), (4, "ahci")];

/// A machine and what happens to it.
#[derive(Clone, Debug)]
struct Case {
    cpus: u32,
    disk: String,
    mode: String,
    seconds: u64,
    cuts: u64,
    seed: u64,
}

impl Case {
    fn name(&self) -> String {
        format!("power cuts: {} CPUs, {}, data={}", self.cpus, self.disk, self.mode)
    }
}

/// The machines of `make test`.
const STEP: [(u32, &str, &str); 2] = [(4, "virtio", "ordered"), (1, "nvme", "journal")];
/// Their seconds of load, and the moments of each.
const STEP_SECONDS: u64 = 8;
const STEP_CUTS: u64 = 20;

/// The step of `make test`: at each run another load and other moments.
pub(crate) fn step() -> Result<Tally> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(SEED, |now| now.as_secs());
    println!("        SEED={seed}");
    let cases: Vec<Case> = STEP
        .iter()
        .map(|&(cpus, disk, mode)| {
            let (seconds, cuts) = (STEP_SECONDS, STEP_CUTS);
            Case { cpus, disk: disk.to_owned(), mode: mode.to_owned(), seconds, cuts, seed }
        })
        .collect();
    let (kernel, archive, directory) = ready()?;
    let outcomes = thread::scope(|scope| {
        let run = |case| {
            let (kernel, archive, directory) = (&kernel, &archive, &directory);
            // What went wrong is told as text, which goes from one thread to another.
            scope.spawn(move || one(case, kernel, archive, directory).map_err(|e| e.to_string()))
        };
        let threads: Vec<_> = cases.iter().map(run).collect();
        let ended = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err("the thread panicked".into()))
        };
        threads.into_iter().map(ended).collect::<Vec<_>>()
    });
    let mut tally = Tally::default();
    for (case, outcome) in cases.iter().zip(outcomes) {
        tally.count(&case.name(), outcome.map_err(Into::into));
    }
    Ok(tally)
}

/// Runs what the environment asks for; the status is 1 if something failed.
pub(crate) fn run() -> Result<u8> {
    // Make exports variables even when nobody set them.
    let word = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let number = |name: &str, otherwise: u64| match word(name) {
        Some(text) => text.parse().map_err(|error| format!("{name}={text}: {error}")),
        None => Ok(otherwise),
    };
    let (cuts, seconds) = (number("CUTS", 500)?, number("SECONDS", 20)?);
    let seed = number("SEED", SEED)?;
    let shapes = match word("SHAPE") {
        Some(text) => vec![shape(&text)?],
        None => SHAPES.map(|(cpus, disk)| (cpus, disk.to_owned())).to_vec(),
    };
    let modes = match word("MODE") {
        Some(mode) if MODES.contains(&mode.as_str()) => vec![mode],
        Some(mode) => return Err(format!("MODE={mode}: {}", MODES.join(", ")).into()),
        None => MODES.map(String::from).to_vec(),
    };
    let mut cases = Vec::new();
    for (cpus, disk) in shapes {
        for mode in &modes {
            let (disk, mode) = (disk.clone(), mode.clone());
            cases.push(Case { cpus, disk, mode, seconds, cuts, seed });
        }
    }
    let tally = all(&cases)?;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(u8::from(tally.failed > 0))
}

fn shape(text: &str) -> Result<(u32, String)> {
    let wrong = || format!("SHAPE={text}: CPUS:virtio, CPUS:nvme or CPUS:ahci");
    let (cpus, disk) = text.split_once(':').ok_or_else(wrong)?;
    if !["virtio", "nvme", "ahci"].contains(&disk) {
        return Err(wrong().into());
    }
    Ok((cpus.parse().map_err(|_| wrong())?, disk.to_owned()))
}

fn all(cases: &[Case]) -> Result<Tally> {
    let (kernel, archive, directory) = ready()?;
    let mut tally = Tally::default();
    for case in cases {
        tally.count(&case.name(), one(case, &kernel, &archive, &directory));
    }
    Ok(tally)
}

/// Builds what all machines use: the kernel, the RAM disk, the tool that looks at logs; and the folder for the rest.
fn ready() -> Result<(PathBuf, PathBuf, PathBuf)> {
    shell::ensure_programs(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("mke2fs", "e2fsprogs"),
        ("e2fsck", "e2fsprogs"),
        ("cpio", "cpio"),
        ("sqlite3", "sqlite3"),
    ])?;
    let kernel = match std::env::var_os("KERNEL").filter(|name| !name.is_empty()) {
        Some(kernel) => kernel.into(),
        None => build(Profile::Release)?.vmlinuz,
    };
    shell::run(cargo().args(["build", "--quiet", "--release", "-p", "powercuts"]))?;
    let directory = paths::output().join("powercuts");
    let archive = archive(&directory)?;
    Ok((kernel, archive, directory))
}

/// A RAM disk with the load and SQLite's shell, which comes with the libraries that it has here.
fn archive(directory: &Path) -> Result<PathBuf> {
    let tree = directory.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    for folder in ["dev", "proc", "tmp", "files"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    fs::copy(guest::program("powerload")?, tree.join("init"))?;
    let programs = ["/usr/bin/sqlite3", "/usr/bin/stdbuf", "/usr/libexec/coreutils/libstdbuf.so"];
    for program in programs {
        put(&tree, program)?;
        let text = shell::output(Command::new("ldd").arg(program))?;
        for library in libraries(&text) {
            put(&tree, library)?;
        }
    }
    let path = directory.join("load.cpio");
    let pack = "find . | cpio --quiet -o -H newc > \"$1\"";
    let mut command = shell::tool("sh");
    shell::run(command.args(["-c", pack, "sh"]).arg(&path).current_dir(&tree))?;
    Ok(path)
}

/// The files that `ldd` names: `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, `/lib64/ld-… (0x…)`.
fn libraries(text: &str) -> Vec<&str> {
    let words = text.lines().filter_map(|line| line.split_whitespace().rev().nth(1));
    words.filter(|word| word.starts_with('/')).collect()
}

/// Copies a file of this machine to the same place of the tree.
fn put(tree: &Path, path: &str) -> Result {
    let to = tree.join(path.trim_start_matches('/'));
    fs::create_dir_all(to.parent().unwrap_or(tree))?;
    fs::copy(path, &to).map_err(|error| format!("{path}: {error}"))?;
    Ok(())
}

fn one(case: &Case, kernel: &Path, archive: &Path, directory: &Path) -> Result {
    let place = directory.join(format!("{}-{}-{}", case.cpus, case.disk, case.mode));
    fs::create_dir_all(&place)?;
    let (base, disk, log) = (place.join("base.img"), place.join("disk.img"), place.join("log"));
    shell::run(judge().arg("prepare").arg(&base))?;
    fs::copy(&base, &disk)?;
    File::create(&log)?;
    let console = boot(case, kernel, archive, &disk, &log)?;
    fs::write(place.join("console"), &console)?;
    check(&console, &[DONE], None)?;
    let mut command = judge();
    command.arg("check").arg(&base).arg(&log).arg(&case.mode);
    command.args([case.seed.to_string(), case.cuts.to_string()]);
    let output = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("{}\n{text}", output.status).into());
    }
    text.lines().for_each(|line| println!("        {line}"));
    // What is large and can be made again.
    fs::remove_dir_all(&place)?;
    Ok(())
}

/// Runs the load; returns what came out of the console.
fn boot(case: &Case, kernel: &Path, archive: &Path, disk: &Path, log: &Path) -> Result<String> {
    let (device, name) = match case.disk.as_str() {
        "nvme" => ("nvme,drive=logged,serial=1", "/dev/nvme0n1"),
        "ahci" => ("ide-hd,drive=logged", "/dev/sda"),
        _ => ("virtio-blk-pci,drive=logged", "/dev/vda"),
    };
    // QEMU 7.2's NVMe controller takes a write that has to be durable by itself (FUA) for a plain one: there is none
    // in the log. So the kernel is told to flush instead.
    let words = format!(
        "console=ttyS0,115200 panic=-1 rdinit=/init quiet tkernel.nofua LOAD_DISK={name} LOAD_MODE={} LOAD_SEED={} \
         LOAD_SECONDS={} LOAD_THREADS={THREADS}",
        case.mode, case.seed, case.seconds
    );
    let patience = (PATIENCE + 4 * case.seconds).to_string();
    let mut command = Command::new("timeout");
    command
        .args(["-k", "10", &patience, "qemu-system-x86_64", "-M", "q35", "-nodefaults"])
        .args(["-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .args(["-accel", "tcg,thread=multi", "-cpu", "max,-erms,-fsrm", "-m", "512"])
        .args(["-smp", &case.cpus.to_string()])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(archive)
        .args(["-append", &words]);
    // The flushes that count are those in the log: this machine's disk need not do them.
    for (id, file) in [("disk", disk), ("log", log)] {
        let file =
            format!("driver=file,node-name={id},cache.no-flush=on,filename={}", file.display());
        command.args(["-blockdev", &file]);
    }
    command.args(["-blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log"]);
    command.args(["-device", device]).stdin(Stdio::null());
    let output = command.output()?;
    let console = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(
            format!("the machine did not end ({})\n{console}{errors}", output.status).into()
        );
    }
    Ok(console)
}

/// The tool that looks at logs.
fn judge() -> Command {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "-p", "powercuts", "--"]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let wanted = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(text), wanted);
        assert!(libraries("\tstatically linked\n").is_empty());
    }

    #[test]
    fn shapes_are_read() {
        assert_eq!(shape("4:nvme").ok(), Some((4, "nvme".into())));
        assert!(shape("4").is_err() && shape("x:nvme").is_err() && shape("4:ram").is_err());
    }
}
