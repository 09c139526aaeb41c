//! Debian's packages: installs what is missing.

use std::process::{Command, Stdio};

/// Programs that runs need, and the packages that have them.
const PROGRAMS: [(&str, &str); 4] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mke2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("tar", "tar"),
];

/// Makes sure that the programs which runs need are there.
pub(crate) fn ensure_programs() -> Result<(), String> {
    PROGRAMS.into_iter().try_for_each(|(program, package)| need(program, package))
}

/// Installs a program's package if the program is missing; an error if it stays so.
pub(crate) fn need(program: &str, package: &str) -> Result<(), String> {
    if !has_program(program) {
        install(package);
    }
    if has_program(program) { Ok(()) } else { Err(format!("no {program}: install {package}")) }
}

/// Tries to install a package; whoever needs it looks whether it is there then.
pub(crate) fn install(package: &str) {
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(words).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    eprintln!("runner: installing {package}");
    let install = ["-y", "-qq", "--no-install-recommends", "install", package];
    if !apt(&install) && apt(&["-qq", "update"]) {
        apt(&install);
    }
}

fn has_program(name: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|directory| std::path::Path::new(directory).join(name).is_file())
}
