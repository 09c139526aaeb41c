//! Mounts in a namespace of the program's own: flags, binds, propagation, unmounting, errnos.

use crate::{c, call, close, fill, ok, open, show};

pub fn mount(source: &str, target: &str, kind: &str, flags: u64, data: &str) -> i64 {
    let (source, target, kind, data) = (c(source), c(target), c(kind), c(data));
    call(
        libc::SYS_mount,
        &[
            source.as_ptr() as usize,
            target.as_ptr() as usize,
            kind.as_ptr() as usize,
            flags as usize,
            data.as_ptr() as usize,
        ],
    )
}

pub fn unmount(target: &str, flags: i32) -> i64 {
    call(libc::SYS_umount2, &[c(target).as_ptr() as usize, flags as usize])
}

pub fn options(target: &str) {
    let here = std::env::current_dir().unwrap().join(target);
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if std::path::Path::new(words[4]) == here {
            let tags = words[6..].iter().take_while(|w| **w != "-");
            let kinds: Vec<&str> = tags.map(|tag| tag.split(':').next().unwrap()).collect();
            println!("{target}: {} {kinds:?}", words[5]);
        }
    }
}

/// All of it.
pub fn run() {
    show("unshare", call(libc::SYS_unshare, &[libc::CLONE_NEWNS as usize]));
    show("private", mount("", "/", "", libc::MS_REC | libc::MS_PRIVATE, ""));
    for name in ["a", "b", "c", "a/sub"] {
        std::fs::create_dir(name).unwrap();
    }
    fill("file", b"");
    fill("file2", b"");
    show(
        "tmpfs",
        mount("none", "a", "tmpfs", libc::MS_NOSUID | libc::MS_NOEXEC, "size=1m,mode=700"),
    );
    options("a");
    for (what, source, target, kind, flags) in [
        ("unknown type", "none", "b", "nosuchfs", 0),
        ("on a file", "none", "file", "tmpfs", 0),
        ("absent target", "none", "absent", "tmpfs", 0),
        ("absent device", "/dev/absent", "b", "ext4", 0),
        ("not a device", "file", "b", "ext4", 0),
        ("bind absent", "absent", "b", "", libc::MS_BIND),
        ("bind dir on file", "a", "file", "", libc::MS_BIND),
        ("bind file on dir", "file", "b", "", libc::MS_BIND),
        ("move what is no mount", "b", "c", "", libc::MS_MOVE),
        ("remount no mount", "none", "b", "", libc::MS_REMOUNT),
        ("two propagations", "", "a", "", libc::MS_SHARED | libc::MS_PRIVATE),
        ("propagation of no mount", "", "b", "", libc::MS_SHARED),
        ("move into itself", "a", "a/sub", "", libc::MS_MOVE),
    ] {
        show(what, mount(source, target, kind, flags, ""));
    }
    show("bad option", mount("none", "b", "tmpfs", 0, "nosuchoption"));
    show("bind", mount("a", "b", "", libc::MS_BIND, ""));
    show(
        "bind read-only",
        mount("", "b", "", libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY, ""),
    );
    options("b");
    ok("write through a", open("a/x", libc::O_CREAT | libc::O_WRONLY, 0o755).into());
    ok("write through b", open("b/y", libc::O_CREAT | libc::O_WRONLY, 0o755).into());
    ok("open b for writing", open("b/x", libc::O_WRONLY, 0).into());
    show("access", call(libc::SYS_access, &[c("b/x").as_ptr() as usize, 2]));
    let program = c("a/x");
    let empty = [0usize];
    let args = [program.as_ptr() as usize, empty.as_ptr() as usize, empty.as_ptr() as usize];
    show("execute noexec", call(libc::SYS_execve, &args));
    let fd = open("a/x", libc::O_RDONLY, 0);
    show("map executable", i64::from(call(libc::SYS_mmap, &[0, 4096, 4, 2, fd as usize, 0]) >= 0));
    show("unmount busy", unmount("a", 0));
    show("unmount nothing", unmount("c", 0));
    show("bad flags", unmount("a", 64));
    show("expire", unmount("b", libc::MNT_EXPIRE));
    show("expire again", unmount("b", libc::MNT_EXPIRE));
    show("expire a third time", unmount("b", libc::MNT_EXPIRE));
    show("super read-only", mount("", "a", "", libc::MS_REMOUNT | libc::MS_RDONLY, ""));
    options("a");
    show("back", mount("", "a", "", libc::MS_REMOUNT, ""));
    options("a");
    show("detach", unmount("a", libc::MNT_DETACH));
    ok("still readable", call(libc::SYS_pread64, &[fd as usize, 0, 0, 0]));
    ok("gone from the tree", open("a/x", libc::O_RDONLY, 0).into());
    close(fd);
    show("nodev", mount("none", "a", "tmpfs", libc::MS_NODEV, ""));
    let null = c("a/null");
    show("mknod", call(libc::SYS_mknod, &[null.as_ptr() as usize, 0o020_666, 0x103]));
    ok("open device", open("a/null", libc::O_RDWR, 0).into());
    show("file bind", mount("file", "file2", "", libc::MS_BIND, ""));
    show("remove mount point", call(libc::SYS_unlink, &[c("file2").as_ptr() as usize]));
    show(
        "rename mount point",
        call(libc::SYS_rename, &[c("a").as_ptr() as usize, c("z").as_ptr() as usize]),
    );
    show("rmdir mount point", call(libc::SYS_rmdir, &[c("a").as_ptr() as usize]));
    show("unmount file", unmount("file2", 0));
    show("shared", mount("", "a", "", libc::MS_SHARED, ""));
    options("a");
    std::fs::create_dir("a/in").unwrap();
    show("bind shared", mount("a", "b", "", libc::MS_BIND, ""));
    show("slave", mount("", "b", "", libc::MS_SLAVE, ""));
    options("b");
    show("mount below", mount("none", "a/in", "tmpfs", 0, ""));
    options("a/in");
    options("b/in");
    show("unbindable", mount("", "b", "", libc::MS_UNBINDABLE, ""));
    show("bind unbindable", mount("b", "c", "", libc::MS_BIND, ""));
    show("rbind", mount("a", "c", "", libc::MS_BIND | libc::MS_REC, ""));
    options("c/in");
    show("move", mount("c", "b/in", "", libc::MS_MOVE, ""));
    show("unmount tree", unmount("a", 0));
    show("unmount nofollow", unmount("a/in", 8));
    for name in ["b/in", "b", "a", "c"] {
        unmount(name, libc::MNT_DETACH);
        unmount(name, libc::MNT_DETACH);
    }
    new_api();
    handles();
}

/// `open_tree(2)`, `fsopen(2)` and companions.
fn new_api() {
    let dir = c("b");
    let cwd = libc::AT_FDCWD as usize;
    let tree = call(428, &[cwd, dir.as_ptr() as usize, 1 | libc::O_CLOEXEC as usize]);
    ok("open_tree", tree);
    let empty = c("");
    let at = empty.as_ptr() as usize;
    let args = [tree as usize, at, cwd, dir.as_ptr() as usize, 4];
    ok("move_mount", call(429, &args));
    unmount("b", libc::MNT_DETACH);
    let kind = c("tmpfs");
    let context = call(430, &[kind.as_ptr() as usize, 0]);
    ok("fsopen", context);
    ok("fsopen unknown", call(430, &[c("nosuchfs").as_ptr() as usize, 0]));
    let (key, value) = (c("size"), c("1m"));
    let args = [context as usize, 1, key.as_ptr() as usize, value.as_ptr() as usize, 0];
    ok("fsconfig size", call(431, &args));
    ok("fsconfig create", call(431, &[context as usize, 6, 0, 0, 0]));
    let mounted = call(432, &[context as usize, 0, 0]);
    ok("fsmount", mounted);
    let args = [mounted as usize, at, cwd, dir.as_ptr() as usize, 4];
    ok("move_mount", call(429, &args));
    options("b");
    ok("fspick", call(433, &[cwd, dir.as_ptr() as usize, 0]));
    unmount("b", libc::MNT_DETACH);
}

/// `name_to_handle_at(2)`.
fn handles() {
    let path = c("file");
    let mut handle = [0u32; 34];
    let mut id = 0i32;
    let cwd = libc::AT_FDCWD as usize;
    let mut ask = |size: u32, flags: usize| {
        handle[0] = size;
        let args = [
            cwd,
            path.as_ptr() as usize,
            handle.as_mut_ptr() as usize,
            &raw mut id as usize,
            flags,
        ];
        (call(libc::SYS_name_to_handle_at, &args), handle)
    };
    show("too small", ask(0, 0).0);
    show("too large", ask(129, 0).0);
    show("flags", ask(128, 1).0);
    let (result, handle) = ask(128, 0);
    show("handle", result);
    let args = [cwd, handle.as_ptr() as usize, libc::O_RDONLY as usize];
    ok("open by it", call(libc::SYS_open_by_handle_at, &args));
    let mut bad = handle;
    bad[0] = 0;
    show("open by nothing", call(libc::SYS_open_by_handle_at, &[cwd, bad.as_ptr() as usize, 0]));
    crate::as_user(|| {
        ok("user opens", call(libc::SYS_open_by_handle_at, &args));
    });
}
