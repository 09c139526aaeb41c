//! Roots made from Debian's packages, each by a recipe: the default one, and others with more in them.

use crate::{Result, paths, shell};
use std::fs;
use std::path::{Path, PathBuf};

const SUITE: &str = "bookworm";
const BINARIES: &str = "deb http://deb.debian.org/debian bookworm main";
const SOURCES: &str = "deb-src http://deb.debian.org/debian bookworm main";
const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
];

/// What a root is made of. An archive is made anew when its recipe changes.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// What its archive is called.
    pub(crate) name: &'static str,
    /// One of mmdebstrap's variants: which packages there are besides those named.
    variant: &'static str,
    packages: &'static [&'static str],
    /// Source packages whose archives are put into `/usr/src`, as they are.
    sources: &'static [&'static str],
}

/// What `make run` boots, and the instruction counts run in.
pub(crate) const DEFAULT: Recipe = Recipe {
    name: "debian",
    variant: "custom",
    packages: &[
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
    ],
    sources: &[],
};

/// What `cargo xtask test-stress` runs.
pub(crate) const STRESS: Recipe = Recipe {
    name: "stress",
    variant: "minbase",
    packages: &["stress-ng", "procps", "util-linux", "python3-minimal"],
    sources: &[],
};

/// What `tests/bench/applications.sh` runs; the sources are what it compiles and unpacks.
pub(crate) const APPLICATIONS: Recipe = Recipe {
    name: "applications",
    variant: "minbase",
    packages: &[
        "apache2-utils",
        "fio",
        "gawk",
        "gcc",
        "iproute2",
        "libc6-dev",
        "linux-perf",
        "make",
        "mount",
        "nginx-light",
        "procps",
        "python3-minimal",
        "redis-server",
        "redis-tools",
        "rt-tests",
        "sqlite3",
        "stress-ng",
        "sysbench",
    ],
    sources: &["bzip2", "curl"],
};

/// What `tests/bench/network.sh` runs.
pub(crate) const NETWORK: Recipe = Recipe {
    name: "network",
    variant: "minbase",
    packages: &[
        "apache2-bin",
        "apache2-utils",
        "gawk",
        "iperf3",
        "iproute2",
        "kmod",
        "libmemcached-tools",
        "memcached",
        "mount",
        "nginx-light",
        "postgresql-15",
        "procps",
        "redis-server",
        "redis-tools",
        "sockperf",
        "wrk",
    ],
    sources: &[],
};

/// A system that starts by itself: what `test_systemd` boots.
pub(crate) const SYSTEM: Recipe = Recipe {
    name: "system",
    variant: "minbase",
    packages: &[
        "dbus",
        "ifupdown",
        "iproute2",
        "isc-dhcp-client",
        "kmod",
        "libpam-systemd",
        "openssh-server",
        "procps",
        "strace",
        "systemd",
        "systemd-sysv",
        "udev",
        "util-linux-extra",
    ],
    sources: &[],
};

const RECIPES: [&Recipe; 5] = [&DEFAULT, &STRESS, &APPLICATIONS, &NETWORK, &SYSTEM];

/// The recipe of this name.
pub(crate) fn recipe(name: &str) -> Result<&'static Recipe> {
    let found = RECIPES.into_iter().find(|recipe| recipe.name == name);
    Ok(found.ok_or_else(|| {
        let names: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
        format!("no root {name}: there are {}", names.join(", "))
    })?)
}

/// The archive of a root; made when it is missing or was made by another recipe.
pub(crate) fn archive(recipe: &Recipe) -> Result<PathBuf> {
    let directory = paths::output().join("rootfs");
    let archive = directory.join(format!("{}-{SUITE}.tar", recipe.name));
    let made_by = archive.with_extension("recipe");
    let text = format!("{recipe:#?}\n{SUITE} {LEFT_OUT:?}\n");
    if archive.is_file() && fs::read_to_string(&made_by).is_ok_and(|old| old == text) {
        return Ok(archive);
    }
    shell::ensure_programs(&[("mmdebstrap", "mmdebstrap")])?;
    fs::create_dir_all(&directory)?;
    eprintln!("xtask: making a root from Debian's packages: {}", recipe.name);
    let partial = directory.join(format!("{}.partial.tar", recipe.name));
    make(recipe, &partial)?;
    fs::rename(&partial, &archive)?;
    fs::write(&made_by, text)?;
    Ok(archive)
}

fn make(recipe: &Recipe, archive: &Path) -> Result {
    let mut command = shell::tool("mmdebstrap");
    command.arg("--quiet").arg(format!("--variant={}", recipe.variant));
    command.arg(format!("--include={}", recipe.packages.join(",")));
    for pattern in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    command.arg("--customize-hook=ln -sf bash \"$1/bin/sh.bash\"");
    command.arg("--customize-hook=echo debian > \"$1/etc/hostname\"");
    if !recipe.sources.is_empty() {
        command.arg(format!(
            "--customize-hook=cd \"$1/usr/src\" && APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" \
             apt-get -qq source --download-only {}",
            recipe.sources.join(" ")
        ));
    }
    command.arg(SUITE).arg(archive).arg(BINARIES);
    if !recipe.sources.is_empty() {
        command.arg(SOURCES);
    }
    shell::run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_found_by_name() -> Result {
        for known in RECIPES {
            assert_eq!(recipe(known.name)?.packages, known.packages);
        }
        assert!(recipe("other").is_err());
        Ok(())
    }
}
