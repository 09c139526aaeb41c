//! signalfd: what can be read, when it is ready, how a record looks.

use crate::{errno_name, show};
use std::mem::zeroed;

/// The set of some signals.
pub fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: a signal set is plain data.
    unsafe {
        let mut set = zeroed();
        libc::sigemptyset(&mut set);
        for &signal in signals {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

/// Blocks some signals.
pub fn block(signals: &[i32]) {
    // SAFETY: a valid set.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set_of(signals), std::ptr::null_mut()) };
}

fn read(fd: i32, room: usize) -> Option<Vec<libc::signalfd_siginfo>> {
    // SAFETY: the records are plain data and there is room for them.
    unsafe {
        let mut records = vec![zeroed::<libc::signalfd_siginfo>(); room.max(1)];
        let len = room * size_of::<libc::signalfd_siginfo>();
        let got = libc::read(fd, records.as_mut_ptr().cast(), len);
        if got < 0 {
            println!("read: {}", errno_name());
            return None;
        }
        records.truncate(got as usize / size_of::<libc::signalfd_siginfo>());
        Some(records)
    }
}

fn show_records(what: &str, fd: i32, room: usize) {
    let own = std::process::id();
    for r in read(fd, room).unwrap_or_default() {
        let sender = if r.ssi_pid == own {
            "self"
        } else if r.ssi_pid == 0 {
            "none"
        } else {
            "other"
        };
        println!(
            "{what}: signal {} errno {} code {} from {sender} uid {} fd {} tid {} band {} overrun {} \
             status {} int {} ptr {:#x} addr {:#x}",
            r.ssi_signo,
            r.ssi_errno,
            r.ssi_code,
            r.ssi_uid,
            r.ssi_fd,
            r.ssi_tid,
            r.ssi_band,
            r.ssi_overrun,
            r.ssi_status,
            r.ssi_int,
            r.ssi_ptr,
            r.ssi_addr
        );
    }
}

fn ready(fd: i32, timeout_ms: i32) -> String {
    let mut entry = libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT, revents: 0 };
    // SAFETY: one valid entry.
    let count = unsafe { libc::poll(&mut entry, 1, timeout_ms) };
    format!("{count} {:#x}", entry.revents)
}

/// Runs everything.
pub fn run() {
    // SAFETY: system calls on local data.
    unsafe {
        let rt = libc::SIGRTMIN() + 2;
        block(&[libc::SIGUSR1, libc::SIGUSR2, libc::SIGCHLD, libc::SIGALRM, libc::SIGIO, rt]);
        let mask =
            set_of(&[libc::SIGUSR1, libc::SIGCHLD, libc::SIGALRM, libc::SIGIO, libc::SIGKILL, rt]);
        let raw = |fd: i64, size: usize, flags: i64| {
            libc::syscall(libc::SYS_signalfd4, fd, &raw const mask, size, flags)
        };
        show("wrong size", raw(-1, 4, 0));
        show("wrong flags", raw(-1, 8, 1));
        show("not a signalfd", raw(0, 8, 0));
        show("no descriptor", raw(99, 8, 0));
        let bad = libc::syscall(libc::SYS_signalfd4, -1, 8 as *const u8, 8usize, 0);
        show("bad mask", bad);
        let fd = libc::signalfd(-1, &mask, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        println!("flags: {} {:#o}", libc::fcntl(fd, libc::F_GETFD), libc::fcntl(fd, libc::F_GETFL));
        println!("link: {:?}", std::fs::read_link(format!("/proc/self/fd/{fd}")).ok());
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        println!("{:?}", info.lines().find(|l| l.starts_with("sigmask")));
        show_records("empty", fd, 1);
        show_records("no room", fd, 0);
        println!("idle: {}", ready(fd, 0));
        libc::kill(libc::getpid(), libc::SIGUSR1);
        libc::kill(libc::getpid(), libc::SIGUSR2);
        println!("pending: {}", ready(fd, 0));
        show_records("kill", fd, 4);
        println!("taken: {}", ready(fd, 0));
        libc::raise(libc::SIGUSR1);
        show_records("raise", fd, 4);
        for value in [7usize, 8] {
            let value = libc::sigval { sival_ptr: (0x1_0000_0000 | value) as *mut _ };
            libc::sigqueue(libc::getpid(), rt, value);
        }
        show_records("queue", fd, 1);
        show_records("queue", fd, 4);
        let child = libc::fork();
        if child == 0 {
            libc::_exit(3);
        }
        println!("child: {}", ready(fd, 5000));
        show_records("child", fd, 4);
        libc::waitpid(child, std::ptr::null_mut(), 0);
        // A new mask lets the other one through.
        show("change", (libc::signalfd(fd, &set_of(&[libc::SIGUSR2]), 0) - fd).into());
        println!("changed: {}", ready(fd, 0));
        show_records("other", fd, 4);

        // epoll, with the signal coming while it waits.
        libc::signalfd(fd, &mask, 0);
        let epoll = libc::epoll_create1(0);
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 42 };
        show("add", libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event).into());
        let mut found: [libc::epoll_event; 4] = zeroed();
        show("quiet", libc::epoll_wait(epoll, found.as_mut_ptr(), 4, 0).into());
        let main = libc::pthread_self();
        let sender = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            libc::pthread_kill(main, libc::SIGUSR1);
        });
        show("arrived", libc::epoll_wait(epoll, found.as_mut_ptr(), 4, 5000).into());
        println!("event {:#x} {}", { found[0].events }, { found[0].u64 });
        let _ = sender.join();
        show_records("thread", fd, 4);

        // A blocking read.
        libc::fcntl(fd, libc::F_SETFL, 0);
        libc::alarm(1);
        show_records("blocking", fd, 1);

        let mut ends = [0; 2];
        libc::pipe(ends.as_mut_ptr());
        libc::fcntl(ends[0], libc::F_SETOWN, libc::getpid());
        libc::fcntl(ends[0], libc::F_SETFL, libc::O_ASYNC);
        show("write to a signalfd", libc::write(fd, mask_ptr(&mask), 8) as i64);
    }
}

fn mask_ptr(mask: &libc::sigset_t) -> *const libc::c_void {
    std::ptr::from_ref(mask).cast()
}
