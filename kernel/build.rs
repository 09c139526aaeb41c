//! Hands the linker script to the linker when the image itself is built.

use std::{env, path::PathBuf};

fn main() {
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let script =
            PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("link.ld");
        println!("cargo:rerun-if-changed={}", script.display());
        for arg in [
            &format!("-T{}", script.display()) as &str,
            "-z",
            "norelro",
            "-z",
            "max-page-size=4096",
            "--no-rosegment",
            "--build-id=none",
            "--pack-dyn-relocs=none",
            "--gc-sections",
        ] {
            println!("cargo:rustc-link-arg-bins={arg}");
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
}
