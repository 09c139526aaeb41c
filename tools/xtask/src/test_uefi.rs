//! Boots under UEFI firmware (OVMF): as an application of it in each way that brings a command line
//! and a RAM disk, through GRUB, and from an image of the `bootloader` crate.

use crate::build::{Kernel, Profile, build};
use crate::tally::{Tally, is_wanted};
use crate::test_loaders::{WORDS, archives, check_init, log_of, machine, rescue_image};
use crate::{Result, build, bzimage, paths, shell, uefi};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// What a case boots, and where it puts its files.
struct Site<'a> {
    kernel: &'a Kernel,
    archive: &'a Path,
    directory: &'a Path,
}

/// A name, what the kernel says of how it was entered, and what adds the way to a machine.
type Case = (&'static str, &'static str, fn(&Site<'_>, &mut Command) -> Result);

const CASES: &[Case] = &[
    ("UEFI, loaded by the firmware, RAM disk by protocol", "boot: Efi", direct),
    ("UEFI, EFI/BOOT/BOOTX64.EFI", "boot: Efi", removable),
    ("UEFI, the firmware's shell, initrd=", "boot: Efi", from_shell),
    ("UEFI, GRUB 2, linux", "boot: Efi", grub),
    ("UEFI, GRUB 2, linuxefi by hand-over", "boot: Efi", grub_handover),
    ("UEFI, image of the bootloader crate", "boot: Bootloader", bootloader),
];

/// Runs all cases whose name contains one of `filters` (or all).
pub(crate) fn cases(filters: &[&str]) -> Result<Tally> {
    let mut tally = Tally::default();
    if !CASES.iter().any(|(name, ..)| is_wanted(name, filters)) {
        return Ok(tally);
    }
    shell::ensure_programs(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("grub-mkrescue", "grub-common"),
        ("/usr/lib/grub/x86_64-efi/kernel.img", "grub-efi-amd64-bin"),
        ("xorriso", "xorriso"),
        ("mformat", "mtools"),
    ])?;
    let kernel = build(Profile::Release)?;
    let directory = paths::output().join("uefi");
    let archives = archives(&directory)?;
    let (_, archive) = archives.first().ok_or("no RAM disk")?;
    let site = Site { kernel: &kernel, archive, directory: &directory };
    for (name, entry, prepare) in CASES.iter().filter(|(name, ..)| is_wanted(name, filters)) {
        tally.count(name, run(&site, entry, *prepare));
    }
    Ok(tally)
}

fn run(site: &Site<'_>, entry: &str, prepare: fn(&Site<'_>, &mut Command) -> Result) -> Result {
    let mut command = machine();
    add_firmware(&mut command)?;
    command.args(["-vga", "std", "-smp", "2"]);
    prepare(site, &mut command)?;
    check_init(&log_of(&mut command)?, &[entry, "framebuffer"])
}

/// Has a machine start by this firmware, which is installed if it is missing.
pub(crate) fn add_firmware(command: &mut Command) -> Result {
    shell::ensure_programs(&[(FIRMWARE, "ovmf")])?;
    let flash = |unit: u32, mode: &str, file: &str| {
        format!("if=pflash,format=raw,unit={unit},{mode},file={file}")
    };
    command.args(["-drive", &flash(0, "readonly=on", FIRMWARE)]);
    command.args(["-drive", &flash(1, "snapshot=on", VARIABLES)]);
    Ok(())
}

fn direct(site: &Site<'_>, command: &mut Command) -> Result {
    command.arg("-kernel").arg(&site.kernel.vmlinuz).arg("-initrd").arg(site.archive);
    command.args(["-append", WORDS]);
    Ok(())
}

/// A file system for the firmware: what QEMU makes of a folder.
fn disk(folder: &Path, command: &mut Command) {
    let drive = format!("if=none,id=esp,format=raw,file=fat:rw:{}", folder.display());
    command.args(["-drive", &drive, "-device", "nvme,drive=esp,serial=1"]);
}

fn folder(site: &Site<'_>, name: &str) -> Result<PathBuf> {
    let folder = site.directory.join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    fs::copy(site.archive, folder.join("initrd.img"))?;
    Ok(folder)
}

/// A program in that place gets no load options: the words are in the kernel.
fn removable(site: &Site<'_>, command: &mut Command) -> Result {
    let folder = folder(site, "removable")?;
    let words = format!("{WORDS} initrd=\\initrd.img");
    let vmlinux = uefi::with_command_line(fs::read(&site.kernel.vmlinux)?, &words)?;
    let file = bzimage::assemble(&build::setup_code()?, &vmlinux, "removable")?;
    fs::create_dir_all(folder.join("EFI/BOOT"))?;
    fs::write(folder.join("EFI/BOOT/BOOTX64.EFI"), file)?;
    disk(&folder, command);
    Ok(())
}

fn from_shell(site: &Site<'_>, command: &mut Command) -> Result {
    let folder = folder(site, "shell")?;
    fs::copy(&site.kernel.vmlinuz, folder.join("vmlinuz.efi"))?;
    let script = format!("fs0:\r\nvmlinuz.efi {WORDS} initrd=/initrd.img\r\n");
    fs::write(folder.join("startup.nsh"), script)?;
    disk(&folder, command);
    Ok(())
}

/// GRUB ends the firmware's services itself.
fn grub(site: &Site<'_>, command: &mut Command) -> Result {
    // Without a mode of the screen GRUB says nothing of one.
    grub_with(site, ("insmod efi_gop\nlinux", "initrd"), command)
}

/// GRUB leaves them to the kernel, as those of CentOS do.
fn grub_handover(site: &Site<'_>, command: &mut Command) -> Result {
    grub_with(site, ("linuxefi", "initrdefi"), command)
}

fn grub_with(site: &Site<'_>, words: (&str, &str), command: &mut Command) -> Result {
    let platform = "x86_64-efi";
    let image = rescue_image(site.directory, &site.kernel.vmlinuz, site.archive, words, platform)?;
    command.arg("-cdrom").arg(image);
    Ok(())
}

fn bootloader(site: &Site<'_>, command: &mut Command) -> Result {
    let image = site.directory.join("bootloader.img");
    uefi::make(&site.kernel.vmlinux, site.archive, WORDS, &image)?;
    let drive = format!("if=none,id=disk,format=raw,snapshot=on,file={}", image.display());
    command.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=disk"]);
    Ok(())
}
