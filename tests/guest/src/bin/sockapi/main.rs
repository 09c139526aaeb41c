//! Sockets with messages: descriptors, credentials, several messages at a time, one subcommand each.
//! Every line printed is the same on Linux.

mod cycles;
mod message;
mod storm;

use message::{Control, Received, names, recv, send};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Two connected sockets.
pub fn pair(kind: i32) -> [OwnedFd; 2] {
    let mut fds = [-1; 2];
    // SAFETY: room for two descriptors, which are ours then.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) };
    assert_eq!(made, 0, "socketpair: {}", errno_name());
    // SAFETY: just made.
    fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A pipe: the end to read, the end to write.
pub fn pipe() -> [OwnedFd; 2] {
    let mut fds = [-1; 2];
    // SAFETY: room for two descriptors, which are ours then.
    assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_NONBLOCK) }, 0);
    // SAFETY: just made.
    fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The symbolic name of `errno`.
pub fn errno_name() -> String {
    let number = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    let known = [
        (libc::EPERM, "EPERM"),
        (libc::ESRCH, "ESRCH"),
        (libc::EBADF, "EBADF"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::EFAULT, "EFAULT"),
        (libc::EINVAL, "EINVAL"),
        (libc::EMFILE, "EMFILE"),
        (libc::EPIPE, "EPIPE"),
        (libc::EMSGSIZE, "EMSGSIZE"),
        (libc::ENOBUFS, "ENOBUFS"),
        (libc::ENOTCONN, "ENOTCONN"),
        (libc::ETOOMANYREFS, "ETOOMANYREFS"),
        (libc::ECONNRESET, "ECONNRESET"),
    ];
    let name = known.iter().find(|(value, _)| *value == number).map(|(_, name)| *name);
    name.map_or_else(|| format!("errno {number}"), str::to_owned)
}

/// Prints a result, or the errno's name.
pub fn show(what: &str, result: isize) {
    if result < 0 {
        println!("{what}: {}", errno_name());
    } else {
        println!("{what}: {result}");
    }
}

/// Switches an option of `SOL_SOCKET`.
pub fn set(fd: &OwnedFd, option: i32, value: i32) {
    let at = std::ptr::from_ref(&value).cast();
    // SAFETY: four bytes.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, at, 4) };
    assert_eq!(result, 0, "setsockopt: {}", errno_name());
}

/// Prints what came: descriptors are closed.
fn tell(what: &str, received: &Received) {
    if received.count < 0 {
        println!("{what}: {}", received.error);
        return;
    }
    let text = String::from_utf8_lossy(&received.data);
    println!("{what}: {} {text:?} flags {}", received.count, names(received.flags));
    println!("  control {} descriptors {}", received.control_len, received.fds.len());
    if let Some(cred) = received.cred {
        // SAFETY: no pointers.
        let own = unsafe { libc::getpid() };
        println!(
            "  own pid {} pid 0 {} uid {} gid {}",
            cred.pid == own,
            cred.pid == 0,
            cred.uid,
            cred.gid
        );
    }
}

fn rights() {
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        println!("type {kind}");
        let [a, b] = pair(kind);
        let [reader, writer] = pipe();
        show("send", send(&a, b"with", &[Control::Rights(vec![writer.as_raw_fd()])], 0));
        show("send", send(&a, b"plain", &[], 0));
        drop(writer);
        let got = recv(&b, 100, 256, 0);
        tell("recv", &got);
        for fd in &got.fds {
            // SAFETY: one byte of a string.
            show("write", unsafe { libc::write(fd.as_raw_fd(), b"x".as_ptr().cast(), 1) });
        }
        drop(got);
        let mut bytes = [0u8; 4];
        // SAFETY: four bytes.
        show("pipe", unsafe { libc::read(reader.as_raw_fd(), bytes.as_mut_ptr().cast(), 4) });
        // SAFETY: four bytes.
        show("pipe", unsafe { libc::read(reader.as_raw_fd(), bytes.as_mut_ptr().cast(), 4) });
        tell("rest", &recv(&b, 100, 256, libc::MSG_DONTWAIT));

        let three = || vec![reader.as_raw_fd(), 0, 1];
        for room in [0, 8, 16, 20, 24, 28, 32, 100] {
            show("send", send(&a, b"three", &[Control::Rights(three())], 0));
            tell(&format!("room {room}"), &recv(&b, 100, room, 0));
        }
        show(
            "two messages",
            send(&a, b"two", &[Control::Rights(three()), Control::Rights(vec![0])], 0),
        );
        tell("peek", &recv(&b, 100, 256, libc::MSG_PEEK));
        tell("recv", &recv(&b, 1, 256, libc::MSG_CMSG_CLOEXEC));
        tell("recv", &recv(&b, 100, 256, libc::MSG_DONTWAIT));
        show("plain", send(&a, b"one", &[], 0));
        show("plain", send(&a, b"two", &[], 0));
        show("rights", send(&a, b"three", &[Control::Rights(vec![0])], 0));
        show("plain", send(&a, b"four", &[], 0));
        show("rights", send(&a, b"five", &[Control::Rights(vec![0])], 0));
        for _ in 0..6 {
            tell("recv", &recv(&b, 100, 256, libc::MSG_DONTWAIT));
        }
        show("bad", send(&a, b"x", &[Control::Rights(vec![0, 999])], 0));
        show("none", send(&a, b"x", &[Control::Rights(vec![])], 0));
        tell("recv", &recv(&b, 100, 256, libc::MSG_DONTWAIT));
        show("empty", send(&a, b"", &[Control::Rights(vec![0])], 0));
        tell("recv", &recv(&b, 100, 256, libc::MSG_DONTWAIT));
        show("raw", send(&a, b"x", &[Control::Raw { level: 1, kind: 77, data: vec![0; 4] }], 0));
        show("level", send(&a, b"x", &[Control::Raw { level: 5, kind: 1, data: vec![0; 4] }], 0));
        show("odd", send(&a, b"x", &[Control::Raw { level: 1, kind: 1, data: vec![0; 7] }], 0));
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn limits() {
    let [a, b] = pair(libc::SOCK_STREAM);
    for count in [253, 254] {
        show(&format!("{count}"), send(&a, b"x", &[Control::Rights(vec![0; count])], 0));
    }
    let before = open_descriptors();
    let got = recv(&b, 10, 4096, 0);
    println!("{} more {}", got.fds.len(), open_descriptors() - before);
    drop(got);
    println!("back {}", open_descriptors() == before);
    // A limit on the receiver.
    let limit = libc::rlimit { rlim_cur: 20, rlim_max: 1000 };
    // SAFETY: a valid structure.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    show("30", send(&a, b"x", &[Control::Rights(vec![0; 30])], 0));
    let room = 20 - open_descriptors() + 1;
    let got = recv(&b, 10, 4096, 0);
    println!("some {} flags {}", got.fds.len() == room, names(got.flags));
    drop(got);
    // A limit on the sender, without privilege.
    // SAFETY: no pointers.
    unsafe {
        libc::setgid(99);
        libc::setuid(99);
    }
    for _ in 0..8 {
        show("10", send(&a, b"x", &[Control::Rights(vec![0; 10])], libc::MSG_DONTWAIT));
    }
    drop(b);
    std::thread::sleep(std::time::Duration::from_millis(100));
    let [c, _d] = pair(libc::SOCK_DGRAM);
    show("again", send(&c, b"x", &[Control::Rights(vec![0; 10])], libc::MSG_DONTWAIT));
}

fn credentials() {
    // SAFETY: no pointers.
    let (pid, uid, gid) = unsafe { (libc::getpid(), libc::getuid(), libc::getgid()) };
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        println!("type {kind}");
        let [a, b] = pair(kind);
        show("before", send(&a, b"before", &[], 0));
        set(&b, libc::SO_PASSCRED, 1);
        show("after", send(&a, b"after", &[], 0));
        let own = libc::ucred { pid, uid, gid };
        let other = libc::ucred { pid, uid: 5, gid: 6 };
        show("own", send(&a, b"own", &[Control::Credentials(own)], 0));
        show("other", send(&a, b"other", &[Control::Credentials(other)], 0));
        show("other", send(&a, b"again", &[Control::Credentials(other)], 0));
        show("both", send(&a, b"both", &[Control::Credentials(own), Control::Rights(vec![0])], 0));
        for _ in 0..7 {
            tell("recv", &recv(&b, 100, 256, libc::MSG_DONTWAIT));
        }
        let nobody = libc::ucred { pid: 999_999, uid, gid };
        show("no such", send(&a, b"x", &[Control::Credentials(nobody)], 0));
        show("short", send(&a, b"x", &[Control::Raw { level: 1, kind: 2, data: vec![0; 8] }], 0));
        show("room", send(&a, b"room", &[], 0));
        tell("small", &recv(&b, 100, 20, libc::MSG_DONTWAIT));
        show("none", send(&a, b"none", &[], 0));
        tell("none", &recv(&b, 100, 0, libc::MSG_DONTWAIT));
    }
    // SAFETY: no pointers.
    unsafe {
        libc::setgid(98);
        libc::setuid(99);
    }
    let [a, b] = pair(libc::SOCK_DGRAM);
    set(&b, libc::SO_PASSCRED, 1);
    for (pid, uid, gid) in [(pid, 99, 98), (pid, 0, 98), (pid, 99, 0), (1, 99, 98)] {
        let cred = libc::ucred { pid, uid, gid };
        show("claim", send(&a, b"x", &[Control::Credentials(cred)], 0));
    }
    tell("recv", &recv(&b, 100, 256, libc::MSG_DONTWAIT));
}

fn messages() {
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
        println!("type {kind}");
        let [a, b] = pair(kind);
        message::many(&a, &b);
    }
    message::odd_headers(&pair(libc::SOCK_DGRAM));
}

fn main() {
    let word = std::env::args().nth(1);
    match word.as_deref() {
        Some("rights") => rights(),
        Some("limits") => limits(),
        Some("credentials") => credentials(),
        Some("messages") => messages(),
        Some("cycles") => cycles::run(),
        Some("storm") => storm::run(),
        other => {
            eprintln!("what to do? {other:?}");
            std::process::exit(2);
        }
    }
}

/// The descriptor number of what is borrowed.
pub fn raw(fd: &OwnedFd) -> RawFd {
    fd.as_raw_fd()
}
