//! inotify: every event, in order, with names and cookies.

use crate::show;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;

const NAMES: [(u32, &str); 16] = [
    (0x1, "ACCESS"),
    (0x2, "MODIFY"),
    (0x4, "ATTRIB"),
    (0x8, "CLOSE_WRITE"),
    (0x10, "CLOSE_NOWRITE"),
    (0x20, "OPEN"),
    (0x40, "MOVED_FROM"),
    (0x80, "MOVED_TO"),
    (0x100, "CREATE"),
    (0x200, "DELETE"),
    (0x400, "DELETE_SELF"),
    (0x800, "MOVE_SELF"),
    (0x2000, "UNMOUNT"),
    (0x4000, "Q_OVERFLOW"),
    (0x8000, "IGNORED"),
    (0x4000_0000, "ISDIR"),
];

fn add(fd: i32, path: &str, mask: u32) -> i32 {
    let path = CString::new(path).unwrap_or_default();
    // SAFETY: a valid string.
    unsafe { libc::inotify_add_watch(fd, path.as_ptr(), mask) }
}

/// Prints what is queued; cookies as the order in which they were first seen.
fn drain(what: &str, fd: i32) {
    println!("-- {what}");
    let mut cookies: Vec<u32> = vec![0];
    let mut buffer = vec![0u8; 65536];
    loop {
        // SAFETY: a valid buffer.
        let got = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
        if got <= 0 {
            return;
        }
        let mut at = 0;
        while at < got as usize {
            let word = |n: usize| {
                let bytes = [0, 1, 2, 3].map(|i| buffer[at + n * 4 + i]);
                u32::from_ne_bytes(bytes)
            };
            let (wd, mask, cookie, len) = (word(0) as i32, word(1), word(2), word(3) as usize);
            if !cookies.contains(&cookie) {
                cookies.push(cookie);
            }
            let number = cookies.iter().position(|c| *c == cookie).unwrap_or(0);
            let name = &buffer[at + 16..at + 16 + len];
            let name: String = name.iter().take_while(|b| **b != 0).map(|b| *b as char).collect();
            let words: Vec<&str> =
                NAMES.iter().filter(|(bit, _)| mask & bit != 0).map(|(_, n)| *n).collect();
            println!("{wd} {} cookie {number} len {len} {name}", words.join("|"));
            at += 16 + len;
        }
    }
}

fn touch(path: &str) {
    let _ = fs::write(path, b"x");
}

/// Runs everything in the working directory.
pub fn run() {
    const ALL: u32 = 0xfff;
    // SAFETY: system calls on local data.
    unsafe {
        show("flags", libc::inotify_init1(1).into());
        let fd = libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC);
        println!(
            "flags {:#o} link {:?}",
            libc::fcntl(fd, libc::F_GETFL),
            fs::read_link(format!("/proc/self/fd/{fd}")).ok()
        );
        let _ = fs::create_dir("d");
        let _ = fs::create_dir("e");
        touch("f");
        let _ = std::os::unix::fs::symlink("f", "l");
        show("nothing", add(fd, "d", 0).into());
        show("unknown bits", add(fd, "d", 0x0010_0000).into());
        show("missing", add(fd, "none", ALL).into());
        show("not a directory", add(fd, "f", ALL | libc::IN_ONLYDIR).into());
        show("not inotify", add(0, "f", ALL).into());
        show("bad descriptor", add(99, "f", ALL).into());
        show("both", add(fd, "f", ALL | 0x3000_0000).into());
        show("dir", add(fd, "d", ALL).into());
        show("file", add(fd, "f", ALL).into());
        show("by link", add(fd, "l", ALL).into());
        show("link itself", add(fd, "l", ALL | libc::IN_DONT_FOLLOW).into());
        show("create again", add(fd, "d", ALL | 0x1000_0000).into());
        show("other", add(fd, "e", ALL).into());
        let mut byte = [0u8; 4];
        show("read nothing", libc::read(fd, byte.as_mut_ptr().cast(), 4) as i64);
        touch("d/new");
        show("small buffer", libc::read(fd, byte.as_mut_ptr().cast(), 4) as i64);
        let mut bytes = 0i32;
        libc::ioctl(fd, libc::FIONREAD, &mut bytes);
        println!("bytes {bytes}");
        drain("create and write", fd);
        if let Ok(mut file) = File::open("d/new") {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            libc::fchmod(file.as_raw_fd(), 0o600);
        }
        drain("read and chmod", fd);
        let _ = fs::create_dir("d/sub");
        let _ = fs::read_dir("d").map(|d| d.count());
        drain("mkdir and list", fd);
        let _ = fs::rename("d/new", "d/old");
        let _ = fs::rename("d/old", "e/moved");
        let _ = fs::rename("d/sub", "e/sub");
        touch("d/a");
        drain("rename", fd);
        let _ = fs::rename("d/a", "e/moved");
        drain("replace", fd);
        let _ = fs::hard_link("e/moved", "d/link");
        let _ = fs::remove_file("d/link");
        drain("link and unlink", fd);
        let _ = fs::rename("e", "e2");
        drain("move the directory", fd);
        if let Ok(mut file) = File::options().append(true).open("f") {
            let _ = file.write_all(b"more");
            let _ = file.set_len(1);
            let _ = fs::remove_file("f");
            drain("open and removed", fd);
            let _ = file.write_all(b"again");
        }
        drain("closed", fd);
        let _ = fs::remove_file("l");
        drain("link removed", fd);
        let _ = fs::remove_dir_all("d");
        drain("directory removed", fd);
        show("gone watch", libc::inotify_rm_watch(fd, 1).into());
        show("unwatch", libc::inotify_rm_watch(fd, 4).into());
        show("again", libc::inotify_rm_watch(fd, 4).into());
        drain("unwatched", fd);
        touch("g");
        show("once", add(fd, "g", libc::IN_OPEN | libc::IN_ONESHOT).into());
        touch("g");
        touch("g");
        drain("once", fd);
        show("masks", add(fd, "g", libc::IN_OPEN).into());
        show("more", add(fd, "g", libc::IN_CLOSE_WRITE | libc::IN_MASK_ADD).into());
        touch("g");
        drain("masks", fd);
        show("less", add(fd, "g", libc::IN_CLOSE_WRITE).into());
        touch("g");
        drain("less", fd);
        let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        show("quiet", libc::poll(&mut entry, 1, 0).into());
        let writer = std::thread::spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            touch("g");
        });
        println!("woken {} {:#x}", libc::poll(&mut entry, 1, 5000), entry.revents);
        let _ = writer.join();
        drain("woken", fd);
        for name in ["max_queued_events", "max_user_instances"] {
            let value = fs::read_to_string(format!("/proc/sys/fs/inotify/{name}"));
            println!("{name} {:?}", value.ok());
        }
        let _ = fs::write("/proc/sys/fs/inotify/max_queued_events", "4");
        let small = libc::inotify_init1(libc::IN_NONBLOCK);
        show("small queue", add(small, ".", libc::IN_CREATE).into());
        for n in 0..8 {
            touch(&format!("many{n}"));
        }
        drain("overflow", small);
        let _ = fs::write("/proc/sys/fs/inotify/max_queued_events", "16384");
    }
}
