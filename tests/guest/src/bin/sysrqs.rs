//! Process 1 of a machine whose console is sent breaks with keys: magic system requests.
//!
//! Says `@@KEY X@@` when the key X is to be sent, and what became of it after: processes that end, a
//! file system on `/dev/vda` that becomes read-only under open files.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::exit;
use std::time::Duration;

const DISK: &str = "/mnt";

fn main() {
    for (kind, source, place) in
        [("proc", "proc", "/proc"), ("devtmpfs", "dev", "/dev"), ("ext4", "/dev/vda", DISK)]
    {
        if !mount(kind, source, place) {
            println!("cannot mount {place}");
        }
    }
    let _ = fs::write("/proc/sys/kernel/sysrq", "1");
    ask('h');
    for key in ['7', 'l', 'p', 'm', 'q', 't', 'w', 'n', 's'] {
        ask(key);
    }
    signals();
    out_of_memory();
    read_only();
    mask();
    ask('b');
}

/// Asks for a key and gives it time.
fn ask(key: char) {
    println!("@@KEY {key}@@");
    std::thread::sleep(Duration::from_millis(700));
}

fn mount(kind: &str, source: &str, place: &str) -> bool {
    let _ = fs::create_dir(place);
    let strings = [kind, source, place].map(CString::new);
    let [Ok(kind), Ok(source), Ok(place)] = strings else { return false };
    // SAFETY: all strings end in NUL, and no options are given.
    let result =
        unsafe { libc::mount(source.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    result == 0
}

/// A child that does `f` and ends with its result.
fn child(f: impl FnOnce() -> i32) -> libc::pid_t {
    // SAFETY: the process has one thread.
    match unsafe { libc::fork() } {
        0 => exit(f()),
        pid => pid,
    }
}

fn pause() -> i32 {
    loop {
        std::thread::park();
    }
}

/// How a child ended: the signal, or 0.
fn signal_of(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: the pointer is to a local.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 }
}

fn signals() {
    let plain = child(pause);
    let stubborn = child(|| {
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
        pause()
    });
    std::thread::sleep(Duration::from_millis(200));
    ask('e');
    println!("plain ended by {}", signal_of(plain));
    ask('i');
    println!("stubborn ended by {}", signal_of(stubborn));
    let own = child(pause);
    ask('k');
    println!("with the terminal ended by {}", signal_of(own));
}

fn out_of_memory() {
    let large = child(pause);
    ask('f');
    println!("large ended by {}", signal_of(large));
}

fn open(name: &str) -> Option<File> {
    let mut options = OpenOptions::new();
    let path = format!("{DISK}/{name}");
    let file = options.read(true).write(true).create(true).truncate(true).open(&path);
    file.map_err(|error| println!("{path}: {error}")).ok()
}

fn read_only() {
    let (Some(mut kept), Some(gone)) = (open("kept"), open("gone")) else { return };
    for _ in 0..200 {
        let _ = kept.write_all(&[b'x'; 5000]);
    }
    let _ = gone.write_all_at(&[b'y'; 9000], 0);
    let _ = fs::remove_file(format!("{DISK}/gone"));
    let busy = child(|| {
        for number in 0u64.. {
            let path = format!("{DISK}/file{}", number % 50);
            if fs::write(&path, [b'z'; 3000]).is_err() {
                return 0;
            }
            if number % 3 == 0 {
                let _ = fs::remove_file(path);
            }
        }
        1
    });
    std::thread::sleep(Duration::from_millis(300));
    ask('u');
    println!("busy ended by {}", signal_of(busy));
    for _ in 0..100 {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        if mounts.contains("/mnt ext4 ro") {
            println!("mounted read-only");
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let refused = [
        kept.write_all(b"more"),
        gone.write_all_at(b"more", 0),
        kept.set_len(0),
        fs::write(format!("{DISK}/new"), "more"),
        fs::remove_file(format!("{DISK}/kept")),
    ];
    let count = refused
        .iter()
        .filter(|result| {
            result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EROFS))
        })
        .count();
    println!("refused {count} of 5");
}

fn mask() {
    let _ = fs::write("/proc/sys/kernel/sysrq", "128");
    ask('m');
    let _ = fs::write("/proc/sys/kernel/sysrq", "1");
}
