//! Boots through what starts a kernel on real machines, as far as the first words of process 1.
//!
//! The initial RAM disk holds crate `init` and nothing else: it finds no shell, says so, and turns
//! the machine off. That takes the loader, the command line, the archive, a program and power-off.

use crate::build::{Profile, build};
use crate::test::Tally;
use crate::{Result, guest, paths, shell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Seconds of wall time a machine gets.
const PATIENCE: &str = "120";
/// What process 1 says.
pub(crate) const MARKER: &str = "init: /bin/sh: No such file";
/// What the kernel says when power-off did not work and init tries the reset.
pub(crate) const RESTART: &str = "Restarting system";
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

/// Runs all cases whose name contains one of `filters` (or all).
pub(crate) fn cases(filters: &[&str]) -> Result<Tally> {
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
    let mut tally = Tally::default();
    let mut count = |name: String, outcome: Result<String>| {
        let (is_fine, log) = match outcome {
            Ok(log) => {
                let is_bad = log.contains("Kernel panic") || log.contains(RESTART);
                (log.contains(MARKER) && !is_bad, log)
            }
            Err(failure) => (false, failure.to_string()),
        };
        if is_fine {
            tally.passed += 1;
            println!("ok      {name}");
        } else {
            tally.failed += 1;
            println!("FAILED  {name}: not {MARKER:?} and power-off in\n{log}");
        }
    };
    let is_wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f));
    for (filter, archive) in &archives {
        for (protocol, file) in [("bzImage", &kernel.vmlinuz), ("PVH", &kernel.vmlinux)] {
            let name = format!("{protocol}, RAM disk {filter}");
            if is_wanted(&name) {
                let mut command = machine();
                command.arg("-kernel").arg(file).arg("-initrd").arg(archive);
                count(name, log_of(command.args(["-append", WORDS])));
            }
        }
    }
    let name = String::from("bzImage, RAM disk beyond mem=");
    if let Some((_, archive)) = archives.first().filter(|_| is_wanted(&name)) {
        let mut command = machine();
        command.arg("-kernel").arg(&kernel.vmlinuz).arg("-initrd").arg(archive);
        count(name, log_of(command.arg("-append").arg(format!("{WORDS} mem=256M"))));
    }
    for (linux, initrd) in COMMANDS {
        let name = format!("GRUB 2 under BIOS, {linux}");
        if let Some((_, archive)) = archives.first().filter(|_| is_wanted(&name)) {
            let commands = (*linux, *initrd);
            let image = rescue_image(&directory, &kernel.vmlinuz, archive, commands, "i386-pc");
            count(name, image.and_then(|image| log_of(machine().arg("-cdrom").arg(image))));
        }
    }
    Ok(tally)
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

pub(crate) fn machine() -> Command {
    let mut command = Command::new("timeout");
    command.args([PATIENCE, "qemu-system-x86_64", "-M", "q35", "-nodefaults", "-display", "none"]);
    command.args(["-no-reboot", "-serial", "stdio", "-accel", "tcg,thread=multi", "-m", "512"]);
    command
}

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
