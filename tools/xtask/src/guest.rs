//! What the helper puts into a root image: an init that gives a shell, or runs one command.
//!
//! Besides the console the guest has a second serial line, `ttyS1`, as a control channel: the
//! guest sends `status N`, the host sends `size ROWS COLUMNS` whenever its window changes.

use crate::Result;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where the init is in the guest.
pub(crate) const INIT_PATH: &str = "/.xtask/init";
/// Where the command is in the guest.
pub(crate) const COMMAND_PATH: &str = "/.xtask/command";

/// The init.
pub(crate) const INIT: &str = r#"#!/bin/sh
# Started by the kernel in place of init by `make run`.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM=${TERM:-linux}
mount -t proc proc /proc 2>/dev/null
mount -t sysfs sysfs /sys 2>/dev/null
[ -c /dev/null ] || mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm 2>/dev/null
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts 2>/dev/null
mount -t tmpfs -o mode=1777 tmpfs /dev/shm 2>/dev/null
mount -t tmpfs -o mode=755 tmpfs /run 2>/dev/null
mount -t tmpfs -o mode=1777 tmpfs /tmp 2>/dev/null
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
[ -e /dev/stdin ] || ln -s /proc/self/fd/0 /dev/stdin
[ -e /dev/stdout ] || ln -s /proc/self/fd/1 /dev/stdout
[ -e /dev/stderr ] || ln -s /proc/self/fd/2 /dev/stderr
read -r name < /etc/hostname 2>/dev/null && hostname "$name" 2>/dev/null
ip link set lo up 2>/dev/null
cd /root 2>/dev/null || cd /
console=/dev/ttyS0
[ -c $console ] || console=/dev/console

finish() {
    [ -c /dev/ttyS1 ] && echo "status $1" > /dev/ttyS1
    sync
    mount -o remount,ro / 2>/dev/null
    echo o > /proc/sysrq-trigger
    sleep 5
    poweroff -f
    while :; do sleep 60; done
}

if [ -f /.xtask/command ]; then
    [ -c /dev/ttyS1 ] && stty -F /dev/ttyS1 raw -echo 2>/dev/null
    stty -F $console -opost 2>/dev/null
    setsid -c -w /bin/sh /.xtask/command < $console > $console 2>&1
    finish $?
fi

stty -F $console rows "${LINES:-24}" cols "${COLUMNS:-80}" sane 2>/dev/null
if [ -c /dev/ttyS1 ]; then
    stty -F /dev/ttyS1 raw -echo 2>/dev/null
    while read -r word rows columns; do
        [ "$word" = size ] && stty -F $console rows "$rows" cols "$columns"
    done < /dev/ttyS1 > /dev/null 2>&1 &
fi
unset LINES COLUMNS
shell=/bin/bash
[ -x $shell ] || shell=/bin/sh
setsid -c -w $shell -l < $console > $console 2>&1
finish $?
"#;

/// Puts the init into a tree that becomes an image.
pub(crate) fn install(tree: &Path) -> Result {
    let path = tree.join(INIT_PATH.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap_or(tree))?;
    fs::write(&path, INIT)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    for directory in ["dev", "proc", "sys", "run", "tmp"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    Ok(())
}
