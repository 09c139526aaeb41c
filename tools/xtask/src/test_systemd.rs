//! A stock system boots by itself: CentOS 7.2 with systemd as process 1, to `running` and back to off.
//!
//! The image gets one unit more, which waits until the boot is over, tells how it went and turns the
//! machine off.

use crate::build::{Profile, build};
use crate::options::Options;
use crate::tally::{Tally, check, is_wanted};
use crate::test_loaders::log_of;
use crate::{Result, image, paths, shell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOTFS: &str = "../shared/userspace/centos-7.2.tar.xz";
/// Seconds for a boot and an end, which take ten on a quiet machine.
const PATIENCE: &str = "240";

const UNIT: &str = "\
[Service]
ExecStart=/bin/bash /usr/libexec/report.sh
";

const SCRIPT: &str = r#"
for wait in $(seq 60); do
  state=$(systemctl is-system-running)
  [ "$state" = starting ] || break
  sleep 1
done
# Opened now: whoever lets people log in there hangs the line up first.
exec > /dev/ttyS0 2>&1
echo "state: $state"
systemctl --failed --no-legend
for unit in sshd rsyslog systemd-journald systemd-logind systemd-udevd dbus serial-getty@ttyS0; do
  echo "unit: $unit $(systemctl is-active $unit)"
done
echo "group: $(cat /proc/self/cgroup | sed -n 's/.*name=systemd://p')"
systemctl --no-block poweroff
"#;

const EXPECTED: &[&str] = &[
    "state: running",
    "unit: sshd active",
    "unit: rsyslog active",
    "unit: systemd-journald active",
    "unit: systemd-logind active",
    "unit: systemd-udevd active",
    "unit: dbus active",
    "unit: serial-getty@ttyS0 active",
    "group: /system.slice/report.service",
];

struct Case {
    name: &'static str,
    cpus: &'static str,
    device: &'static str,
    root: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "systemd: CentOS 7.2, 2 CPUs, virtio",
        cpus: "2",
        device: "virtio-blk-pci,drive=root",
        root: "/dev/vda",
    },
    Case {
        name: "systemd: CentOS 7.2, 1 CPU, NVMe",
        cpus: "1",
        device: "nvme,drive=root,serial=1",
        root: "/dev/nvme0n1",
    },
];

/// Runs all cases whose name contains one of `filters` (or all).
pub(crate) fn cases(filters: &[&str]) -> Result<Tally> {
    let mut tally = Tally::default();
    let wanted: Vec<&Case> = CASES.iter().filter(|case| is_wanted(case.name, filters)).collect();
    if wanted.is_empty() {
        return Ok(tally);
    }
    shell::ensure_programs(&[("qemu-system-x86_64", "qemu-system-x86"), ("e2fsck", "e2fsprogs")])?;
    let kernel = build(Profile::Release)?;
    let stock = stock_image()?;
    for case in wanted {
        tally.count(case.name, run(case, &kernel.vmlinuz, &stock));
    }
    Ok(tally)
}

/// The stock root with the unit in it.
fn stock_image() -> Result<PathBuf> {
    let mut options = Options::from_env(&[])?;
    options.rootfs = Some(paths::project().join(ROOTFS));
    let kept = image::ensure(&options)?;
    let copy = paths::output().join("tests/systemd.ext4");
    fs::create_dir_all(copy.parent().unwrap_or(Path::new(".")))?;
    shell::run(Command::new("cp").arg("--sparse=always").arg(&kept).arg(&copy))?;
    image::put_file(&copy, "/usr/libexec/report.sh", SCRIPT.as_bytes())?;
    image::put_file(&copy, "/usr/lib/systemd/system/report.service", UNIT.as_bytes())?;
    let wanted_by = "/usr/lib/systemd/system/multi-user.target.wants/report.service";
    image::put_file(&copy, wanted_by, UNIT.as_bytes())?;
    Ok(copy)
}

fn run(case: &Case, kernel: &Path, stock: &Path) -> Result {
    let disk = stock.with_extension("run.ext4");
    shell::run(Command::new("cp").arg("--sparse=always").arg(stock).arg(&disk))?;
    let mut command = Command::new("timeout");
    command.args([PATIENCE, "qemu-system-x86_64", "-M", "q35", "-nodefaults", "-display", "none"]);
    command.args(["-no-reboot", "-serial", "stdio", "-accel", "tcg,thread=multi", "-cpu", "max"]);
    command.args(["-m", "1G", "-smp", case.cpus, "-device", "virtio-rng-pci"]);
    let drive = format!("if=none,id=root,format=raw,file={}", disk.display());
    command.args(["-drive", &drive, "-device", case.device]).arg("-kernel").arg(kernel);
    command.args(["-append", &format!("console=ttyS0,115200 panic=-1 root={} rw", case.root)]);
    let log = log_of(&mut command)?.replace('\r', "");
    check(&log, EXPECTED, None)?;
    if log.contains("entered failed state") {
        return Err(format!("a unit failed\n{log}").into());
    }
    let checked = shell::tool("e2fsck").arg("-fn").arg(&disk).output()?;
    if !checked.status.success() {
        return Err(String::from_utf8_lossy(&checked.stdout).into_owned().into());
    }
    fs::remove_file(&disk)?;
    Ok(())
}
