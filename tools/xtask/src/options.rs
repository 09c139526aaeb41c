//! What `make run` is told through the environment.

use crate::Result;
use crate::disk::Format;
use std::env;
use std::path::PathBuf;

/// How the disk is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Disk {
    Virtio,
    Nvme,
    Ahci,
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
    /// `DISK`: virtio, nvme, ahci, or ram (no disk: an initial ramdisk).
    pub(crate) disk: Disk,
    /// `DISK_SIZE`: size of a root image that is made.
    pub(crate) disk_size: String,
    /// `ACCEL`: QEMU's accelerator; without it the best that runs the kernel.
    pub(crate) accel: Option<String>,
    /// `CPU`: QEMU's CPU model; without it all that the accelerator has.
    pub(crate) cpu: Option<String>,
    /// `APPEND`: more words for the kernel's command line.
    pub(crate) append: String,
    /// `FORMAT`: what `image` makes; without it only the root's file system.
    pub(crate) format: Option<Format>,
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
    /// `NET=user`: a network card on QEMU's user network.
    pub(crate) has_network: bool,
    /// `HOSTFWD=8080:80,2222:22`: ports of the host's loopback address that lead to the guest's.
    pub(crate) forwards: Vec<(u16, u16)>,
    /// `QEMU_ARGS`: more words for QEMU.
    pub(crate) qemu_args: Vec<String>,
}

fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Pairs of ports: the host's, the guest's.
fn forwards(list: &str) -> Result<Vec<(u16, u16)>> {
    let pair = |text: &str| -> Result<(u16, u16)> {
        let (host, guest) = text.split_once(':').ok_or(format!("HOSTFWD={text}: HOST:GUEST"))?;
        Ok((host.parse()?, guest.parse()?))
    };
    list.split(',').map(pair).collect()
}

impl Options {
    /// Reads the environment; further arguments go to QEMU.
    pub(crate) fn from_env(rest: &[&str]) -> Result<Options> {
        let disk = match text("DISK").as_deref() {
            None | Some("virtio") => Disk::Virtio,
            Some("nvme") => Disk::Nvme,
            Some("ahci") => Disk::Ahci,
            Some("ram") => Disk::Ram,
            Some(other) => return Err(format!("DISK={other}: virtio, nvme, ahci or ram").into()),
        };
        let entry = match text("BOOT").as_deref() {
            None | Some("bios") => Entry::Bios,
            Some("pvh") => Entry::Pvh,
            Some(other) => return Err(format!("BOOT={other}: bios or pvh").into()),
        };
        let extra = text("QEMU_ARGS").unwrap_or_default();
        let mut qemu_args: Vec<String> = extra.split_whitespace().map(String::from).collect();
        qemu_args.extend(rest.iter().map(|word| word.to_string()));
        let forwards: Vec<(u16, u16)> =
            text("HOSTFWD").map_or(Ok(Vec::new()), |list| forwards(&list))?;
        let has_network = match text("NET").as_deref() {
            None => !forwards.is_empty(),
            Some("user") => true,
            Some(other) => return Err(format!("NET={other}: user").into()),
        };
        Ok(Options {
            has_network,
            forwards,
            rootfs: text("ROOTFS").map(PathBuf::from),
            image: text("IMAGE").map(PathBuf::from),
            command: text("CMD"),
            cpus: text("SMP").map_or(Ok(2), |n| n.parse())?,
            memory: text("MEM").unwrap_or("1G".into()),
            disk,
            disk_size: text("DISK_SIZE").unwrap_or("4G".into()),
            accel: text("ACCEL"),
            cpu: text("CPU"),
            append: text("APPEND").unwrap_or_default(),
            format: text("FORMAT").map(|name| Format::from_name(&name)).transpose()?,
            init: text("INIT"),
            initrd: text("INITRD").map(PathBuf::from),
            kernel: text("KERNEL").map(PathBuf::from),
            entry,
            is_debug_build: text("DEBUG").is_some_and(|value| value == "1"),
            qemu_args,
        })
    }
}
