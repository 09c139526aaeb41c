//! Disk images for UEFI, made by the `bootloader` crate, and command lines put into kernels.

use crate::build::{self, Profile};
use crate::elf::Elf;
use crate::options::Options;
use crate::{Result, image, paths, shell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crate that calls `bootloader`; a workspace of its own.
const TOOL: &str = "tools/uefi-image";
/// Where the kernel has room for a command line.
const LINE: &str = ".command_line";

/// Makes an image that boots to the root of these options, as a RAM disk; where it is.
pub(crate) fn image(options: &Options) -> Result<PathBuf> {
    let kernel = build::build(Profile::Release)?;
    let ramdisk = match &options.initrd {
        Some(ramdisk) => ramdisk.clone(),
        None => image::ramdisk(options)?,
    };
    let init = options.init.as_deref().unwrap_or(crate::guest::INIT_PATH);
    let words = format!("console=ttyS0,115200 rdinit={init} {}", options.append);
    let path = paths::output().join("images/uefi.img");
    make(&kernel.vmlinux, &ramdisk, words.trim_end(), &path)?;
    Ok(path)
}

/// Makes `image` of a kernel, a RAM disk and a command line.
pub(crate) fn make(vmlinux: &Path, ramdisk: &Path, words: &str, image: &Path) -> Result {
    shell::ensure_programs(&[("strip", "binutils")])?;
    let tool = tool()?;
    // Firmware reads slowly, and the loader keeps the whole file in memory.
    let kernel = image.with_extension("kernel");
    shell::run(shell::tool("strip").arg("--strip-debug").arg("-o").arg(&kernel).arg(vmlinux))?;
    fs::write(&kernel, with_command_line(fs::read(&kernel)?, words)?)?;
    shell::run(Command::new(tool).arg(&kernel).arg(image).arg(ramdisk))?;
    fs::remove_file(&kernel)?;
    Ok(())
}

/// Writes a command line into a kernel's ELF file.
pub(crate) fn with_command_line(mut vmlinux: Vec<u8>, words: &str) -> Result<Vec<u8>> {
    let elf = Elf::parse(&vmlinux)?;
    let section = elf.section(LINE).ok_or("the kernel has no room for a command line")?;
    let (start, len) = (section.offset, section.len);
    if words.len() >= len {
        return Err(format!("a command line of more than {} bytes", len - 1).into());
    }
    let room = vmlinux.get_mut(start..start + len).ok_or("section outside the file")?;
    room.fill(0);
    room[..words.len()].copy_from_slice(words.as_bytes());
    Ok(vmlinux)
}

/// Builds the tool. With it cargo builds the crate's UEFI stage, for which it compiles `core` with
/// options of a nightly compiler.
fn tool() -> Result<PathBuf> {
    ensure_core_source()?;
    let target = paths::cargo_target().join("uefi-image");
    let mut command = build::cargo();
    command.args(["build", "--locked", "--target-dir"]).arg(&target);
    command.env("RUSTC_BOOTSTRAP", "1").current_dir(paths::project().join(TOOL));
    build::run_quietly(&mut command)?;
    Ok(target.join("debug/uefi-image"))
}

/// Debian's packages bring the source of `core`; rustup has it as a component.
fn ensure_core_source() -> Result {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let sysroot = shell::output(Command::new(rustc).args(["--print", "sysroot"]))?;
    let source = PathBuf::from(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    if source.is_dir() {
        return Ok(());
    }
    shell::run(Command::new("rustup").args(["component", "add", "rust-src"]))
}
