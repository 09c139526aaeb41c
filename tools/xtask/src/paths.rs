//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the project.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn cargo_target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => project().join(dir),
        None => project().join("target"),
    }
}

/// Where the products go: `target/vmlinuz` is part of the build's contract.
pub(crate) fn output() -> PathBuf {
    cargo_target()
}
