//! The kernel with the lock checker (rank, sleeping under a spinning lock, interrupt state): its
//! boots, and cases of `tests/oracle` on two and four processors. A report fails the test.

use crate::build::{Profile, build, cargo};
use crate::tally::Tally;
use crate::{Result, paths, test_boot};
use std::path::PathBuf;
use std::process::Command;

/// Boots that say what others say too are left out.
const BOOTS: [&str; 2] = ["PVH, 4 CPUs, x2APIC", "bzImage, old processor"];
/// What the cases run in, unless `ROOTFS` says otherwise; the project does not hold it.
const ROOTFS: &str = "../shared/userspace/centos-7.2.tar.xz";
/// Machines, and the families of cases that run on them.
const RUNS: [(&str, &[&str]); 2] =
    [("2:1024:nvme", &["shell.", "files."]), ("4:1024:virtio", &["python.", "system."])];

/// The debug build is slow: seconds that a case gets there, as a word for process 1.
const CASE_PATIENCE: &str = "CASE_TIMEOUT=180";

/// Runs all; the status is 1 if something failed.
pub(crate) fn run() -> Result<u8> {
    Ok(u8::from(cases()?.failed > 0))
}

/// The distribution that cases run in.
pub(crate) fn rootfs() -> PathBuf {
    // Make exports the variable even when nobody set it.
    let named = std::env::var_os("ROOTFS").filter(|name| !name.is_empty());
    named.map_or(paths::project().join(ROOTFS), Into::into)
}

/// A command of `tests/runner`.
pub(crate) fn runner(word: &str) -> Command {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "-p", "runner", "--", word]);
    command
}

/// Runs all.
pub(crate) fn cases() -> Result<Tally> {
    let mut tally = test_boot::cases(Profile::Debug, &BOOTS)?;
    let rootfs = rootfs();
    if !rootfs.exists() {
        // Not a pass: nobody has looked at the locks of a running system.
        let name = rootfs.display();
        println!("FAILED  no {name}: name a CentOS 7 root by ROOTFS= to run the cases");
        tally.add(Tally::FAILURE);
        return Ok(tally);
    }
    let kernel = build(Profile::Debug)?;
    for (shape, families) in RUNS {
        let mut command = runner("ours");
        command.args(["--shape", shape, "--kernel"]).arg(&kernel.vmlinuz);
        command.arg("--rootfs").arg(&rootfs).args(["--append", CASE_PATIENCE]);
        for family in families {
            command.args(["--only", family]);
        }
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let trouble: Vec<&str> = text.lines().filter(|line| line.starts_with("!!!")).collect();
        let is_fine = output.status.success() && trouble.is_empty();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let why = || format!("{}\n        {}\n{stderr}", output.status, trouble.join("\n        "));
        let outcome = if is_fine { Ok(()) } else { Err(why().into()) };
        tally.count(&format!("{} on {shape}", families.join(" ")), outcome);
    }
    Ok(tally)
}
