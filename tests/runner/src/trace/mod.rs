//! One command on both kernels, traced: on Linux by Debian's strace, on ours by the kernel's own
//! tracer. Shows the first call that differs, with the calls before it.
//!
//! The two tracers write differently, so calls are compared by what both tell: the name, whether
//! it failed and how, results that are not addresses or identifiers, strings, and small numbers.

mod call;
mod parse;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::image::{self, Content};
use crate::machine::{self, Kernel, Setup};
use crate::options::Options;
use call::Call;

/// What the command's shell is called in the guest: our tracer follows it and its descendants.
pub(crate) const TRACEE: &str = "tracee";
/// How many calls are shown before the first that differs, and after it.
const BEFORE: usize = 8;
const AFTER: usize = 3;

/// The calls of one process or thread.
pub(crate) struct Trace {
    pub(crate) pid: u32,
    pub(crate) calls: Vec<Call>,
}

/// Runs both sides and compares; how much differs: processes, what was printed, runs with trouble.
pub(crate) fn run(options: &Options) -> Result<usize, String> {
    let command = options.cmd.as_deref().ok_or("trace wants --cmd 'COMMAND'")?;
    let strace = collect_strace(&options.work_dir)?;
    let base =
        image::build(&options.rootfs(), Content::Trace(command, &strace), &options.work_dir)?;
    let setup = Setup::wall(options.machines[0]);
    let linux = machine::run_raw(Kernel::Linux, &setup, options, &base, &mut |_| {})?;
    let mut traced = options.clone();
    // The whole trace goes through the log to the console.
    traced.append = format!("{} tkernel.strace={TRACEE}+ ignore_loglevel", options.append);
    let ours = machine::run_raw(Kernel::Ours, &setup, &traced, &base, &mut |_| {})?;
    let mut bad = 0;
    for (name, side) in [("Linux", &linux), ("ours", &ours)] {
        if let Err(why) = side.sound() {
            println!("!!! {name}: {why}");
            bad += 1;
        }
    }
    let (expected, found) = (parse::strace(&linux.report), parse::kernel_log(&ours.console));
    if expected.is_empty() {
        return Err(format!("nothing was traced on Linux:\n{}", linux.report));
    }
    if found.is_empty() {
        return Err("nothing was traced on our kernel".into());
    }
    bad += usize::from(!has_equal_output(&linux.report, &ours.report));
    Ok(bad + compare(&expected, &found))
}

/// Whether the command printed the same and ended alike; shows what differs.
fn has_equal_output(linux: &str, ours: &str) -> bool {
    let output = |report: &str| {
        report.split_once("@@OUTPUT").map(|(_, rest)| rest.replace('\r', "")).unwrap_or_default()
    };
    let (linux, ours) = (output(linux), output(ours));
    if linux == ours {
        println!("status and output are equal");
    } else {
        println!("--- status and output on Linux\n{linux}\n+++ on ours\n{ours}");
    }
    linux == ours
}

/// Compares process by process, in the order in which they were made.
fn compare(expected: &[Trace], found: &[Trace]) -> usize {
    let mut differing = 0;
    if expected.len() != found.len() {
        println!("{} processes on Linux, {} on ours", expected.len(), found.len());
        differing += 1;
    }
    for (number, (linux, ours)) in expected.iter().zip(found).enumerate() {
        let pairs = linux.calls.iter().zip(&ours.calls);
        let equal = pairs.take_while(|(linux, ours)| linux.agrees_with(ours)).count();
        if equal == linux.calls.len() && equal == ours.calls.len() {
            println!("process {}: {equal} calls are equal", number + 1);
            continue;
        }
        differing += 1;
        let pids = format!("pid {} on Linux, {} on ours", linux.pid, ours.pid);
        println!("process {} ({pids}): call {} differs", number + 1, equal + 1);
        let start = equal.saturating_sub(BEFORE);
        for call in &linux.calls[start..equal] {
            println!("    {}", call.text);
        }
        for (sign, calls) in [('-', &linux.calls), ('+', &ours.calls)] {
            let rest = calls.get(equal..).unwrap_or_default();
            for call in rest.iter().take(1 + AFTER) {
                println!("{sign}   {}", call.text);
            }
            if rest.is_empty() {
                println!("{sign}   (no further call)");
            }
        }
    }
    differing
}

/// Debian's strace with its libraries and their loader, which any distribution can run.
fn collect_strace(work_dir: &Path) -> Result<PathBuf, String> {
    let program =
        ["/usr/bin/strace", "/usr/local/bin/strace"].into_iter().find(|p| Path::new(p).exists());
    let program = program.ok_or("no strace: install it")?;
    let folder = work_dir.join("strace");
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let copy = |from: &str, name: &str| {
        fs::copy(from, folder.join(name)).map(|_| ()).map_err(|e| format!("{from}: {e}"))
    };
    copy(program, "strace")?;
    let output = Command::new("ldd").arg(program).output().map_err(|e| format!("ldd: {e}"))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else {
            continue;
        };
        let name = path.rsplit('/').next().unwrap_or_default();
        copy(path, if name.starts_with("ld-linux") { "ld.so" } else { name })?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_difference() {
        let linux = "@@PID 10\nexecve(\"/oracle/tracee\", [\"x\"], 0x7ffe /* 3 vars */) = 0\n\
                     brk(NULL) = 0x55d0\nopenat(AT_FDCWD, \"/etc/passwd\", O_RDONLY) = 3\n\
                     read(3, \"root\", 4096) = 4\nexit_group(0) = ?\n+++ exited with 0 +++\n\
                     @@OUTPUT 0\n@@DONE\n";
        let good = "[    1.5] [tracee:7] brk(0) = 0x1000\n[    1.5] noise\n\
                    [    1.6] [tracee:7] openat(AT_FDCWD, \"/etc/passwd\", O_RDONLY) = 3\n\
                    [    1.6] [tracee:7] read(3, 0x10, 4096) = 4 \"root\"\n\
                    [    1.7] [tracee:7] exit_group(0)\n";
        let expected = parse::strace(linux);
        assert_eq!(compare(&expected, &parse::kernel_log(good)), 0);
        let bad =
            good.replace("/etc/passwd\", O_RDONLY) = 3", "/etc/passwd\", O_RDONLY) = -1 ENOENT");
        assert_eq!(compare(&expected, &parse::kernel_log(&bad)), 1);
        assert!(has_equal_output("@@OUTPUT 0\nx\n", "@@OUTPUT 0\r\nx\r\n"));
        assert!(!has_equal_output("@@OUTPUT 0\nx\n", "@@OUTPUT 1\nx\n"));
        let short = good.lines().take(3).collect::<Vec<_>>().join("\n");
        assert_eq!(compare(&expected, &parse::kernel_log(&short)), 1);
    }
}
