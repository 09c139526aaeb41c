//! Mounting in a user namespace of the caller's own, user_namespaces(7): what an unprivileged user
//! may do there and what stays with the file system's owner.

use crate::mounts::{mount, unmount};
use crate::{as_user, c, call, ok, show};

/// All of it.
pub fn run() {
    for name in ["a", "b", "own"] {
        std::fs::create_dir(name).unwrap();
    }
    ok("tmpfs of the machine", mount("none", "own", "tmpfs", libc::MS_NOEXEC, "mode=777"));
    as_user(confined);
    unmount("own", libc::MNT_DETACH);
}

fn confined() {
    let spaces = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    show("unshare", call(libc::SYS_unshare, &[spaces as usize]));
    ok("tmpfs", mount("none", "a", "tmpfs", 0, "size=1m"));
    ok("remount it", mount("none", "a", "", libc::MS_REMOUNT | libc::MS_RDONLY, "size=2m"));
    ok("ext4", mount("/dev/null", "b", "ext4", 0, ""));
    ok("devtmpfs", mount("none", "b", "devtmpfs", 0, ""));
    ok("remount another's", mount("none", "own", "", libc::MS_REMOUNT | libc::MS_RDONLY, ""));
    ok("remount the root", mount("none", "/", "", libc::MS_REMOUNT | libc::MS_RDONLY, ""));
    ok("bind", mount("own", "b", "", libc::MS_BIND, ""));
    ok("unmount the bind", unmount("b", 0));
    ok("bind what covers it", mount(".", "b", "", libc::MS_BIND, ""));
    ok("bind with all below", mount(".", "b", "", libc::MS_BIND | libc::MS_REC, ""));
    ok("unmount below", unmount("b/own", 0));
    ok("detach it all", unmount("b", libc::MNT_DETACH));
    ok("make it unbindable", mount("", "own", "", libc::MS_UNBINDABLE, ""));
    ok("bind around it", mount(".", "b", "", libc::MS_BIND | libc::MS_REC, ""));
    unmount("b", libc::MNT_DETACH);
    ok("make it private", mount("", "own", "", libc::MS_PRIVATE, ""));
    ok("move what was there", mount("own", "b", "", libc::MS_MOVE, ""));
    let bind = libc::MS_BIND | libc::MS_REMOUNT;
    ok("allow programs", mount("", "own", "", bind, ""));
    ok("allow set-uid", mount("", "own", "", bind | libc::MS_NOEXEC, ""));
    ok("forbid devices", mount("", "own", "", bind | libc::MS_NOEXEC | libc::MS_NODEV, ""));
    ok("access times", mount("", "own", "", bind | libc::MS_NOEXEC | libc::MS_NOATIME, ""));
    ok("unmount what was there", unmount("own", 0));
    ok("unmount its own", unmount("a", 0));
    let (tmpfs, ext4, own) = (c("tmpfs"), c("ext4"), c("own"));
    ok("fsopen", call(430, &[tmpfs.as_ptr() as usize, 0]));
    ok("fsopen ext4", call(430, &[ext4.as_ptr() as usize, 0]));
    let picked = call(433, &[libc::AT_FDCWD as usize, own.as_ptr() as usize, 0]);
    ok("fspick another's", picked);
    if picked >= 0 {
        ok("reconfigure another's", call(431, &[picked as usize, 7, 0, 0, 0]));
    }
}
