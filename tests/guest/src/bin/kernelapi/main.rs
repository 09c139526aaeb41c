//! Process-side interfaces of the kernel, one subcommand each. Every line printed is the same on
//! Linux: results, errno names and layouts, never an address or a time.

mod inotify;
mod rseq;
mod signals;
mod timers;
mod vdso;

/// Prints a result, or the errno's name.
pub fn show(what: &str, result: i64) {
    if result < 0 {
        println!("{what}: {}", errno_name());
    } else {
        println!("{what}: {result}");
    }
}

/// The symbolic name of `errno`.
pub fn errno_name() -> String {
    let number = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    let names = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EINTR, "EINTR"),
        (libc::EIO, "EIO"),
        (libc::EBADF, "EBADF"),
        (libc::ECHILD, "ECHILD"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EACCES, "EACCES"),
        (libc::EFAULT, "EFAULT"),
        (libc::EBUSY, "EBUSY"),
        (libc::EEXIST, "EEXIST"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EINVAL, "EINVAL"),
        (libc::EMFILE, "EMFILE"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EDEADLK, "EDEADLK"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::ETIMEDOUT, "ETIMEDOUT"),
        (libc::EOVERFLOW, "EOVERFLOW"),
    ];
    let known = names.iter().find(|(n, _)| *n == number).map(|(_, name)| (*name).to_string());
    known.unwrap_or_else(|| format!("errno {number}"))
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("inotify") => inotify::run(),
        Some("rseq") => rseq::run(),
        Some("rseq-fresh") => rseq::fresh(),
        Some("signalfd") => signals::run(),
        Some("timers") => timers::run(words.get(1).map_or("", String::as_str)),
        Some("vdso") => vdso::run(),
        Some("vsyscall") => vdso::vsyscall(),
        other => {
            eprintln!("kernelapi: no test {other:?}");
            std::process::exit(2);
        }
    }
}
