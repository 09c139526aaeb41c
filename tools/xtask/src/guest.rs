//! What the helper puts into a root image: crate `init`, as process 1, and the command it runs.
//!
//! Besides the console the guest has a second serial line, `ttyS1`, as a control channel: the
//! guest sends `status N`, the host sends `size ROWS COLUMNS` whenever its window changes.

use crate::{Result, build, paths};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the init is in the guest.
pub(crate) const INIT_PATH: &str = "/.xtask/init";
/// Where the command is in the guest.
pub(crate) const COMMAND_PATH: &str = "/.xtask/command";

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the init, linked statically: it must run in any distribution.
pub(crate) fn init_program() -> Result<PathBuf> {
    let target_dir = paths::cargo_target().join("guest");
    let mut command = build::cargo();
    command.args(["build", "--release", "-p", "init", "--target", TARGET, "--target-dir"]);
    command.arg(&target_dir).env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols");
    build::run_quietly(&mut command)?;
    Ok(target_dir.join(TARGET).join("release/init"))
}

/// Builds a program of `tests/guest`, linked statically.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let target_dir = paths::cargo_target().join("guest");
    let mut command = build::cargo();
    command.args(["build", "--release", "-p", "guest", "--bin", name, "--target", TARGET]);
    command.arg("--target-dir").arg(&target_dir);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols");
    build::run_quietly(&mut command)?;
    Ok(target_dir.join(TARGET).join("release").join(name))
}

/// Puts the init into a tree that becomes an image.
pub(crate) fn install(tree: &Path, init: &Path) -> Result {
    let path = tree.join(INIT_PATH.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap_or(tree))?;
    fs::copy(init, &path)?;
    for directory in ["dev", "proc", "sys", "run", "tmp"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    Ok(())
}
