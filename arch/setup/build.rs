//! Links the setup code at zero, as the flat block that becomes the head of the bzImage.

use std::{env, path::PathBuf};

fn main() {
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let script =
            PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("setup.ld");
        println!("cargo:rerun-if-changed={}", script.display());
        for arg in
            [&format!("-T{}", script.display()) as &str, "--no-pie", "-znorelro", "--build-id=none"]
        {
            println!("cargo:rustc-link-arg-bins={arg}");
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
}
