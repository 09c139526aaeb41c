//! Roots made once from Debian's packages: the default one, and others with more in them.

use crate::{Result, paths, shell};
use std::fs;
use std::path::PathBuf;

const SUITE: &str = "bookworm";
const MIRROR: &str = "deb http://deb.debian.org/debian bookworm main";
const PACKAGES: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "bsdutils",
    "coreutils",
    "dash",
    "debianutils",
    "diffutils",
    "findutils",
    "gawk",
    "grep",
    "gzip",
    "hostname",
    "init-system-helpers",
    "iproute2",
    "kmod",
    "less",
    "libc-bin",
    "libcap2-bin",
    "login",
    "lsof",
    "mount",
    "ncurses-base",
    "ncurses-bin",
    "passwd",
    "procps",
    "psmisc",
    "sed",
    "strace",
    "tar",
    "util-linux",
    "util-linux-extra",
    "vim-tiny",
    "xz-utils",
];
const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
];

/// The archive of the default root; made when it is missing.
pub(crate) fn default_archive() -> Result<PathBuf> {
    archive("debian", "custom", PACKAGES)
}

/// The archive of a root of one of mmdebstrap's variants with these packages in it; made when it is
/// missing.
pub(crate) fn archive(name: &str, variant: &str, packages: &[&str]) -> Result<PathBuf> {
    let directory = paths::output().join("rootfs");
    let archive = directory.join(format!("{name}-{SUITE}.tar"));
    if archive.is_file() {
        return Ok(archive);
    }
    shell::ensure_programs(&[("mmdebstrap", "mmdebstrap")])?;
    fs::create_dir_all(&directory)?;
    eprintln!("xtask: making a root from Debian's packages: {name}");
    let partial = directory.join("partial.tar");
    let mut command = shell::tool("mmdebstrap");
    command.arg("--quiet").arg(format!("--variant={variant}"));
    command.arg(format!("--include={}", packages.join(",")));
    for pattern in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    command.arg("--customize-hook=ln -sf bash \"$1/bin/sh.bash\"");
    command.arg("--customize-hook=echo debian > \"$1/etc/hostname\"");
    command.arg(SUITE).arg(&partial).arg(MIRROR);
    shell::run(&mut command)?;
    fs::rename(&partial, &archive)?;
    Ok(archive)
}
