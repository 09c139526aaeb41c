//! Rules of `path_resolution(7)`, links, renames.

use crate::{as_user, c, call, close, fill, ok, open, show};

const CWD: usize = libc::AT_FDCWD as usize;

fn mkdir(path: &str) -> i64 {
    call(libc::SYS_mkdirat, &[CWD, c(path).as_ptr() as usize, 0o755])
}

fn stat(path: &str) -> i64 {
    let mut buffer = [0u8; 144];
    call(libc::SYS_newfstatat, &[CWD, c(path).as_ptr() as usize, buffer.as_mut_ptr() as usize, 0])
}

fn symlink(target: &str, path: &str) -> i64 {
    call(libc::SYS_symlinkat, &[c(target).as_ptr() as usize, CWD, c(path).as_ptr() as usize])
}

fn unlink(path: &str, flags: i32) -> i64 {
    call(libc::SYS_unlinkat, &[CWD, c(path).as_ptr() as usize, flags as usize])
}

fn link(old: &str, new: &str, flags: i32) -> i64 {
    let (old, new) = (c(old), c(new));
    let args = [CWD, old.as_ptr() as usize, CWD, new.as_ptr() as usize, flags as usize];
    call(libc::SYS_linkat, &args)
}

fn rename2(old: &str, new: &str, flags: u32) -> i64 {
    let (old, new) = (c(old), c(new));
    let args = [CWD, old.as_ptr() as usize, CWD, new.as_ptr() as usize, flags as usize];
    call(libc::SYS_renameat2, &args)
}

/// Walks, lengths, links, trailing slashes.
pub fn run() {
    ok("mkdir d", mkdir("d"));
    fill("d/f", b"text");
    ok("symlink", symlink("d", "ld"));
    ok("symlink to file", symlink("d/f", "lf"));
    ok("dangling", symlink("nowhere", "dangling"));
    ok("loop", symlink("loop", "loop"));
    for path in [
        "",
        ".",
        "..",
        "d/",
        "d/f/",
        "d/f/.",
        "d/f/..",
        "ld/",
        "ld/f",
        "lf/",
        "lf/x",
        "dangling",
        "dangling/",
        "loop",
        "loop/x",
        "d/./f",
        "d/../d/f",
        "d//f",
        "absent/f",
        "/../../tmp",
    ] {
        show(&format!("stat {path:?}"), stat(path));
    }
    let long = "n".repeat(255);
    let longer = "n".repeat(256);
    show("name of 255", mkdir(&long));
    show("name of 256", mkdir(&longer));
    show("stat name of 256", stat(&longer));
    let path = "./".repeat(2047);
    show("path of 4095", stat(&format!("{path}d")));
    show("path of 4096", stat(&format!("{path}/d")));
    show("path of 4097", stat(&format!("{path}//d")));
    for count in [38, 39, 40, 41] {
        let _ = std::fs::remove_file("chain0");
        fill("chain0", b"");
        for at in 1..=count {
            let _ = std::fs::remove_file(format!("chain{at}"));
            symlink(&format!("chain{}", at - 1), &format!("chain{at}"));
        }
        show(&format!("{count} links"), stat(&format!("chain{count}")));
    }
    show("empty target", symlink("", "empty"));
    show("target of 4095", symlink(&"t".repeat(4095), "t4095"));
    show("target of 4096", symlink(&"t".repeat(4096), "t4096"));
    for path in ["new/", "ld", "dangling", "d/f/new", ".", "..", "/", "d/."] {
        show(&format!("mkdir {path:?}"), mkdir(path));
    }
    for (path, flags) in [
        ("d", 0),
        ("d/", 0),
        ("d/f", libc::AT_REMOVEDIR),
        (".", libc::AT_REMOVEDIR),
        ("..", libc::AT_REMOVEDIR),
        ("d/.", libc::AT_REMOVEDIR),
        ("d", libc::AT_REMOVEDIR),
        ("d/..", libc::AT_REMOVEDIR),
        ("ld", libc::AT_REMOVEDIR),
        ("ld/", libc::AT_REMOVEDIR),
        ("lf/", 0),
        ("absent", 0),
        ("absent/", 0),
        ("/", libc::AT_REMOVEDIR),
        ("", 0),
        ("d/f", 1),
        ("new", libc::AT_REMOVEDIR),
    ] {
        show(&format!("unlink {path:?} {flags:x}"), unlink(path, flags));
    }
    for (old, new, flags) in [
        ("d/f", "hard", 0),
        ("d/f", "hard", 0),
        ("d", "harddir", 0),
        ("lf", "hardlink", 0),
        ("lf", "hardfile", libc::AT_SYMLINK_FOLLOW),
        ("absent", "x", 0),
        ("d/f", "x/", 0),
        ("dangling", "x", libc::AT_SYMLINK_FOLLOW),
        ("d/f", "absent/x", 0),
        ("", "x", 0),
        ("d/f", "x", 0x8000),
    ] {
        show(&format!("link {old} {new} {flags:x}"), link(old, new, flags));
    }
    let fd = open("d/f", libc::O_PATH, 0);
    let (empty, name) = (c(""), c("by-fd"));
    let args =
        |flags: usize| [fd as usize, empty.as_ptr() as usize, CWD, name.as_ptr() as usize, flags];
    show("link AT_EMPTY_PATH", call(libc::SYS_linkat, &args(libc::AT_EMPTY_PATH as usize)));
    show("link empty", call(libc::SYS_linkat, &args(0)));
    close(fd);
    opens();
    tmpfiles();
    as_user(|| {
        show("user mkdir", mkdir("user"));
        show("user unlink", unlink("d/f", 0));
        show("user write", i64::from(open("d/f", libc::O_WRONLY, 0)));
        show("user noatime", i64::from(open("d/f", libc::O_RDONLY | libc::O_NOATIME, 0)));
    });
}

fn opens() {
    let all = [
        ("d", libc::O_WRONLY),
        ("d", libc::O_RDWR),
        ("d", libc::O_CREAT),
        ("d", libc::O_RDONLY | libc::O_TRUNC),
        ("d/f", libc::O_DIRECTORY),
        ("ld", libc::O_NOFOLLOW),
        ("ld", libc::O_NOFOLLOW | libc::O_DIRECTORY),
        ("ld/", libc::O_NOFOLLOW),
        ("lf", libc::O_CREAT | libc::O_EXCL | libc::O_RDWR),
        ("dangling", libc::O_CREAT | libc::O_EXCL),
        ("d/f", libc::O_CREAT | libc::O_EXCL),
        ("new/", libc::O_CREAT),
        ("absent/x", libc::O_CREAT),
        ("d/f/", libc::O_CREAT),
        ("loop", libc::O_RDONLY),
        ("loop", libc::O_CREAT),
        ("", libc::O_CREAT),
        ("d/f", libc::O_CREAT | libc::O_DIRECTORY),
        ("newdir", libc::O_CREAT | libc::O_DIRECTORY),
        ("lf", libc::O_PATH | libc::O_NOFOLLOW),
        ("d/f", 3),
        (".", libc::O_CREAT),
        ("..", libc::O_CREAT),
        ("d", libc::O_PATH | libc::O_WRONLY),
    ];
    for (path, flags) in all {
        let fd = open(path, flags, 0o644);
        ok(&format!("open {path:?} {flags:o}"), fd.into());
        if fd >= 0 {
            close(fd);
        }
    }
    let fd = open("lf", libc::O_PATH | libc::O_NOFOLLOW, 0);
    let mut byte = 0u8;
    let at = &raw mut byte as usize;
    show("read O_PATH", call(libc::SYS_read, &[fd as usize, at, 1]));
    show("fchmod O_PATH", call(libc::SYS_fchmod, &[fd as usize, 0o600]));
    show("fsync O_PATH", call(libc::SYS_fsync, &[fd as usize]));
    show("ftruncate O_PATH", call(libc::SYS_ftruncate, &[fd as usize, 0]));
    show("lseek O_PATH", call(libc::SYS_lseek, &[fd as usize, 0, 0]));
    show("ioctl O_PATH", call(libc::SYS_ioctl, &[fd as usize, 0x5421, at]));
    show("F_GETFL O_PATH", call(libc::SYS_fcntl, &[fd as usize, 3]));
    show("flock O_PATH", call(libc::SYS_flock, &[fd as usize, 1]));
    let mut text = [0u8; 16];
    let empty = c("");
    let args = [fd as usize, empty.as_ptr() as usize, text.as_mut_ptr() as usize, 16];
    show("readlinkat O_PATH", call(libc::SYS_readlinkat, &args));
    close(fd);
}

fn tmpfiles() {
    let make = |flags: i32| open("d", libc::O_TMPFILE | flags, 0o640);
    ok("O_TMPFILE read-only", make(0).into());
    ok("O_TMPFILE on file", open("d/f", libc::O_TMPFILE | libc::O_RDWR, 0o600).into());
    ok("O_TMPFILE absent", open("gone", libc::O_TMPFILE | libc::O_RDWR, 0o600).into());
    let fd = make(libc::O_RDWR);
    show("write tmpfile", call(libc::SYS_write, &[fd as usize, c("abc").as_ptr() as usize, 3]));
    let mut info = std::mem::MaybeUninit::<libc::stat>::zeroed();
    call(libc::SYS_fstat, &[fd as usize, info.as_mut_ptr() as usize]);
    // SAFETY: zeroed, and filled by the call.
    let info = unsafe { info.assume_init() };
    println!("tmpfile links {} mode {:o} size {}", info.st_nlink, info.st_mode, info.st_size);
    let (path, name) = (c(&format!("/proc/self/fd/{fd}")), c("named"));
    let follow = libc::AT_SYMLINK_FOLLOW as usize;
    let args = [CWD, path.as_ptr() as usize, CWD, name.as_ptr() as usize, follow];
    show("name it", call(libc::SYS_linkat, &args));
    println!("{:?}", std::fs::read_to_string("named"));
    close(fd);
    let fd = make(libc::O_RDWR | libc::O_EXCL);
    let path = c(&format!("/proc/self/fd/{fd}"));
    let other = c("other");
    let args = [CWD, path.as_ptr() as usize, CWD, other.as_ptr() as usize, follow];
    show("name an exclusive one", call(libc::SYS_linkat, &args));
    close(fd);
}

/// `renameat2(2)`.
pub fn rename() {
    for path in ["a", "b", "a/sub", "full", "full/x"] {
        mkdir(path);
    }
    fill("f", b"f");
    fill("g", b"g");
    link("f", "f2", 0);
    symlink("f", "lf");
    symlink("a", "la");
    let cases = [
        ("f", "a", 0),
        ("a", "f", 0),
        ("a", "a/sub/x", 0),
        ("a", "a", 0),
        ("a/sub", "a", 0),
        ("b", "full", 0),
        ("full", "b", 0),
        ("f", "f2", 0),
        ("absent", "x", 0),
        ("f", "x/", 0),
        ("f/", "x", 0),
        ("b/", "c/", 0),
        (".", "x", 0),
        ("a", ".", 0),
        ("a/..", "x", 0),
        ("a", "..", 0),
        ("", "x", 0),
        ("f", "", 0),
        ("/", "x", 0),
        ("f", "g", 1),
        ("f", "new", 1),
        ("new", "g", 2),
        ("absent", "g", 2),
        ("g", "absent", 2),
        ("a", "g", 2),
        ("g", "a", 2),
        ("a", "a/sub", 2),
        ("g", "f2", 3),
        ("g", "f2", 8),
        ("lf", "moved", 0),
        ("la/", "x", 0),
        ("la", "f2", 0),
        ("g", "la", 0),
        ("moved", "g/", 0),
    ];
    for (old, new, flags) in cases {
        show(&format!("rename {old} {new} {flags}"), rename2(old, new, flags));
    }
    let mut names: Vec<_> =
        std::fs::read_dir(".").unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    println!("{names:?}");
    fill("w", b"w");
    show("whiteout", rename2("w", "w2", 4));
    let mut info = std::mem::MaybeUninit::<libc::stat>::zeroed();
    let flags = libc::AT_SYMLINK_NOFOLLOW as usize;
    let w = c("w");
    let args = [CWD, w.as_ptr() as usize, info.as_mut_ptr() as usize, flags];
    show("stat whiteout", call(libc::SYS_newfstatat, &args));
    // SAFETY: zeroed, and filled by the call.
    let info = unsafe { info.assume_init() };
    println!("whiteout {:o} {:x}", info.st_mode, info.st_rdev);
    show("across file systems", rename2("w2", "/dev/shm/w2", 0));
    show("onto proc", rename2("w2", "/proc/w2", 0));
    // In a sticky directory only owners rename.
    mkdir("sticky");
    call(libc::SYS_chmod, &[c("sticky").as_ptr() as usize, 0o1777]);
    fill("sticky/root", b"");
    as_user(|| {
        show("user renames root's", rename2("sticky/root", "sticky/mine", 0));
        show("user removes root's", unlink("sticky/root", 0));
        fill("sticky/user", b"");
        show("user over root's", rename2("sticky/user", "sticky/root", 0));
        show("user renames own", rename2("sticky/user", "sticky/own", 0));
    });
}
