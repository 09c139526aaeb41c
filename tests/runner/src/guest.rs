//! Builds the guest programs, linked statically.

use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds crate `guest` and returns the folder that holds its programs alone.
pub(crate) fn build(work_dir: &Path) -> Result<PathBuf, String> {
    let target_dir = work_dir.join("guest-target");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest/Cargo.toml");
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--target", TARGET, "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target_dir)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .status()
        .map_err(|e| format!("cargo: {e}"))?;
    if !status.success() {
        return Err("the guest programs did not build".into());
    }
    let programs = work_dir.join("guest-bin");
    let _ = std::fs::remove_dir_all(&programs);
    std::fs::create_dir_all(&programs).map_err(|e| format!("{}: {e}", programs.display()))?;
    for name in
        ["microbench", "scaling", "hostile", "kernelapi", "fsapi", "mmapapi", "sockapi", "traceapi"]
    {
        let built = target_dir.join(TARGET).join("release").join(name);
        std::fs::copy(&built, programs.join(name))
            .map_err(|e| format!("{}: {e}", built.display()))?;
    }
    Ok(programs)
}
