//! What `make run` is told through the environment.

use crate::Result;
use std::env;
use std::path::PathBuf;

/// How the disk is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Disk {
    Virtio,
    Nvme,
    /// No disk: the root is unpacked from an initial ramdisk.
    Ram,
}

/// Which file the machine starts, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// `vmlinuz` under SeaBIOS.
    Bios,
    /// `vmlinux` by its PVH note.
    Pvh,
}

/// The options of one run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// `ROOTFS`: a tar archive of a root; without it a small Debian is made.
    pub(crate) rootfs: Option<PathBuf>,
    /// `IMAGE`: a disk image to boot as it is.
    pub(crate) image: Option<PathBuf>,
    /// `CMD`: a command to run instead of a shell; its status becomes ours.
    pub(crate) command: Option<String>,
    /// `SMP`: the number of CPUs.
    pub(crate) cpus: u32,
    /// `MEM`: memory as QEMU takes it.
    pub(crate) memory: String,
    /// `DISK`: virtio, nvme, or ram (no disk: an initial ramdisk).
    pub(crate) disk: Disk,
    /// `DISK_SIZE`: size of a root image that is made.
    pub(crate) disk_size: String,
    /// `ACCEL`: QEMU's accelerator.
    pub(crate) accel: String,
    /// `CPU`: QEMU's CPU model.
    pub(crate) cpu: String,
    /// `APPEND`: more words for the kernel's command line.
    pub(crate) append: String,
    /// `INIT`: another init than the helper.
    pub(crate) init: Option<String>,
    /// `INITRD`: an initial ramdisk.
    pub(crate) initrd: Option<PathBuf>,
    /// `KERNEL`: a kernel to boot instead of the one built.
    pub(crate) kernel: Option<PathBuf>,
    /// `BOOT`: bios or pvh.
    pub(crate) entry: Entry,
    /// `DEBUG=1`: the build with checks.
    pub(crate) is_debug_build: bool,
    /// `QEMU_ARGS`: more words for QEMU.
    pub(crate) qemu_args: Vec<String>,
}

fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

impl Options {
    /// Reads the environment; further arguments go to QEMU.
    pub(crate) fn from_env(rest: &[&str]) -> Result<Options> {
        let disk = match text("DISK").as_deref() {
            None | Some("virtio") => Disk::Virtio,
            Some("nvme") => Disk::Nvme,
            Some("ram") => Disk::Ram,
            Some(other) => return Err(format!("DISK={other}: virtio, nvme or ram").into()),
        };
        let entry = match text("BOOT").as_deref() {
            None | Some("bios") => Entry::Bios,
            Some("pvh") => Entry::Pvh,
            Some(other) => return Err(format!("BOOT={other}: bios or pvh").into()),
        };
        let extra = text("QEMU_ARGS").unwrap_or_default();
        let mut qemu_args: Vec<String> = extra.split_whitespace().map(String::from).collect();
        qemu_args.extend(rest.iter().map(|word| word.to_string()));
        let accel = text("ACCEL").unwrap_or_else(|| default_accel().into());
        let fallback = if accel.starts_with("kvm") { "host" } else { "max,-erms,-fsrm" };
        Ok(Options {
            rootfs: text("ROOTFS").map(PathBuf::from),
            image: text("IMAGE").map(PathBuf::from),
            command: text("CMD"),
            cpus: text("SMP").map_or(Ok(2), |n| n.parse())?,
            memory: text("MEM").unwrap_or("1G".into()),
            disk,
            disk_size: text("DISK_SIZE").unwrap_or("4G".into()),
            cpu: text("CPU").unwrap_or(fallback.into()),
            accel,
            append: text("APPEND").unwrap_or_default(),
            init: text("INIT"),
            initrd: text("INITRD").map(PathBuf::from),
            kernel: text("KERNEL").map(PathBuf::from),
            entry,
            is_debug_build: text("DEBUG").is_some_and(|value| value == "1"),
            qemu_args,
        })
    }
}

/// KVM where it works, else emulation with a thread per CPU.
///
/// That `/dev/kvm` can be opened says little on a machine that is itself virtual, so the firmware
/// is run for a moment: a QEMU that is still there after that has a KVM that executes code.
fn default_accel() -> &'static str {
    let emulation = "tcg,thread=multi";
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return emulation;
    }
    let mut trial = std::process::Command::new("timeout");
    trial.args(["-k", "1", "0.3", "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host"]);
    trial.args(["-display", "none", "-nodefaults", "-no-reboot", "-m", "64"]);
    trial.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    const STOPPED_BY_TIMEOUT: i32 = 124;
    match trial.status() {
        Ok(status) if status.code() == Some(STOPPED_BY_TIMEOUT) => "kvm",
        _ => emulation,
    }
}
