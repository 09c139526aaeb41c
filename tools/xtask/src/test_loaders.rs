//! Boots through what starts a kernel on real machines, as far as the first words of process 1.
//!
//! The initial RAM disk holds crate `init` and nothing else: it finds no shell, says so, and turns
//! the machine off. That takes the loader, the command line, the archive, a program and power-off.

use crate::build::{Kernel, Profile, build};
use crate::tally::{Tally, check, is_wanted};
use crate::{Result, guest, paths, shell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Seconds of wall time a machine gets; emulating 64 CPUs on two takes a while.
const PATIENCE: &str = "120";
/// What process 1 says.
const MARKER: &str = "init: /bin/sh: No such file";
/// What the kernel says when power-off did not work and init tries the reset.
const RESTART: &str = "Restarting system";
pub(crate) const WORDS: &str = "console=ttyS0,115200 panic=-1 marked=yes";

/// How the archive is compressed: the name, and the filter.
const FILTERS: &[(&str, &str)] = &[
    ("plain", "cat"),
    ("gzip", "gzip -9"),
    ("xz", "xz --check=crc32 -9"),
    ("zstd", "zstd -q -19"),
];
/// GRUB's commands: through the 32-bit entry, and through the 16-bit setup code.
const COMMANDS: &[(&str, &str)] = &[("linux", "initrd"), ("linux16", "initrd16")];

/// What starts the kernel.
enum Loader {
    /// QEMU, which loads the bzImage, and the archive of this index.
    BzImage(usize),
    /// QEMU, which loads the bzImage and the first archive above where `mem=` ends memory.
    BeyondMem,
    /// QEMU, which loads the ELF file, and the archive of this index.
    Pvh(usize),
    /// GRUB from a CD, by these of its commands.
    Grub(&'static str, &'static str),
}

/// All cases by name.
fn list() -> Vec<(String, Loader)> {
    let mut list = Vec::new();
    for (index, (filter, _)) in FILTERS.iter().enumerate() {
        list.push((format!("bzImage, RAM disk {filter}"), Loader::BzImage(index)));
        list.push((format!("PVH, RAM disk {filter}"), Loader::Pvh(index)));
    }
    list.push(("bzImage, RAM disk beyond mem=".into(), Loader::BeyondMem));
    for (linux, initrd) in COMMANDS {
        list.push((format!("GRUB 2 under BIOS, {linux}"), Loader::Grub(linux, initrd)));
    }
    list
}

/// Runs all cases whose name contains one of `filters` (or all).
pub(crate) fn cases(filters: &[&str]) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut wanted = list();
    wanted.retain(|(name, _)| is_wanted(name, filters));
    if wanted.is_empty() {
        return Ok(tally);
    }
    shell::ensure_programs(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("cpio", "cpio"),
        ("xz", "xz-utils"),
        ("zstd", "zstd"),
        ("grub-mkrescue", "grub-common"),
        ("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
        ("xorriso", "xorriso"),
        ("mformat", "mtools"),
    ])?;
    let kernel = build(Profile::Release)?;
    let directory = paths::output().join("loaders");
    let archives = archives(&directory)?;
    for (name, loader) in wanted {
        tally.count(&name, run(&loader, &kernel, &archives, &directory));
    }
    Ok(tally)
}

fn run(loader: &Loader, kernel: &Kernel, archives: &[(&str, PathBuf)], directory: &Path) -> Result {
    let archive = |index: usize| archives.get(index).map(|(_, path)| path).ok_or("no RAM disk");
    let mut command = machine();
    match loader {
        Loader::BzImage(index) => {
            command.arg("-kernel").arg(&kernel.vmlinuz).arg("-initrd").arg(archive(*index)?);
            command.args(["-append", WORDS]);
        }
        Loader::BeyondMem => {
            command.arg("-kernel").arg(&kernel.vmlinuz).arg("-initrd").arg(archive(0)?);
            command.arg("-append").arg(format!("{WORDS} mem=256M"));
        }
        Loader::Pvh(index) => {
            command.arg("-kernel").arg(&kernel.vmlinux).arg("-initrd").arg(archive(*index)?);
            command.args(["-append", WORDS]);
        }
        Loader::Grub(linux, initrd) => {
            let words = (*linux, *initrd);
            let image = rescue_image(directory, &kernel.vmlinuz, archive(0)?, words, "i386-pc")?;
            command.arg("-cdrom").arg(image);
        }
    }
    check_init(&log_of(&mut command)?, &[])
}

/// Process 1 must have spoken, and its power-off have worked.
pub(crate) fn check_init(log: &str, expected: &[&str]) -> Result {
    check(log, &[expected, &[MARKER]].concat(), None)?;
    if log.contains(RESTART) {
        return Err(format!("power-off failed and the reset came in\n{log}").into());
    }
    Ok(())
}

/// The RAM disk in every compression.
pub(crate) fn archives(directory: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let tree = directory.join("tree");
    fs::create_dir_all(tree.join("dev"))?;
    fs::copy(guest::init_program()?, tree.join("init"))?;
    let mut archives = Vec::new();
    for (name, filter) in FILTERS {
        let path = directory.join(format!("{name}.cpio"));
        let pack = format!("find . | cpio --quiet -o -H newc | {filter} > \"$1\"");
        let mut command = shell::tool("sh");
        shell::run(command.args(["-c", &pack, "sh"]).arg(&path).current_dir(&tree))?;
        archives.push((*name, path));
    }
    Ok(archives)
}

/// A CD that starts GRUB for this platform, which starts the kernel by these two of its commands.
pub(crate) fn rescue_image(
    directory: &Path,
    kernel: &Path,
    archive: &Path,
    (linux, initrd): (&str, &str),
    platform: &str,
) -> Result<PathBuf> {
    let name = format!("{}.{platform}", linux.split('\n').next_back().unwrap_or(linux));
    let tree = directory.join(&name);
    fs::create_dir_all(tree.join("boot/grub"))?;
    fs::copy(kernel, tree.join("boot/vmlinuz"))?;
    fs::copy(archive, tree.join("boot/initrd"))?;
    let menu = format!(
        "serial --unit=0 --speed=115200\nterminal_output serial\n\
         {linux} /boot/vmlinuz {WORDS}\n{initrd} /boot/initrd\nboot\n"
    );
    fs::write(tree.join("boot/grub/grub.cfg"), menu)?;
    let image = directory.join(format!("{name}.iso"));
    let mut command = shell::tool("grub-mkrescue");
    command.args(["-d", &format!("/usr/lib/grub/{platform}"), "-o"]).arg(&image).arg(&tree);
    shell::output(&mut command)?;
    Ok(image)
}

/// A machine of 512 MiB with its console on the standard output, and bounded in time.
pub(crate) fn machine() -> Command {
    let mut command = Command::new("timeout");
    command.args([PATIENCE, "qemu-system-x86_64", "-M", "q35", "-nodefaults", "-display", "none"]);
    command.args(["-no-reboot", "-serial", "stdio", "-accel", "tcg,thread=multi", "-m", "512"]);
    command
}

/// What the machine prints; an error if it does not end by itself and well.
pub(crate) fn log_of(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let log = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(log)
    } else {
        Err(format!("the machine did not turn itself off ({})\n{log}", output.status).into())
    }
}
