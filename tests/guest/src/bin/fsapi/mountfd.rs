//! Mounts as file descriptors: `open_tree(2)`, `move_mount(2)`, `fsopen(2)`, `fsconfig(2)`,
//! `fsmount(2)`, `fspick(2)`, and the messages read from a configuration's descriptor.

use crate::mounts::{mount, options, unmount};
use crate::{c, call, close, ok, open, show};

const CWD: usize = libc::AT_FDCWD as usize;
const F_EMPTY: usize = 4;
const CLONE: usize = 1;
const RECURSIVE: usize = 0x8000;
const EMPTY: usize = 0x1000;

fn open_tree(at: i32, path: &str, flags: usize) -> i32 {
    call(428, &[at as usize, c(path).as_ptr() as usize, flags]) as i32
}

fn move_mount(from: i32, from_path: &str, to: &str, flags: usize) -> i64 {
    let (from_path, to) = (c(from_path), c(to));
    let args = [from as usize, from_path.as_ptr() as usize, CWD, to.as_ptr() as usize, flags];
    call(429, &args)
}

fn fsopen(kind: &str, flags: usize) -> i32 {
    call(430, &[c(kind).as_ptr() as usize, flags]) as i32
}

fn config(fd: i32, command: usize, key: Option<&str>, value: Option<&str>, aux: i32) -> i64 {
    let (key, value) = (key.map(c), value.map(c));
    let address = |s: &Option<std::ffi::CString>| s.as_ref().map_or(0, |s| s.as_ptr() as usize);
    call(431, &[fd as usize, command, address(&key), address(&value), aux as usize])
}

fn fsmount(fd: i32, flags: usize, attributes: usize) -> i32 {
    call(432, &[fd as usize, flags, attributes]) as i32
}

fn fspick(path: &str, flags: usize) -> i32 {
    call(433, &[CWD, c(path).as_ptr() as usize, flags]) as i32
}

/// Reads messages until there are none.
fn messages(fd: i32) {
    for _ in 0..10 {
        let mut buffer = [0u8; 200];
        let got = call(libc::SYS_read, &[fd as usize, buffer.as_mut_ptr() as usize, buffer.len()]);
        if got < 0 {
            return show("  no message", got);
        }
        println!("  {:?}", String::from_utf8_lossy(&buffer[..got as usize]));
    }
}

fn name(at: i32, path: &str) {
    let link = std::fs::read_link(format!("/proc/self/fd/{at}")).unwrap();
    println!("  {path} is {:?}", link.file_name().unwrap_or_default());
}

/// All of it.
pub fn run() {
    show("unshare", call(libc::SYS_unshare, &[libc::CLONE_NEWNS as usize]));
    show("private", mount("", "/", "", libc::MS_REC | libc::MS_PRIVATE, ""));
    for name in ["a", "b", "c", "d", "a/dir"] {
        std::fs::create_dir(name).unwrap();
    }
    std::fs::write("file", b"x").unwrap();
    std::os::unix::fs::symlink("b", "link").unwrap();
    trees();
    contexts();
    configured();
    picked();
    crate::as_user(|| {
        ok("user open_tree", open_tree(CWD as i32, "a", 0).into());
        ok("user clones", open_tree(CWD as i32, "a", CLONE).into());
        ok("user moves", move_mount(CWD as i32, "a", "b", 0));
        ok("user fsopen", fsopen("tmpfs", 0).into());
        ok("user fsmount", fsmount(-1, 0, 0).into());
        ok("user fspick", fspick("a", 0).into());
    });
}

fn trees() {
    let cwd = CWD as i32;
    let plain = open_tree(cwd, "a", 0);
    ok("open_tree", plain.into());
    show("  flags", call(libc::SYS_fcntl, &[plain as usize, libc::F_GETFL as usize]));
    show("  descriptor flags", call(libc::SYS_fcntl, &[plain as usize, libc::F_GETFD as usize]));
    let mut byte = 0u8;
    ok("  read", call(libc::SYS_read, &[plain as usize, &raw mut byte as usize, 1]));
    for (what, path, flags) in [
        ("recursive without clone", "a", RECURSIVE),
        ("unknown flag", "a", 0x10),
        ("absent", "absent", 0),
        ("empty", "", 0),
        ("symlink not followed", "link", 0x100),
        ("a file", "file", 0),
        ("clone a symlink", "link", CLONE | 0x100),
    ] {
        let fd = open_tree(cwd, path, flags);
        ok(what, fd.into());
        close(fd);
    }
    ok("bad directory", open_tree(99, "a", 0).into());
    let copy = open_tree(plain, "", EMPTY | libc::O_CLOEXEC as usize);
    ok("by empty path", copy.into());
    show("  descriptor flags", call(libc::SYS_fcntl, &[copy as usize, libc::F_GETFD as usize]));
    ok("move what is no mount", move_mount(copy, "", "b", F_EMPTY));
    close(copy);
    close(plain);

    show("tmpfs", mount("none", "a", "tmpfs", 0, "size=1m"));
    std::fs::create_dir("a/sub").unwrap();
    std::fs::create_dir("a/deep").unwrap();
    show("tmpfs below", mount("none", "a/sub", "tmpfs", libc::MS_NOSUID, "size=1m"));
    std::fs::write("a/sub/inner", b"").unwrap();
    let one = open_tree(cwd, "a", CLONE);
    ok("clone", one.into());
    name(one, "clone");
    show("  flags", call(libc::SYS_fcntl, &[one as usize, libc::F_GETFL as usize]));
    let all = open_tree(cwd, "a", CLONE | RECURSIVE);
    ok("clone all", all.into());
    let path = c("sub/inner");
    for (what, fd) in [("one", one), ("all", all)] {
        let args = [fd as usize, path.as_ptr() as usize, 0, 0];
        ok(&format!("inner through {what}"), call(libc::SYS_openat, &args));
    }
    ok("create through it", {
        let path = c("made");
        call(libc::SYS_openat, &[one as usize, path.as_ptr() as usize, 0o101, 0o644])
    });
    println!("made: {}", std::path::Path::new("a/made").exists());
    ok("clone of a clone", open_tree(all, "", CLONE | EMPTY | RECURSIVE).into());
    ok("clone below a clone", open_tree(all, "sub", CLONE).into());
    ok("plain below a clone", open_tree(all, "sub", 0).into());
    ok("move below a clone", move_mount(all, "sub", "d", 0));
    ok("move a directory", move_mount(all, "deep", "b", 0));
    ok("without empty path", move_mount(all, "", "b", 0));
    ok("unknown flag", move_mount(all, "", "b", F_EMPTY | 8));
    ok("onto a file", move_mount(all, "", "file", F_EMPTY));
    ok("onto nothing", move_mount(all, "", "absent", F_EMPTY));
    ok("mount into a detached tree", {
        let (kind, path) = (c("tmpfs"), c(&format!("/proc/self/fd/{all}/deep")));
        let args = [0, path.as_ptr() as usize, kind.as_ptr() as usize, 0, 0];
        call(libc::SYS_mount, &args)
    });
    ok("unmount a detached tree", unmount(&format!("/proc/self/fd/{all}"), 2));
    ok("attach", move_mount(all, "", "b", F_EMPTY));
    options("b");
    options("b/sub");
    ok("attach again", move_mount(all, "", "c", F_EMPTY));
    println!("moved: {}", std::path::Path::new("c/sub/inner").exists());
    println!("left: {}", std::path::Path::new("b/sub/inner").exists());
    ok("by a link, not followed", move_mount(one, "", "link", F_EMPTY));
    ok("by a link", move_mount(one, "", "link", F_EMPTY | 0x10));
    options("b");
    ok("move by path", move_mount(cwd, "b", "d", 0));
    options("d");
    ok("into itself", move_mount(cwd, "c", "c/deep", 0));
    close(one);
    close(all);
    println!("still there: {}", std::path::Path::new("c/sub/inner").exists());
    let gone = open_tree(cwd, "a", CLONE | RECURSIVE);
    show("unmount the source", unmount("a/sub", 0));
    ok("kept by the clone", {
        let args = [gone as usize, path.as_ptr() as usize, 0, 0];
        let fd = call(libc::SYS_openat, &args);
        close(fd as i32);
        fd
    });
    close(gone);
    show("source is free", unmount("a", 0));
    let file = open_tree(cwd, "file", CLONE);
    ok("clone of a file", file.into());
    std::fs::write("file2", b"").unwrap();
    ok("attach a file", move_mount(file, "", "file2", F_EMPTY));
    println!("content: {:?}", std::fs::read_to_string("file2").unwrap());
    close(file);
    ok("unmount file", unmount("file2", 0));
    show("unbindable", mount("", "d", "", libc::MS_UNBINDABLE, ""));
    ok("clone unbindable", open_tree(cwd, "d", CLONE).into());
    show("shared", mount("", "d", "", libc::MS_SHARED, ""));
    let shared = open_tree(cwd, "d", CLONE);
    ok("attach a peer", move_mount(shared, "", "a", F_EMPTY));
    options("a");
    close(shared);
    for name in ["a", "c", "d"] {
        unmount(name, 2);
    }
}

fn contexts() {
    ok("fsopen flags", fsopen("tmpfs", 2).into());
    ok("fsopen null", call(430, &[0, 0]));
    ok("fsopen absent", fsopen("nosuchfs", 0).into());
    ok("fsopen empty", fsopen("", 0).into());
    let fd = fsopen("tmpfs", 1);
    ok("fsopen", fd.into());
    name(fd, "context");
    show("  flags", call(libc::SYS_fcntl, &[fd as usize, libc::F_GETFL as usize]));
    show("  descriptor flags", call(libc::SYS_fcntl, &[fd as usize, libc::F_GETFD as usize]));
    messages(fd);
    for (what, command, key, value, aux) in [
        ("flag without key", 0, None, None, 0),
        ("flag with value", 0, Some("ro"), Some("x"), 0),
        ("flag with aux", 0, Some("ro"), None, 1),
        ("string without value", 1, Some("size"), None, 0),
        ("string with aux", 1, Some("size"), Some("1m"), 1),
        ("binary without length", 2, Some("size"), Some("1m"), 0),
        ("binary too long", 2, Some("size"), Some("1m"), 0x10_0001),
        ("binary", 2, Some("size"), Some("1m"), 2),
        ("path without value", 3, Some("source"), None, 0),
        ("path", 3, Some("size"), Some("/"), libc::AT_FDCWD),
        ("absent path", 3, Some("size"), Some("/absent"), libc::AT_FDCWD),
        ("path, bad directory", 3, Some("size"), Some("absent"), -5),
        ("empty path", 4, Some("size"), Some(""), libc::AT_FDCWD),
        ("fd", 5, Some("size"), None, 0),
        ("fd with value", 5, Some("size"), Some("x"), 0),
        ("bad fd", 5, Some("size"), None, 99),
        ("negative fd", 5, Some("size"), None, -1),
        ("create with key", 6, Some("x"), None, 0),
        ("create with aux", 6, None, None, 1),
        ("reconfigure", 7, None, None, 0),
        ("unknown command", 9, None, None, 0),
        ("unknown option", 0, Some("nosuch"), None, 0),
        ("unknown option with value", 1, Some("nosuch"), Some("x"), 0),
        ("flag that needs a value", 0, Some("size"), None, 0),
        ("bad size", 1, Some("size"), Some("x"), 0),
        ("bad mode", 1, Some("mode"), Some("9"), 0),
        ("bad uid", 1, Some("uid"), Some("x"), 0),
        ("empty value", 1, Some("mode"), Some(""), 0),
        ("empty key", 1, Some(""), Some("x"), 0),
        ("size twice", 1, Some("size"), Some("2m"), 0),
        ("size twice", 1, Some("size"), Some("1m"), 0),
        ("source", 1, Some("source"), Some("origin"), 0),
        ("source twice", 1, Some("source"), Some("other"), 0),
        ("source as a flag", 0, Some("source"), None, 0),
        ("ro with a value", 1, Some("ro"), Some("1"), 0),
        ("ro", 0, Some("ro"), None, 0),
        ("rw", 0, Some("rw"), None, 0),
        ("sync", 0, Some("sync"), None, 0),
        ("nosuid is no option", 0, Some("nosuid"), None, 0),
        ("noatime is no option", 0, Some("noatime"), None, 0),
        ("huge", 1, Some("huge"), Some("never"), 0),
        ("bad huge", 1, Some("huge"), Some("perhaps"), 0),
    ] {
        show(what, config(fd, command, key, value, aux));
        messages(fd);
    }
    show("long key", config(fd, 0, Some(&"k".repeat(300)), None, 0));
    show("long value", config(fd, 1, Some("size"), Some(&"1".repeat(300)), 0));
    messages(fd);
    show("context is no context", config(0, 0, Some("ro"), None, 0));
    show("no descriptor", config(99, 0, Some("ro"), None, 0));
    show("negative descriptor", config(-1, 0, Some("ro"), None, 0));
    ok("mount before create", fsmount(fd, 0, 0).into());
    messages(fd);
    ok("create", config(fd, 6, None, None, 0));
    ok("create again", config(fd, 6, None, None, 0));
    ok("option after create", config(fd, 1, Some("size"), Some("1m"), 0));
    ok("reconfigure", config(fd, 7, None, None, 0));
    for (what, flags, attributes) in [
        ("fsmount flags", 2, 0),
        ("unknown attributes", 0, 0x100),
        ("both times", 0, 0x30),
        ("propagation", 0, libc::MS_SHARED as usize),
    ] {
        ok(what, fsmount(fd, flags, attributes).into());
    }
    ok("fsmount of no context", fsmount(0, 0, 0).into());
    ok("fsmount of nothing", fsmount(99, 0, 0).into());
    let mounted = fsmount(fd, 1, 0x2 | 0x8 | 0x10);
    ok("fsmount", mounted.into());
    name(mounted, "mount");
    show("  flags", call(libc::SYS_fcntl, &[mounted as usize, libc::F_GETFL as usize]));
    show("  descriptor flags", call(libc::SYS_fcntl, &[mounted as usize, libc::F_GETFD as usize]));
    messages(fd);
    ok("fsmount again", fsmount(fd, 0, 0).into());
    ok("option after mount", config(fd, 1, Some("size"), Some("2m"), 0));
    messages(fd);
    ok("reconfigure after mount", config(fd, 7, None, None, 0));
    messages(fd);
    let made = c("made");
    let args = [mounted as usize, made.as_ptr() as usize, 0o102, 0o644];
    close(ok("create a file", call(libc::SYS_openat, &args)) as i32);
    ok("attach", move_mount(mounted, "", "a", F_EMPTY));
    options("a");
    source("a");
    println!("made: {}", std::path::Path::new("a/made").exists());
    close(mounted);
    close(fd);
    ok("unmount", unmount("a", 0));
}

/// Source, type and the options of the file system.
fn source(target: &str) {
    let here = std::env::current_dir().unwrap().join(target);
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    for line in text.lines() {
        let (left, right) = line.split_once(" - ").unwrap();
        if std::path::Path::new(left.split(' ').nth(4).unwrap()) == here {
            // Linux 5.4 does not show this one.
            println!("{target}: {}", right.replace(",inode64", ""));
        }
    }
}

fn configured() {
    for (what, attributes) in [
        ("plain", 0),
        ("read-only", 1),
        ("nodev", 4),
        ("strict", 0x20),
        ("nodiratime", 0x80),
        ("nodiratime noatime", 0x90),
        ("all", 0x7f & !0x70 | 0x10),
    ] {
        let fd = fsopen("tmpfs", 0);
        ok(what, config(fd, 6, None, None, 0));
        let mounted = fsmount(fd, 0, attributes);
        ok("  mount", move_mount(mounted, "", "a", F_EMPTY));
        options("a");
        source("a");
        close(mounted);
        close(fd);
        ok("  unmount", unmount("a", 0));
    }
    let fd = fsopen("tmpfs", 0);
    ok("ro", config(fd, 0, Some("ro"), None, 0));
    ok("mode", config(fd, 1, Some("mode"), Some("700"), 0));
    ok("uid", config(fd, 1, Some("uid"), Some("5"), 0));
    ok("create", config(fd, 6, None, None, 0));
    let mounted = fsmount(fd, 0, 0);
    let made = c("made");
    let args = [mounted as usize, made.as_ptr() as usize, 0o102, 0o644];
    ok("create a file", call(libc::SYS_openat, &args));
    ok("attach", move_mount(mounted, "", "a", F_EMPTY));
    options("a");
    source("a");
    close(mounted);
    ok("unmount", unmount("a", 2));
    let fd = fsopen("ext4", 0);
    ok("ext4 without source", config(fd, 6, None, None, 0));
    messages(fd);
    ok("after a failure", config(fd, 1, Some("source"), Some("/dev/absent"), 0));
    messages(fd);
    close(fd);
    let fd = fsopen("ext4", 0);
    ok("absent source", config(fd, 1, Some("source"), Some("/dev/absent"), 0));
    ok("create", config(fd, 6, None, None, 0));
    messages(fd);
    close(fd);
    let fd = fsopen("proc", 0);
    ok("proc", config(fd, 6, None, None, 0));
    let mounted = fsmount(fd, 0, 0);
    let path = c("self/comm");
    ok("read proc", call(libc::SYS_openat, &[mounted as usize, path.as_ptr() as usize, 0, 0]));
    close(mounted);
    close(fd);
    let mut small = [0u8; 4];
    let fd = fsopen("tmpfs", 0);
    config(fd, 0, Some("nosuch"), None, 0);
    config(fd, 1, Some("mode"), Some("9"), 0);
    show("small buffer", call(libc::SYS_read, &[fd as usize, small.as_mut_ptr() as usize, 4]));
    messages(fd);
    for _ in 0..12 {
        config(fd, 0, Some("nosuch"), None, 0);
    }
    messages(fd);
    show("write", call(libc::SYS_write, &[fd as usize, small.as_ptr() as usize, 4]));
    close(fd);
}

fn picked() {
    show("tmpfs", mount("none", "a", "tmpfs", 0, "size=1m"));
    std::fs::create_dir("a/dir").unwrap();
    ok("fspick flags", fspick("a", 0x10).into());
    ok("fspick absent", fspick("absent", 0).into());
    ok("fspick no mount", fspick("b", 0).into());
    ok("fspick below", fspick("a/dir", 0).into());
    ok("fspick empty", fspick("", 0).into());
    let fd = fspick("a", 1);
    ok("fspick", fd.into());
    name(fd, "context");
    ok("create", config(fd, 6, None, None, 0));
    messages(fd);
    ok("size", config(fd, 1, Some("size"), Some("2m"), 0));
    ok("ro", config(fd, 0, Some("ro"), None, 0));
    ok("unknown", config(fd, 0, Some("nosuch"), None, 0));
    messages(fd);
    source("a");
    ok("reconfigure", config(fd, 7, None, None, 0));
    messages(fd);
    options("a");
    source("a");
    ok("write", open("a/x", libc::O_CREAT | libc::O_WRONLY, 0o644).into());
    ok("rw", config(fd, 0, Some("rw"), None, 0));
    ok("reconfigure again", config(fd, 7, None, None, 0));
    source("a");
    let held = open("a/x", libc::O_CREAT | libc::O_WRONLY, 0o644);
    ok("write", held.into());
    ok("ro", config(fd, 0, Some("ro"), None, 0));
    ok("reconfigure while written", config(fd, 7, None, None, 0));
    messages(fd);
    source("a");
    ok("after a failure", config(fd, 0, Some("rw"), None, 0));
    messages(fd);
    ok("fsmount of a picked one", fsmount(fd, 0, 0).into());
    close(held);
    close(fd);
    let fd = fspick("a", 0);
    ok("too small", config(fd, 1, Some("nr_inodes"), Some("1"), 0));
    ok("reconfigure", config(fd, 7, None, None, 0));
    close(fd);
    ok("unmount", unmount("a", 0));
}
