//! Interfaces of files and file systems, one subcommand each, run in a directory of the file system
//! under test. Every line printed is the same on Linux: a result or an errno, never an address, a
//! time or an inode number.

mod attributes;
mod files;
mod locks;
mod mountfd;
mod mounts;
mod names;
mod openat2;
mod userns;

use std::ffi::CString;

/// Prints a result, or minus the errno.
pub fn show(what: &str, result: i64) {
    if result < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        println!("{what}: -{errno}");
    } else {
        println!("{what}: {result}");
    }
}

/// Prints whether a call worked, or minus the errno; returns the result.
pub fn ok(what: &str, result: i64) -> i64 {
    show(what, if result < 0 { result } else { 0 });
    result
}

/// A C string.
pub fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// `syscall(2)` with up to six words.
pub fn call(number: libc::c_long, args: &[usize]) -> i64 {
    let word = |at: usize| args.get(at).copied().unwrap_or(0);
    // SAFETY: the callers pass pointers to live memory of the size the call wants, or null, or what
    // they want to see refused.
    unsafe { libc::syscall(number, word(0), word(1), word(2), word(3), word(4), word(5)) }
}

/// `openat(2)` in the working directory; the descriptor or -1.
pub fn open(path: &str, flags: i32, mode: u32) -> i32 {
    let at = libc::AT_FDCWD as usize;
    let path = c(path);
    call(libc::SYS_openat, &[at, path.as_ptr() as usize, flags as usize, mode as usize]) as i32
}

/// `close(2)`.
pub fn close(fd: i32) {
    call(libc::SYS_close, &[fd as usize]);
}

/// Makes a file with these bytes.
pub fn fill(path: &str, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

/// Runs `body` in a child process as user and group 1000 without capabilities.
pub fn as_user(body: impl FnOnce()) {
    // SAFETY: the program has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: calls without pointers but an empty list.
        unsafe {
            libc::setgroups(0, std::ptr::null());
            libc::setresgid(1000, 1000, 1000);
            libc::setresuid(1000, 1000, 1000);
        }
        body();
        // What was printed must not be lost or printed twice.
        std::io::Write::flush(&mut std::io::stdout()).unwrap();
        std::process::exit(0);
    }
    let mut status = 0;
    // SAFETY: a pointer to a live word.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    if status != 0 {
        println!("child ended with {status:x}");
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [test, place] = &words[..] else {
        eprintln!("usage: fsapi TEST DIRECTORY");
        std::process::exit(2);
    };
    let _ = std::fs::remove_dir_all(place);
    std::fs::create_dir_all(place).unwrap();
    std::env::set_current_dir(place).unwrap();
    // SAFETY: no pointers.
    unsafe { libc::umask(0o022) };
    match test.as_str() {
        "names" => names::run(),
        "rename" => names::rename(),
        "openat2" => openat2::run(),
        "files" => files::run(),
        "space" => files::space(),
        "locks" => locks::run(),
        "attributes" => attributes::run(),
        "acl" => attributes::acl(),
        "flags" => attributes::flags(),
        "mounts" => mounts::run(),
        "mountfd" => mountfd::run(),
        "userns" => userns::run(),
        other => {
            eprintln!("fsapi: no test {other}");
            std::process::exit(2);
        }
    }
    std::env::set_current_dir("/").unwrap();
    let _ = std::fs::remove_dir_all(place);
}
