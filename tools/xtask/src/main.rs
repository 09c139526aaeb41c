//! Build, image and QEMU helpers, run as `cargo xtask COMMAND`.
//!
//! | command             | what                                                                  |
//! |---------------------|-----------------------------------------------------------------------|
//! | `build [--debug]`   | `target/vmlinux` and `target/vmlinuz` (debug: `target/debug-kernel/…`)  |
//! | `run`               | build, make a root image, boot it to a shell or run `CMD`               |
//! | `debug`             | the same with QEMU waiting for gdb                                      |
//! | `image [ROOTFS]`    | only the root image, or with `FORMAT` a disk or CD; prints its path      |
//! | `deb`, `rpm`        | the kernel's package for Debian, for CentOS                             |
//! | `image --uefi`      | a disk image for UEFI by the `bootloader` crate, the root as RAM disk    |
//! | `rootfs NAME`       | only a root's archive (debian, stress, applications, network, system); prints its path |
//! | `profile`           | `run` with a count of instructions by kernel function                   |
//! | `profile-report`    | the table of a file written by the profiler's plugin                    |
//! | `test`              | formatting, lints, host tests, boots in QEMU; ends in a total           |
//! | `test-boot`         | boots the kernel through every protocol and CPU count                    |
//! | `test-shell`        | `run` on a terminal, with keys pressed and the screen looked at          |
//! | `test-oracle`       | the cases of `tests/oracle` on Linux and on ours, compared               |
//! | `test-locks`        | the kernel with the lock checker: boots, and cases of `tests/oracle`      |
//! | `test-powercuts`    | a guest whose power fails, at `CUTS` (500) moments: [`test_powercuts`]    |
//! | `test-stress`       | `stress-ng` for `MINUTES` (1), `DEBUG=1` with the lock checker            |
//! | `compat`            | writes `COMPATIBILITY.md`                                               |
//!
//! `run` and `debug` are steered by the environment: see [`options`].

mod accel;
mod build;
mod bzimage;
mod debug;
mod disk;
mod elf;
mod guest;
mod image;
mod options;
mod package;
mod paths;
mod profile;
mod qemu;
mod remote;
mod rootfs;
mod screen;
mod shell;
mod symbols;
mod tally;
mod test;
mod test_bench;
mod test_boot;
mod test_disks;
mod test_loaders;
mod test_locks;
mod test_network;
mod test_oracle;
mod test_power;
mod test_powercuts;
mod test_root;
mod test_sata;
mod test_shell;
mod test_stress;
mod test_sysrq;
mod test_systemd;
mod test_uefi;
mod uefi;

use std::process::ExitCode;

use options::Options;

/// What went wrong, in words.
pub(crate) type Failure = Box<dyn std::error::Error>;
/// The outcome of a step.
pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["build"] => build::build(build::Profile::Release).map(|_| 0),
        ["build", "--debug"] => build::build(build::Profile::Debug).map(|_| 0),
        ["run", rest @ ..] => Options::from_env(rest).and_then(|o| qemu::run(&o)),
        ["debug", rest @ ..] => Options::from_env(rest).and_then(|o| debug::run(&o)),
        ["image", "--uefi"] => Options::from_env(&[]).and_then(|o| {
            println!("{}", uefi::image(&o)?.display());
            Ok(0)
        }),
        ["image", rest @ ..] => Options::from_env(&[]).and_then(|mut o| {
            if let [rootfs] = rest {
                o.rootfs = Some(rootfs.into());
            }
            let path = match o.format {
                Some(format) => disk::make(&o, format, &disk::place(&o)?, &[])?,
                None => image::ensure(&o)?,
            };
            println!("{}", path.display());
            Ok(0)
        }),
        ["rootfs", name] => rootfs::recipe(name).and_then(|recipe| {
            println!("{}", rootfs::archive(recipe)?.display());
            Ok(0)
        }),
        ["deb"] => package::deb().map(|path| {
            println!("{}", path.display());
            0
        }),
        ["rpm"] => package::rpm().map(|path| {
            println!("{}", path.display());
            0
        }),
        ["profile", rest @ ..] => Options::from_env(rest).and_then(|o| profile::run(&o)),
        ["profile-report", raw, vmlinux] => {
            profile::report(raw.as_ref(), vmlinux.as_ref()).map(|()| 0)
        }
        ["test"] => test::run(),
        ["test-boot", rest @ ..] => test_boot::run(rest),
        ["test-shell"] => test_shell::cases().map(|tally| u8::from(tally.failed > 0)),
        ["test-locks"] => test_locks::run(),
        ["test-oracle"] => test_oracle::run(),
        ["test-powercuts"] => test_powercuts::run(),
        ["test-stress"] => test_stress::run(),
        ["compat"] => compat(),
        _ => Err(
            "usage: cargo xtask build [--debug] | run | debug | profile | image [ROOTFS | --uefi] | rootfs NAME \
             | deb | rpm | test | test-boot | test-shell | test-oracle | test-locks | test-powercuts | test-stress | compat"
                .into(),
        ),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::from(125)
        }
    }
}

/// Writes `COMPATIBILITY.md` from the tables of the kernel.
fn compat() -> Result<u8> {
    shell::run(build::cargo().args(["run", "--quiet", "-p", "compat", "--", "write"]))?;
    Ok(0)
}
