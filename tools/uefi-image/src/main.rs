//! `uefi-image KERNEL IMAGE [RAMDISK]`: a disk image that boots the ELF file `KERNEL` under UEFI,
//! made by the `bootloader` crate.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (kernel, image, ramdisk) = match words.as_slice() {
        [kernel, image] => (kernel, image, None),
        [kernel, image, ramdisk] => (kernel, image, Some(ramdisk)),
        _ => {
            eprintln!("usage: uefi-image KERNEL IMAGE [RAMDISK]");
            return ExitCode::from(2);
        }
    };
    let mut builder = bootloader::DiskImageBuilder::new(kernel.clone());
    if let Some(ramdisk) = ramdisk {
        builder.set_ramdisk(ramdisk.clone());
    }
    match builder.create_uefi_image(image) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("uefi-image: {error:?}");
            ExitCode::FAILURE
        }
    }
}
