//! `openat2(2)`: restrictions of the walk, and arguments.

use crate::{c, call, close, fill, ok, show};

const OPENAT2: libc::c_long = 437;
const NO_XDEV: u64 = 1;
const NO_MAGICLINKS: u64 = 2;
const NO_SYMLINKS: u64 = 4;
const BENEATH: u64 = 8;
const IN_ROOT: u64 = 16;

fn open(path: &str, flags: u64, mode: u64, resolve: u64) -> i64 {
    let how = [flags, mode, resolve];
    let path = c(path);
    let args = [libc::AT_FDCWD as usize, path.as_ptr() as usize, how.as_ptr() as usize, 24];
    call(OPENAT2, &args)
}

/// All of it.
pub fn run() {
    std::fs::create_dir_all("d/e").unwrap();
    fill("d/f", b"");
    fill("outside", b"");
    for (target, path) in [
        ("f", "d/rel"),
        ("/etc/passwd", "d/abs"),
        ("../outside", "d/up"),
        ("/proc/self/root", "d/magic"),
        ("e/../f", "d/dots"),
    ] {
        std::os::unix::fs::symlink(target, path).unwrap();
    }
    std::env::set_current_dir("d").unwrap();
    for resolve in [0, NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT] {
        for path in [
            "f",
            "rel",
            "abs",
            "up",
            "magic",
            "dots",
            "..",
            "../outside",
            "e/..",
            "e/../..",
            "/f",
            "/",
            "/proc/self/exe",
            "/proc/self/status",
            "/dev/null",
        ] {
            let fd = open(path, libc::O_RDONLY as u64, 0, resolve);
            ok(&format!("{path} {resolve:x}"), fd);
            if fd >= 0 {
                close(fd as i32);
            }
        }
    }
    ok("both roots", open("f", 0, 0, BENEATH | IN_ROOT));
    ok("unknown resolve", open("f", 0, 0, 1 << 20));
    ok("unknown flag", open("f", 1 << 40, 0, 0));
    ok("mode without create", open("f", 0, 0o600, 0));
    ok("mode too wide", open("n", libc::O_CREAT as u64, 0o100_600, 0));
    ok("path and write", open("f", (libc::O_PATH | libc::O_TRUNC) as u64, 0, 0));
    let how = [0u64; 5];
    let path = c("f");
    for size in [0usize, 8, 23, 24, 32, 40] {
        let args = [libc::AT_FDCWD as usize, path.as_ptr() as usize, how.as_ptr() as usize, size];
        ok(&format!("size {size}"), call(OPENAT2, &args));
    }
    let how = [0u64, 0, 0, 1, 0];
    let args = [libc::AT_FDCWD as usize, path.as_ptr() as usize, how.as_ptr() as usize, 32];
    show("unknown field", call(OPENAT2, &args));
    std::env::set_current_dir("..").unwrap();
}
