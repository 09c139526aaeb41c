//! The kernel as the distributions package it: `make deb`, `make rpm`.
//!
//! Beside the kernel a package brings what other programs look for under its release: the symbols, a list of
//! what is built in (`modules.builtin`: `modprobe` of such a name succeeds, an initial RAM disk is made without the
//! module) and the configuration. The scripts call what the distributions' own kernels call, so that
//! boot menus and RAM disks are made as always. All that carries a release in its name stays beside other kernels.

use crate::build::{self, Kernel, Profile};
use crate::{Result, paths, shell};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const CONFIG: &str = include_str!("../packages/config");
const BUILT_IN: &str = include_str!("../packages/modules.builtin");
const DEB_SCRIPT: &str = include_str!("../packages/deb.sh");
const SPEC: &str = include_str!("../packages/kernel.spec");

const DEB_SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];

/// Builds the kernel and its package for Debian; where that is.
pub(crate) fn deb() -> Result<PathBuf> {
    shell::ensure_programs(&[("dpkg-deb", "dpkg")])?;
    let kernel = build::build(Profile::Release)?;
    let release = build::release()?;
    let tree = fresh("deb")?;
    install(&kernel, &release, &tree)?;

    let control = tree.join("DEBIAN");
    fs::create_dir_all(&control)?;
    let (version, _) = split(&release)?;
    let text = format!(
        "Package: linux-image-{release}\nVersion: {version}-1\nArchitecture: amd64\nSection: kernel\n\
         Priority: optional\nMaintainer: The kernel's developers <root@localhost>\n\
         Depends: kmod\nRecommends: initramfs-tools\nProvides: linux-image\n\
         Description: A Linux-compatible kernel in Rust\n \
         The kernel with all of its drivers in one file, and what boot loaders and initial\n RAM \
         disks look for beside it.\n"
    );
    fs::write(control.join("control"), text)?;
    for script in DEB_SCRIPTS {
        let path = control.join(script);
        let text = DEB_SCRIPT.replace("@SCRIPT@", script).replace("@RELEASE@", &release);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let package = directory().join(format!("linux-image-{release}_{version}-1_amd64.deb"));
    let mut command = shell::tool("dpkg-deb");
    command.args(["--root-owner-group", "-Zxz", "--build"]).arg(&tree).arg(&package);
    shell::output(&mut command)?;
    fs::remove_dir_all(&tree)?;
    Ok(package)
}

/// Builds the kernel and its package for CentOS, and puts it into a directory that yum takes packages from; where
/// the package is.
pub(crate) fn rpm() -> Result<PathBuf> {
    shell::ensure_programs(&[("rpmbuild", "rpm"), ("createrepo_c", "createrepo-c")])?;
    let kernel = build::build(Profile::Release)?;
    let release = build::release()?;
    let tree = fresh("rpm")?;
    install(&kernel, &release, &tree)?;
    // Where kernel-install looks.
    let modules = modules(&tree, &release);
    for (name, mode) in [("vmlinuz", 0o755), ("System.map", 0o600), ("config", 0o644)] {
        let path = modules.join(name);
        fs::copy(tree.join(format!("boot/{name}-{release}")), &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }

    let (version, rest) = split(&release)?;
    let work = fresh("rpmbuild")?;
    let spec = work.join("kernel.spec");
    fs::write(&spec, SPEC)?;
    let repository = directory().join("yum");
    let mut command = shell::tool("rpmbuild");
    command.args(["--quiet", "-bb", "--target", "x86_64-linux"]);
    let definitions = [
        format!("_topdir {}", work.display()),
        format!("_rpmdir {}", repository.display()),
        format!("tree {}", tree.display()),
        format!("krel {release}"),
        format!("version_ {version}"),
        format!("release_ {rest}"),
        // What the rpm of CentOS 7 reads.
        "_binary_payload w6.xzdio".into(),
        "_build_id_links none".into(),
        "__os_install_post %{nil}".into(),
        "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm".into(),
    ];
    for definition in &definitions {
        command.args(["--define", definition]);
    }
    shell::output(command.arg(&spec))?;
    shell::output(shell::tool("createrepo_c").arg("--quiet").arg(&repository))?;
    fs::remove_dir_all(&tree)?;
    fs::remove_dir_all(&work)?;
    Ok(repository.join(format!("kernel-{release}.x86_64.rpm")))
}

/// Puts a kernel and what belongs to it into a tree, as its package would.
pub(crate) fn install(kernel: &Kernel, release: &str, tree: &Path) -> Result {
    let boot = tree.join("boot");
    fs::create_dir_all(&boot)?;
    fs::copy(&kernel.vmlinuz, boot.join(format!("vmlinuz-{release}")))?;
    fs::write(boot.join(format!("config-{release}")), CONFIG)?;
    let map = boot.join(format!("System.map-{release}"));
    fs::write(&map, symbols(&kernel.vmlinux)?)?;
    fs::set_permissions(&map, fs::Permissions::from_mode(0o600))?;
    let modules = modules(tree, release);
    fs::create_dir_all(modules.join("kernel"))?;
    fs::write(modules.join("modules.builtin"), BUILT_IN)?;
    fs::write(modules.join("modules.order"), "")?;
    Ok(())
}

/// `/lib/modules/RELEASE` of a tree, in which `/lib` may be a link.
fn modules(tree: &Path, release: &str) -> PathBuf {
    let lib = if tree.join("lib").is_symlink() { "usr/lib" } else { "lib" };
    tree.join(lib).join("modules").join(release)
}

/// What `nm` says of a kernel, by address, as `System.map` has it.
fn symbols(vmlinux: &Path) -> Result<String> {
    shell::ensure_programs(&[("nm", "binutils")])?;
    shell::output(shell::tool("nm").args(["-n", "-C"]).arg(vmlinux))
}

/// A release's version and the rest: `5.4.0` and `tkernel`.
fn split(release: &str) -> Result<(&str, &str)> {
    Ok(release.split_once('-').ok_or_else(|| format!("{release}: VERSION-RELEASE"))?)
}

fn directory() -> PathBuf {
    paths::output().join("packages")
}

/// An empty directory to work in.
fn fresh(name: &str) -> Result<PathBuf> {
    let path = directory().join(format!("{name}.work"));
    if path.exists() {
        fs::remove_dir_all(&path)?;
    }
    fs::create_dir_all(&path)?;
    Ok(path)
}
