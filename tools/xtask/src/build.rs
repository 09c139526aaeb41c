//! Building the kernel: cargo, then the symbol table, then the two files.

use crate::{Result, bzimage, paths, shell, symbols};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// What the kernel is compiled for.
pub(crate) const TARGET: &str = "x86_64-unknown-none";
/// Where the kernel's release is written down.
const RELEASE_SOURCE: &str = "process/src/nsproxy.rs";

/// How the kernel is compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Optimised; what ships.
    Release,
    /// With lock checking and overflow checks.
    Debug,
}

/// The files a build makes.
pub(crate) struct Kernel {
    pub(crate) vmlinux: PathBuf,
    pub(crate) vmlinuz: PathBuf,
}

/// Builds the kernel.
pub(crate) fn build(profile: Profile) -> Result<Kernel> {
    let (name, out) = match profile {
        Profile::Release => ("release", paths::output()),
        Profile::Debug => ("debug", paths::output().join("debug-kernel")),
    };
    eprintln!("xtask: building the kernel");
    compile(profile, &["kernel"])?;
    compile(Profile::Release, &["setup"])?;
    let built = paths::cargo_target().join(TARGET);
    let mut vmlinux = fs::read(built.join(name).join("kernel"))?;
    let setup = setup_code()?;

    symbols::embed(&mut vmlinux)?;
    let vmlinuz = bzimage::assemble(&setup, &vmlinux, &version()?)?;
    fs::create_dir_all(&out)?;
    let kernel = Kernel { vmlinux: out.join("vmlinux"), vmlinuz: out.join("vmlinuz") };
    write_if_changed(&kernel.vmlinux, &vmlinux)?;
    write_if_changed(&kernel.vmlinuz, &vmlinuz)?;
    Ok(kernel)
}

/// The linked setup code of the last build.
pub(crate) fn setup_code() -> Result<Vec<u8>> {
    Ok(fs::read(paths::cargo_target().join(TARGET).join("release/setup"))?)
}

/// Replaces the file in one step, so that a running QEMU keeps what it has.
fn write_if_changed(path: &PathBuf, bytes: &[u8]) -> Result {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let temporary = path.with_extension("new");
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)?;
    Ok(())
}

/// `5.4.0-tkernel (name@machine) #1 SMP`, what `file` shows.
fn version() -> Result<String> {
    Ok(format!("{} (build@localhost) #1 SMP PREEMPT", release()?))
}

/// What `uname -r` says.
pub(crate) fn release() -> Result<String> {
    let source = fs::read_to_string(paths::project().join(RELEASE_SOURCE))?;
    let line = source.lines().find(|line| line.contains("const RELEASE"));
    let release = line.and_then(|line| line.split('"').nth(1));
    Ok(release.ok_or_else(|| format!("{RELEASE_SOURCE} names no release"))?.into())
}

fn compile(profile: Profile, packages: &[&str]) -> Result {
    let mut command = cargo();
    command.args(["build", "--target", TARGET]);
    for package in packages {
        command.args(["-p", package]);
    }
    if profile == Profile::Release {
        command.arg("--release");
    }
    use_core_source_if_needed(&mut command)?;
    run_quietly(&mut command)
}

/// A cargo command in the project.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(paths::project());
    command
}

/// Runs cargo; what it prints is shown only when it fails or warns: who runs a kernel has asked for
/// what the kernel prints. `VERBOSE=1` shows everything.
pub(crate) fn run_quietly(command: &mut Command) -> Result {
    if std::env::var("VERBOSE").is_ok_and(|value| value == "1") {
        return shell::run(command);
    }
    let output = command.output().map_err(|error| format!("cargo: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || text.contains("warning") {
        eprint!("{text}");
    }
    if output.status.success() {
        return Ok(());
    }
    Err(format!("cargo failed ({})", output.status).into())
}

/// Lets a cargo command for the kernel's target compile `core` where the toolchain has no binary.
pub(crate) fn use_core_source_if_needed(command: &mut Command) -> Result {
    if !has_prebuilt_core()? {
        command.env("RUSTC_BOOTSTRAP", "1").args([
            "-Zbuild-std=core,alloc,compiler_builtins",
            "-Zbuild-std-features=compiler-builtins-mem",
        ]);
    }
    Ok(())
}

/// Whether the toolchain ships `core` for the target; if not, it is built from its source.
fn has_prebuilt_core() -> Result<bool> {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let sysroot = shell::output(Command::new(rustc).args(["--print", "sysroot"]))?;
    let libraries = PathBuf::from(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib");
    Ok(fs::read_dir(libraries).is_ok_and(|mut dir| {
        dir.any(|entry| entry.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("libcore")))
    }))
}
