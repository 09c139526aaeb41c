//! Boots the kernel through every protocol and with many CPU counts and memory sizes, as far as
//! the first words of the log that need them, and looks for these.

use crate::build::{Profile, build};
use crate::test::Tally;
use crate::{Result, shell};
use std::path::Path;
use std::process::{Command, Stdio};

struct Case {
    name: &'static str,
    args: &'static [&'static str],
    is_pvh: bool,
    /// Must all appear in the log.
    expected: &'static [&'static str],
}

/// Must not appear: a panic, or a report of the lock checker, which debug builds have.
const COMPLAINTS: [&str; 2] = ["panicked", "lock check:"];

/// Seconds of wall time a machine gets; emulating 64 CPUs on two takes a while.
const PATIENCE: &str = "120";

const CASES: &[Case] = &[
    Case {
        name: "bzImage, 1 CPU, 256 MiB",
        args: &["-m", "256"],
        is_pvh: false,
        expected: &["smp: 1 CPU"],
    },
    Case {
        name: "bzImage, 64 GiB",
        args: &["-m", "1G,maxmem=64G", "-smp", "2"],
        is_pvh: false,
        expected: &["smp: 2 CPUs"],
    },
    Case {
        name: "bzImage, old processor",
        args: &["-m", "512", "-cpu", "qemu64", "-smp", "2"],
        is_pvh: false,
        expected: &["smp: 2 CPUs"],
    },
    Case { name: "PVH, 1 CPU", args: &["-m", "256"], is_pvh: true, expected: &["smp: 1 CPU"] },
    Case {
        name: "PVH, 4 CPUs, x2APIC",
        args: &["-m", "1G", "-smp", "4", "-cpu", "max"],
        is_pvh: true,
        expected: &["smp: 4 CPUs"],
    },
    Case {
        name: "PVH, 4 CPUs, xAPIC",
        args: &["-m", "1G", "-smp", "4", "-cpu", "max,-x2apic"],
        is_pvh: true,
        expected: &["smp: 4 CPUs"],
    },
    Case {
        name: "PVH, 16 CPUs",
        args: &["-m", "1G", "-smp", "16", "-cpu", "max"],
        is_pvh: true,
        expected: &["smp: 16 CPUs"],
    },
    Case {
        name: "PVH, 64 CPUs",
        args: &["-m", "2G", "-smp", "64", "-cpu", "max"],
        is_pvh: true,
        expected: &["smp: 64 CPUs"],
    },
];

/// Runs cases like [`cases`]; the status is 1 if one failed.
pub(crate) fn run(filters: &[&str]) -> Result<u8> {
    Ok(u8::from(all(filters)?.failed > 0))
}

/// The cases here and those of `test_loaders`, `test_power`, `test_uefi` and `test_root`, on the release kernel.
pub(crate) fn all(filters: &[&str]) -> Result<Tally> {
    let mut tally = cases(Profile::Release, filters)?;
    tally.add(crate::test_loaders::cases(filters)?);
    tally.add(crate::test_power::cases(filters)?);
    tally.add(crate::test_uefi::cases(filters)?);
    tally.add(crate::test_root::cases(filters)?);
    Ok(tally)
}

/// Runs all cases whose name contains one of `filters` (or all), on the kernel of this profile.
pub(crate) fn cases(profile: Profile, filters: &[&str]) -> Result<Tally> {
    shell::ensure_programs(&[("qemu-system-x86_64", "qemu-system-x86")])?;
    let kernel = build(profile)?;
    let mut tally = Tally::default();
    for case in CASES {
        if !filters.is_empty() && !filters.iter().any(|filter| case.name.contains(filter)) {
            continue;
        }
        let file = if case.is_pvh { &kernel.vmlinux } else { &kernel.vmlinuz };
        let log = boot(file, case.args)?;
        let missing: Vec<_> = case.expected.iter().filter(|text| !log.contains(**text)).collect();
        let complaint = COMPLAINTS.iter().find(|text| log.contains(**text));
        if missing.is_empty() && complaint.is_none() {
            tally.passed += 1;
            println!("ok      {}", case.name);
        } else {
            tally.failed += 1;
            println!("FAILED  {}: missing {missing:?}, found {complaint:?} in\n{log}", case.name);
        }
    }
    Ok(tally)
}

/// Boots without a disk; a missing root ends in a panic, and `panic=-1` in a reset.
fn boot(kernel: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new("timeout")
        .args([PATIENCE, "qemu-system-x86_64", "-M", "q35", "-nodefaults", "-display", "none"])
        .args(["-no-reboot", "-serial", "stdio", "-accel", "tcg,thread=multi"])
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", "console=ttyS0,115200 panic=-1"])
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr))
}
