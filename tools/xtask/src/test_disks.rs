//! What is given away: disks and CDs boot by their own GRUB under BIOS and UEFI, and the packages install and go in
//! a guest that runs this kernel.

use crate::disk::{self, Format};
use crate::options::Options;
use crate::tally::{Tally, check, is_wanted};
use crate::test_loaders::log_of;
use crate::test_uefi::add_firmware;
use crate::{Result, build, guest, image, package, paths, shell, test_locks};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Seconds that a machine gets.
const PATIENCE: &str = "180";

/// What a disk of Debian's root runs: where it is, then the life of a package.
const DISK_SCRIPT: &str = r#"
echo "root: $(findmnt -n -o FSTYPE /) by $(tr ' ' '\n' < /proc/cmdline | sed -n 's/^root=\([A-Z]*\)=.*/\1/p')"
"#;
const DEB_SCRIPT: &str = r#"
mount -o remount,rw / && rm -r /boot/*-RELEASE /lib/modules/RELEASE
dpkg -i /root/kernel.deb
echo "deb: $(dpkg-query -W -f '${Status}' linux-image-RELEASE), $(ls -d /boot/*-RELEASE | wc -l) files"
modprobe virtio_blk && echo "deb: virtio_blk is built in"
modprobe no_such_driver || echo "deb: no_such_driver is not"
dpkg -P linux-image-RELEASE
echo "deb: $(ls -d /boot/*-RELEASE /lib/modules/RELEASE 2> /dev/null | wc -l) files are left"
"#;
const DEB_EXPECTED: &[&str] = &[
    "deb: install ok installed, 3 files",
    "deb: virtio_blk is built in",
    "deb: no_such_driver is not",
    "deb: 0 files are left",
];
/// The root's own list of packages is damaged, so what it has does not count.
const RPM_SCRIPT: &str = r#"
mount -o remount,rw /
rpm --initdb && rpm -i --nodeps /root/kernel.rpm
echo "rpm: $(rpm -q kernel), $(ls -d /boot/*-RELEASE | wc -l) files"
modprobe virtio_blk && echo "rpm: virtio_blk is built in"
rpm -e kernel
echo "rpm: $(ls -d /boot/*-RELEASE /lib/modules/RELEASE 2> /dev/null | wc -l) files are left"
"#;

type Case = (&'static str, fn(&str) -> Result);

const CASES: &[Case] = &[
    ("disk: GRUB under BIOS from a GPT, and the package for Debian", bios),
    ("disk: the same under UEFI, NVMe", uefi),
    ("disk: a CD with the root as RAM disk", cd),
    ("disk: the package for CentOS", rpm),
];

/// Runs all cases whose name contains one of `filters` (or all).
pub(crate) fn cases(filters: &[&str]) -> Result<Tally> {
    let mut tally = Tally::default();
    let release = build::release()?;
    for (name, run) in CASES.iter().filter(|(name, _)| is_wanted(name, filters)) {
        tally.count(name, run(&release));
    }
    let _ = fs::remove_dir_all(directory());
    Ok(tally)
}

fn directory() -> PathBuf {
    paths::output().join("tests/disks")
}

/// A disk or CD of Debian's root that runs a script.
fn make(format: Format, script: &str, extra: &[(&str, &Path)]) -> Result<PathBuf> {
    let mut options = Options::from_env(&[])?;
    (options.rootfs, options.append) = (None, String::new());
    (options.command, options.disk_size) = (Some(script.into()), "1G".into());
    let target = directory().join("debian");
    fs::create_dir_all(directory())?;
    disk::make(&options, format, &target, extra)
}

fn machine(drive: &Path, device: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args([PATIENCE, "qemu-system-x86_64", "-M", "q35", "-nodefaults", "-display", "none"]);
    command.args(["-no-reboot", "-serial", "stdio", "-serial", "null", "-cpu", "max", "-m", "1G"]);
    command.args(["-accel", "tcg,thread=multi", "-smp", "2"]);
    let drive = format!("if=none,id=disk,snapshot=on,file={}", drive.display());
    command.args(["-drive", &drive, "-device", device]);
    command
}

fn bios(release: &str) -> Result {
    let deb = package::deb()?;
    let script = DISK_SCRIPT.to_string() + &DEB_SCRIPT.replace("RELEASE", release);
    let disk = make(Format::Qcow2, &script, &[("root/kernel.deb", &deb)])?;
    let log = log_of(&mut machine(&disk, "virtio-blk-pci,drive=disk"))?;
    check(&log, &[&["root: ext4 by UUID"], DEB_EXPECTED].concat(), None)
}

fn uefi(_: &str) -> Result {
    let disk = make(Format::Raw, DISK_SCRIPT, &[])?;
    let mut command = machine(&disk, "nvme,drive=disk,serial=1");
    add_firmware(&mut command)?;
    check(&log_of(&mut command)?, &["boot: Efi", "root: ext4 by UUID"], None)
}

fn cd(_: &str) -> Result {
    let script = "echo \"on a $(findmnt -n -o FSTYPE /)\"\n\
                  mount -r /dev/sr0 /mnt && [ -s /mnt/boot/vmlinuz ] && echo 'the CD is read'";
    let cd = make(Format::Iso, script, &[])?;
    let log = log_of(&mut machine(&cd, "ide-cd,drive=disk"))?;
    check(&log, &["on a rootfs", "the CD is read"], None)
}

fn rpm(release: &str) -> Result {
    let package = package::rpm()?;
    let kernel = build::build(build::Profile::Release)?;
    let mut options = Options::from_env(&[])?;
    options.rootfs = Some(test_locks::rootfs());
    let kept = image::ensure(&options)?;
    fs::create_dir_all(directory())?;
    let disk = directory().join("centos.ext4");
    shell::run(Command::new("cp").arg("--sparse=always").arg(&kept).arg(&disk))?;
    image::put_file(&disk, "/root/kernel.rpm", &fs::read(package)?)?;
    let script = RPM_SCRIPT.replace("RELEASE", release);
    image::put_file(&disk, guest::COMMAND_PATH, script.as_bytes())?;
    let mut command = machine(&disk, "virtio-blk-pci,drive=disk");
    let words = format!("console=ttyS0,115200 root=/dev/vda init={} panic=-1", guest::INIT_PATH);
    command.arg("-kernel").arg(&kernel.vmlinuz).args(["-append", &words]);
    let name = format!("rpm: kernel-{release}.x86_64, 3 files");
    let expected = [&name, "rpm: virtio_blk is built in", "rpm: 0 files are left"];
    check(&log_of(&mut command)?, &expected, None)
}
