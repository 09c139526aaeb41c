//! Stock systems boot by themselves, with systemd as process 1, to `running` and back to off: CentOS 7.2
//! (systemd 219, control groups of version 1) and Debian 12 (systemd 252, version 2).
//!
//! The image gets one unit more, which waits until the boot is over, tells how it went and turns the
//! machine off. With a network, this machine calls the guest instead, as a user would: it logs in by
//! `ssh`, copies a file there and back, restarts the guest, logs in again and turns it off.

use crate::build::{Profile, build};
use crate::options::Options;
use crate::remote::Remote;
use crate::tally::{Tally, check, is_wanted};
use crate::test_loaders::log_of;
use crate::{Result, image, paths, rootfs, shell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// Seconds for all boots and ends of a case, which take some ten each on a quiet machine.
const PATIENCE: &str = "300";
/// How long the guest may take until it lets somebody in.
const LOGIN_PATIENCE: Duration = Duration::from_secs(200);

const UNIT: &str = "\
[Service]
ExecStart=/bin/bash /usr/libexec/report.sh
";

const SCRIPT: &str = r#"
[ -e /root/reported ] && exit
for wait in $(seq 120); do
  state=$(systemctl is-system-running)
  [ "$state" = starting ] || break
  sleep 1
done
# Opened now: whoever lets people log in there hangs the line up first.
exec > /dev/ttyS0 2>&1
echo "state: $state"
systemctl --failed --no-legend
for unit in SSH systemd-journald systemd-logind systemd-udevd dbus serial-getty@ttyS0; do
  echo "unit: $unit $(systemctl is-active $unit)"
done
echo "group: $(cat /proc/self/cgroup | sed -n 's/.*name=systemd://p; s/^0:://p' | tail -n 1)"
touch /root/reported
grep -q called /proc/cmdline || systemctl --no-block poweroff
"#;

const EXPECTED: &[&str] = &[
    "state: running",
    "unit: systemd-journald active",
    "unit: systemd-logind active",
    "unit: systemd-udevd active",
    "unit: dbus active",
    "unit: serial-getty@ttyS0 active",
    "group: /system.slice/report.service",
];

/// A distribution, and how its network is set up.
struct System {
    name: &'static str,
    archive: fn() -> Result<PathBuf>,
    /// The unit that lets people log in.
    ssh: &'static str,
    /// More words for the command line.
    words: &'static str,
    network: (&'static str, &'static str),
}

static CENTOS: System = System {
    name: "CentOS 7.2",
    archive: || Ok(paths::project().join("../shared/userspace/centos-7.2.tar.xz")),
    ssh: "sshd",
    words: "",
    network: (
        "/etc/sysconfig/network-scripts/ifcfg-eth0",
        "DEVICE=eth0\nONBOOT=yes\nBOOTPROTO=dhcp\n",
    ),
};

static DEBIAN: System = System {
    name: "Debian 12",
    archive: || rootfs::archive(&rootfs::SYSTEM),
    ssh: "ssh",
    // Its udev would name the card after its place.
    words: " net.ifnames=0",
    network: (
        "/etc/network/interfaces",
        "auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet dhcp\n",
    ),
};

struct Case {
    system: &'static System,
    cpus: &'static str,
    disk: Disk,
    /// Whether it is called from here.
    is_called: bool,
}

#[derive(Clone, Copy)]
enum Disk {
    Virtio,
    Nvme,
}

const CASES: &[Case] = &[
    Case { system: &CENTOS, cpus: "2", disk: Disk::Virtio, is_called: true },
    Case { system: &CENTOS, cpus: "1", disk: Disk::Nvme, is_called: false },
    Case { system: &DEBIAN, cpus: "2", disk: Disk::Virtio, is_called: true },
];

impl Case {
    fn name(&self) -> String {
        let cpus = if self.cpus == "1" { "CPU" } else { "CPUs" };
        let disk = match self.disk {
            Disk::Virtio => "virtio",
            Disk::Nvme => "NVMe",
        };
        let called = if self.is_called { ", ssh, restart" } else { "" };
        format!("systemd: {}, {} {cpus}, {disk}{called}", self.system.name, self.cpus)
    }
}

/// Runs all cases whose name contains one of `filters` (or all).
pub(crate) fn cases(filters: &[&str]) -> Result<Tally> {
    let mut tally = Tally::default();
    let wanted: Vec<&Case> = CASES.iter().filter(|case| is_wanted(&case.name(), filters)).collect();
    if wanted.is_empty() {
        return Ok(tally);
    }
    shell::ensure_programs(&[("qemu-system-x86_64", "qemu-system-x86"), ("e2fsck", "e2fsprogs")])?;
    let kernel = build(Profile::Release)?;
    for case in wanted {
        tally.count(&case.name(), run(case, &kernel.vmlinuz));
    }
    Ok(tally)
}

/// The stock root with the unit in it, and with a way in for `remote`.
fn image_of(system: &System, remote: Option<&Remote>) -> Result<PathBuf> {
    let mut options = Options::from_env(&[])?;
    options.rootfs = Some((system.archive)()?);
    let kept = image::ensure(&options)?;
    let disk = paths::output().join("tests/systemd.ext4");
    fs::create_dir_all(disk.parent().unwrap_or(Path::new(".")))?;
    shell::run(Command::new("cp").arg("--sparse=always").arg(&kept).arg(&disk))?;
    image::make_directory(&disk, "/usr/libexec")?;
    let script = SCRIPT.replace("SSH", system.ssh);
    image::put_file(&disk, "/usr/libexec/report.sh", script.as_bytes())?;
    image::put_file(&disk, "/usr/lib/systemd/system/report.service", UNIT.as_bytes())?;
    let wanted_by = "/usr/lib/systemd/system/multi-user.target.wants/report.service";
    image::put_link(&disk, wanted_by, "../report.service")?;
    if let Some(remote) = remote {
        let (path, text) = system.network;
        image::put_file(&disk, path, text.as_bytes())?;
        image::make_directory(&disk, "/root/.ssh")?;
        image::put_file(&disk, "/root/.ssh/authorized_keys", &remote.public_key()?)?;
    }
    Ok(disk)
}

fn run(case: &Case, kernel: &Path) -> Result {
    let directory = paths::output().join("tests/systemd");
    let remote = if case.is_called { Some(Remote::new(&directory)?) } else { None };
    let disk = image_of(case.system, remote.as_ref())?;
    let (device, root) = match case.disk {
        Disk::Virtio => ("virtio-blk-pci,drive=root", "/dev/vda"),
        Disk::Nvme => ("nvme,drive=root,serial=1", "/dev/nvme0n1"),
    };
    let mut command = Command::new("timeout");
    command.args([PATIENCE, "qemu-system-x86_64", "-M", "q35", "-nodefaults", "-display", "none"]);
    command.args(["-serial", "stdio", "-accel", "tcg,thread=multi", "-cpu", "max"]);
    command.args(["-m", "1G", "-smp", case.cpus, "-device", "virtio-rng-pci"]);
    let drive = format!("if=none,id=root,format=raw,file={}", disk.display());
    command.args(["-drive", &drive, "-device", device]).arg("-kernel").arg(kernel);
    let more = case.system.words;
    let mut words = format!("console=ttyS0,115200 panic=-1 root={root} rw{more}");
    let log = if let Some(remote) = remote {
        words.push_str(" called");
        command.args(["-append", &words]).args(remote.network());
        called(&mut command, &remote, &directory)?
    } else {
        command.args(["-no-reboot", "-append", &words]);
        log_of(&mut command)?
    };
    let log = log.replace('\r', "");
    let ssh = format!("unit: {} active", case.system.ssh);
    check(&log, &[EXPECTED, &[ssh.as_str()]].concat(), None)?;
    if log.contains("entered failed state") || log.contains("Failed with result") {
        return Err(format!("a unit failed\n{log}").into());
    }
    let checked = shell::tool("e2fsck").arg("-fn").arg(&disk).output()?;
    if !checked.status.success() {
        return Err(String::from_utf8_lossy(&checked.stdout).into_owned().into());
    }
    fs::remove_file(&disk)?;
    Ok(())
}

/// Boots and calls the guest; its log.
fn called(command: &mut Command, remote: &Remote, directory: &Path) -> Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    let used = use_it(remote, directory);
    if used.is_err() {
        // It tells why first, if it can.
        thread::sleep(Duration::from_secs(1));
        // `timeout` ends the machine with itself.
        shell::run(Command::new("kill").arg(child.id().to_string()))?;
    }
    let output = child.wait_with_output()?;
    let log = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    match used {
        Err(error) => Err(format!("{error}\n{log}").into()),
        Ok(()) if !output.status.success() => {
            Err(format!("the machine did not turn itself off ({})\n{log}", output.status).into())
        }
        Ok(()) => Ok(log),
    }
}

fn use_it(remote: &Remote, directory: &Path) -> Result {
    // Lets the boot end before anything is asked.
    let first =
        "while ! [ -e /root/reported ]; do sleep 1; done; cat /proc/sys/kernel/random/boot_id";
    let boot = remote.run_first(first, LOGIN_PATIENCE)?;
    let contents: Vec<u8> = (0..1_000_003u32).map(|at| (at % 251 * 7 % 251) as u8).collect();
    remote.copy_there_and_back(directory, &contents)?;
    let sum = remote.run("sha256sum < /root/copied; who -b; loginctl --no-legend | wc -l")?;
    let own = shell::output(Command::new("sha256sum").arg(directory.join("sent")))?;
    if sum.split(' ').next() != own.split(' ').next() || !sum.contains("system boot") {
        return Err(format!("what the guest has of the file, its boot and sessions: {sum}").into());
    }
    remote.run_last("systemctl reboot")?;
    let again = "cat /proc/sys/kernel/random/boot_id; cat /root/copied | wc -c";
    let mut answer = boot.clone();
    // The first system may still answer while it goes down.
    for _ in 0..20 {
        answer = remote.run_first(again, LOGIN_PATIENCE)?;
        if !answer.starts_with(boot.trim()) {
            break;
        }
        thread::sleep(Duration::from_secs(1));
    }
    if answer.starts_with(boot.trim()) || !answer.contains(&contents.len().to_string()) {
        return Err(format!("after the restart: {answer}").into());
    }
    remote.run_last("systemctl poweroff")
}
