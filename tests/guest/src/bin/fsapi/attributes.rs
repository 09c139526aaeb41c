//! Extended attributes, access control lists, inode flags, times, `statx`.

use crate::{as_user, c, call, close, fill, ok, open, show};

const CWD: usize = libc::AT_FDCWD as usize;

fn set(path: &str, name: &str, value: &[u8], flags: usize) -> i64 {
    let (path, name) = (c(path), c(name));
    let (path, name) = (path.as_ptr() as usize, name.as_ptr() as usize);
    call(libc::SYS_lsetxattr, &[path, name, value.as_ptr() as usize, value.len(), flags])
}

fn get(path: &str, name: &str, size: usize) -> i64 {
    let (path, name) = (c(path), c(name));
    let mut buffer = vec![0u8; size.max(1)];
    let at = buffer.as_mut_ptr() as usize;
    call(libc::SYS_lgetxattr, &[path.as_ptr() as usize, name.as_ptr() as usize, at, size])
}

fn remove(path: &str, name: &str) -> i64 {
    let (path, name) = (c(path), c(name));
    call(libc::SYS_lremovexattr, &[path.as_ptr() as usize, name.as_ptr() as usize])
}

fn list(path: &str) {
    let mut buffer = vec![0u8; 4096];
    let path = c(path);
    let args = [path.as_ptr() as usize, buffer.as_mut_ptr() as usize, buffer.len()];
    let count = call(libc::SYS_llistxattr, &args);
    if count < 0 {
        return show("list", count);
    }
    let text = String::from_utf8_lossy(&buffer[..count as usize]).into_owned();
    let mut names: Vec<&str> = text.split_terminator('\0').collect();
    names.sort_unstable();
    println!("list {names:?}");
}

/// Name spaces, sizes, flags, permission.
pub fn run() {
    fill("f", b"");
    std::fs::create_dir("d").unwrap();
    std::os::unix::fs::symlink("f", "l").unwrap();
    for (path, name, len, flags) in [
        ("f", "user.a", 5, 0),
        ("f", "user.a", 6, 1),
        ("f", "user.b", 6, 2),
        ("f", "user.a", 7, 2),
        ("f", "user.a", 7, 3),
        ("f", "user.a", 7, 4),
        ("f", "user.", 1, 0),
        ("f", "user", 1, 0),
        ("f", "", 1, 0),
        ("f", "other.a", 1, 0),
        ("f", "trusted.t", 3, 0),
        ("f", "security.s", 3, 0),
        ("f", "system.x", 3, 0),
        ("l", "user.a", 1, 0),
        ("l", "trusted.a", 1, 0),
        ("d", "user.a", 1, 0),
        ("f", "user.empty", 0, 0),
        ("f", "user.big", 3000, 0),
        ("f", "user.huge", 65537, 0),
        ("absent", "user.a", 1, 0),
    ] {
        show(&format!("set {path} {name} {len} {flags}"), set(path, name, &vec![b'v'; len], flags));
    }
    let long = format!("user.{}", "n".repeat(250));
    show("name of 255", set("f", &long, b"x", 0));
    show("name of 256", set("f", &format!("{long}n"), b"x", 0));
    list("f");
    for (name, size) in [
        ("user.a", 100),
        ("user.a", 0),
        ("user.a", 3),
        ("user.none", 9),
        ("user.empty", 9),
        ("bad", 9),
        ("user.big", 4000),
    ] {
        show(&format!("get {name} {size}"), get("f", name, size));
    }
    for name in ["user.a", "user.a", "user.", "trusted.t", "nothing"] {
        show(&format!("remove {name}"), remove("f", name));
    }
    set("f", "trusted.t", b"t", 0);
    call(libc::SYS_chmod, &[c("f").as_ptr() as usize, 0o644]);
    as_user(|| {
        show("user set", set("f", "user.u", b"x", 0));
        show("user get", get("f", "user.empty", 9));
        show("user trusted", get("f", "trusted.t", 9));
        show("user set trusted", set("f", "trusted.t", b"x", 0));
        show("user security", get("f", "security.s", 9));
        list("f");
    });
    for at in 0..200 {
        if set("f", &format!("user.many{at}"), &[0; 100], 0) < 0 {
            show("many", -1);
            break;
        }
    }
    times();
}

fn times() {
    let stamp = |what: &str, times: &[i64; 4], path: &str| {
        let path = c(path);
        let args = [CWD, path.as_ptr() as usize, times.as_ptr() as usize, 0];
        show(what, call(libc::SYS_utimensat, &args));
    };
    let (now, omit) = ((1 << 30) - 1, (1 << 30) - 2);
    for times in [
        [1, 1, 2, 999_999_999],
        [-5, 7, 5_000_000_000, 8],
        [0, 1_000_000_000, 0, 0],
        [0, -1, 0, 0],
        [9, omit, 9, omit],
        [3, omit, 4, 4],
    ] {
        stamp(&format!("{times:?}"), &times, "f");
        let mut info = std::mem::MaybeUninit::<libc::stat>::zeroed();
        call(libc::SYS_stat, &[c("f").as_ptr() as usize, info.as_mut_ptr() as usize]);
        // SAFETY: zeroed, and filled by the call.
        let info = unsafe { info.assume_init() };
        println!(
            "{}.{} {}.{}",
            info.st_atime, info.st_atime_nsec, info.st_mtime, info.st_mtime_nsec
        );
    }
    stamp("absent", &[0, now, 0, now], "absent");
    as_user(|| {
        stamp("user now", &[0, now, 0, now], "f");
        stamp("user set", &[1, 1, 1, 1], "f");
    });
    let mut words = [0u64; 32];
    for (what, flags, mask) in [
        ("basic", 0, 0x7ff),
        ("all", 0, 0xfff),
        ("reserved", 0, 0x8000_0000),
        ("flags", 1 << 20, 0),
    ] {
        let path = c("f");
        let at = words.as_mut_ptr() as usize;
        let args = [CWD, path.as_ptr() as usize, flags, mask, at];
        show(what, call(libc::SYS_statx, &args));
        println!(
            "mask {:x} attributes {:x}",
            words[0] as u32 & mask as u32 & 0xfff,
            words[1] & 0x70
        );
    }
}

const OWNER: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const MASK: u16 = 16;
const OTHER: u16 = 32;

fn acl_bytes(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    for (tag, perm, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&perm.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn mode(path: &str) -> u32 {
    std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path).unwrap())
}

/// Access control lists: what is accepted, what they grant, how they follow the mode.
pub fn acl() {
    const ACCESS: &str = "system.posix_acl_access";
    const DEFAULT: &str = "system.posix_acl_default";
    fill("f", b"text");
    let none = u32::MAX;
    let full = acl_bytes(&[
        (OWNER, 6, none),
        (USER, 6, 1000),
        (GROUP_OBJ, 4, none),
        (MASK, 6, none),
        (OTHER, 0, none),
    ]);
    show("set", set("f", ACCESS, &full, 0));
    println!("mode {:o}", mode("f"));
    show("size", get("f", ACCESS, 200));
    list("f");
    as_user(|| show("write", i64::from(open("f", libc::O_RDWR, 0) >= 0)));
    call(libc::SYS_chmod, &[c("f").as_ptr() as usize, 0o600]);
    println!("mode {:o}", mode("f"));
    show("size", get("f", ACCESS, 200));
    as_user(|| {
        show("masked read", i64::from(open("f", libc::O_RDONLY, 0)));
        show("user sets", set("f", ACCESS, &full, 0));
    });
    call(libc::SYS_chmod, &[c("f").as_ptr() as usize, 0o640]);
    as_user(|| show("read", i64::from(open("f", libc::O_RDONLY, 0) >= 0)));
    let minimal = acl_bytes(&[(OWNER, 7, none), (GROUP_OBJ, 5, none), (OTHER, 1, none)]);
    show("minimal", set("f", ACCESS, &minimal, 0));
    println!("mode {:o}", mode("f"));
    show("gone", get("f", ACCESS, 200));
    show("remove", remove("f", ACCESS));
    show("default on file", set("f", DEFAULT, &full, 0));
    for (what, bytes) in [
        ("empty", acl_bytes(&[])),
        ("short", vec![2, 0]),
        ("version", vec![1, 0, 0, 0]),
        (
            "no mask",
            acl_bytes(&[(OWNER, 6, none), (USER, 6, 1000), (GROUP_OBJ, 4, none), (OTHER, 0, none)]),
        ),
        ("order", acl_bytes(&[(OTHER, 0, none), (OWNER, 6, none), (GROUP_OBJ, 4, none)])),
        ("ragged", full[..full.len() - 2].to_vec()),
    ] {
        show(what, set("f", ACCESS, &bytes, 0));
    }
    std::fs::create_dir("d").unwrap();
    show("default", set("d", DEFAULT, &full, 0));
    println!("mode {:o}", mode("d"));
    fill("d/file", b"");
    std::fs::create_dir("d/dir").unwrap();
    close(open("d/exec", libc::O_CREAT | libc::O_WRONLY, 0o777));
    close(open("d/private", libc::O_CREAT | libc::O_WRONLY, 0o600));
    for name in ["d/file", "d/dir", "d/exec", "d/private"] {
        println!("{name} {:o}", mode(name));
        show("access", get(name, ACCESS, 200));
        show("default", get(name, DEFAULT, 200));
    }
    as_user(|| {
        ok("inherited write", open("d/file", libc::O_RDWR, 0).into());
        ok("private", open("d/private", libc::O_RDWR, 0).into());
    });
    show("remove default", remove("d", DEFAULT));
    fill("d/plain", b"");
    println!("plain {:o}", mode("d/plain"));
}

/// `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS`: immutable and append-only files.
pub fn flags() {
    fill("f", b"text");
    std::fs::create_dir("d").unwrap();
    fill("d/x", b"");
    let control = |path: &str, wanted: Option<u32>| {
        let fd = open(path, libc::O_RDONLY, 0);
        let mut word = wanted.unwrap_or(0);
        let command: usize = if wanted.is_some() { 0x4008_6602 } else { 0x8008_6601 };
        let result = call(libc::SYS_ioctl, &[fd as usize, command, &raw mut word as usize]);
        if wanted.is_none() && result == 0 {
            println!("flags {path} {:x}", word & !0x8_1000);
        }
        close(fd);
        result
    };
    // What is understood by every file system under test.
    show("get", control("f", None));
    show("noatime", control("f", Some(0x80)));
    show("get", control("f", None));
    show("immutable", control("f", Some(0x10)));
    for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDONLY | libc::O_TRUNC] {
        ok(&format!("open {flags:o}"), open("f", flags, 0).into());
    }
    let name = c("f");
    let at = name.as_ptr() as usize;
    show("chmod", call(libc::SYS_chmod, &[at, 0o600]));
    show("unlink", call(libc::SYS_unlink, &[at]));
    show("rename", call(libc::SYS_rename, &[at, c("g").as_ptr() as usize]));
    show("link", call(libc::SYS_link, &[at, c("g").as_ptr() as usize]));
    show("xattr", set("f", "user.a", b"x", 0));
    show("utime", call(libc::SYS_utimensat, &[CWD, at, 0, 0]));
    show("append", control("f", Some(0x20)));
    for flags in [
        libc::O_WRONLY,
        libc::O_WRONLY | libc::O_APPEND,
        libc::O_WRONLY | libc::O_APPEND | libc::O_TRUNC,
    ] {
        ok(&format!("open {flags:o}"), open("f", flags, 0).into());
    }
    let fd = open("f", libc::O_WRONLY | libc::O_APPEND, 0);
    show("write", call(libc::SYS_write, &[fd as usize, at, 1]));
    show("drop O_APPEND", call(libc::SYS_fcntl, &[fd as usize, 4, 0]));
    show("ftruncate", call(libc::SYS_ftruncate, &[fd as usize, 0]));
    show("unlink", call(libc::SYS_unlink, &[at]));
    as_user(|| show("user sets", control("f", Some(0))));
    show("clear", control("f", Some(0)));
    show("dir immutable", control("d", Some(0x10)));
    ok("create in it", open("d/new", libc::O_CREAT | libc::O_WRONLY, 0o600).into());
    ok("write in it", open("d/x", libc::O_WRONLY, 0).into());
    show("unlink in it", call(libc::SYS_unlink, &[c("d/x").as_ptr() as usize]));
    show("dir append", control("d", Some(0x20)));
    ok("create in it", open("d/new", libc::O_CREAT | libc::O_WRONLY, 0o600).into());
    show("unlink in it", call(libc::SYS_unlink, &[c("d/new").as_ptr() as usize]));
    show("clear", control("d", Some(0)));
    show("dirsync on file", control("f", Some(0x1_0000)));
    show("unknown", control("f", Some(0x8000_0000)));
}
