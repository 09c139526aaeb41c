//! Boots the kernel through every protocol and with many CPU counts and memory sizes, as far as
//! the first words of the log that need them, and looks for these.

use crate::build::{Profile, build};
use crate::tally::{Tally, check, is_wanted};
use crate::test_loaders::{log_of, machine};
use crate::{Result, shell};
use std::path::Path;

struct Case {
    name: &'static str,
    args: &'static [&'static str],
    is_pvh: bool,
    /// Must all appear in the log.
    expected: &'static [&'static str],
}

/// How every boot here ends: without a disk there is no root.
const NO_ROOT: &str = "Kernel panic - not syncing: VFS: Unable to mount root";

const CASES: &[Case] = &[
    Case {
        name: "bzImage, 1 CPU, 256 MiB",
        args: &["-m", "256"],
        is_pvh: false,
        expected: &["smp: 1 CPU"],
    },
    Case {
        name: "bzImage, 1 GiB that may grow to 64",
        args: &["-m", "1G,maxmem=64G", "-smp", "2"],
        is_pvh: false,
        expected: &["smp: 2 CPUs"],
    },
    Case {
        name: "bzImage, 2 NUMA nodes",
        args: &[
            "-m",
            "512",
            "-smp",
            "2",
            "-object",
            "memory-backend-ram,id=near,size=192M",
            "-object",
            "memory-backend-ram,id=far,size=320M",
            "-numa",
            "node,memdev=near,cpus=0",
            "-numa",
            "node,memdev=far,cpus=1",
        ],
        is_pvh: false,
        expected: &["numa: node 0: 1", "numa: node 1: 3", "smp: 2 CPUs"],
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

type Cases = fn(&[&str]) -> Result<Tally>;

/// The cases here and of the other modules that boot, on the release kernel: two machines at a time, those that share an
/// image one after the other.
pub(crate) fn all(filters: &[&str]) -> Result<Tally> {
    const LOADERS: [Cases; 3] = [
        |filters| cases(Profile::Release, filters),
        crate::test_loaders::cases,
        crate::test_uefi::cases,
    ];
    const ROOTS: [Cases; 7] = [
        crate::test_power::cases,
        crate::test_sysrq::cases,
        crate::test_root::cases,
        crate::test_network::cases,
        crate::test_disks::cases,
        crate::test_sata::cases,
        crate::test_systemd::cases,
    ];
    build(Profile::Release)?;
    let run = |groups: &[Cases]| {
        let mut tally = Tally::default();
        for cases in groups {
            // Words, since a failure may hold what cannot go from thread to thread.
            tally.add(cases(filters).map_err(|failure| failure.to_string())?);
        }
        Ok::<_, String>(tally)
    };
    let (loaders, roots) = std::thread::scope(|scope| {
        let roots = scope.spawn(|| run(&ROOTS));
        (run(&LOADERS), roots.join())
    });
    let mut tally = loaders?;
    tally.add(roots.map_err(|_| "a test panicked")??);
    Ok(tally)
}

/// Runs all cases whose name contains one of `filters` (or all), on the kernel of this profile.
pub(crate) fn cases(profile: Profile, filters: &[&str]) -> Result<Tally> {
    shell::ensure_programs(&[("qemu-system-x86_64", "qemu-system-x86")])?;
    let kernel = build(profile)?;
    let mut tally = Tally::default();
    for case in CASES {
        if is_wanted(case.name, filters) {
            let file = if case.is_pvh { &kernel.vmlinux } else { &kernel.vmlinuz };
            tally.count(case.name, run_case(case, file));
        }
    }
    if is_wanted(VIRTIO_CONSOLE, filters) {
        tally.count(VIRTIO_CONSOLE, virtio_console(&kernel.vmlinuz));
    }
    Ok(tally)
}

const VIRTIO_CONSOLE: &str = "messages on a virtio console";

/// With a second console on a virtio port everything is said there as well.
fn virtio_console(kernel: &Path) -> Result {
    let mut command = machine();
    command.arg("-kernel").arg(kernel);
    command.args(["-append", "console=ttyS0,115200 console=hvc0 panic=-1", "-m", "256"]);
    command.args(["-device", "virtio-serial-pci", "-chardev", "file,id=port,path=/dev/stderr"]);
    command.args(["-device", "virtconsole,chardev=port"]);
    let log = log_of(&mut command)?;
    check(&log, &["hvc0: port 0 of a virtio console"], Some(NO_ROOT))?;
    match log.matches(NO_ROOT).count() {
        2 => Ok(()),
        count => Err(format!("the end was told {count} times\n{log}").into()),
    }
}

/// Boots without a disk; a missing root ends in a panic, and `panic=-1` in a reset.
fn run_case(case: &Case, kernel: &Path) -> Result {
    let mut command = machine();
    command.arg("-kernel").arg(kernel).args(["-append", "console=ttyS0,115200 panic=-1"]);
    check(&log_of(command.args(case.args))?, case.expected, Some(NO_ROOT))
}
