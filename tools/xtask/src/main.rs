//! Build, image and QEMU helpers, run as `cargo xtask`.

fn main() {}
