//! The mount table as text: `/proc/PID/mounts`, `mountinfo`, `mountstats`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use abi::mount::*;

use super::{Mount, MountNamespace, tree};
use crate::dpath;
use crate::path::Path;

/// One mount of a namespace.
#[derive(Debug)]
pub struct MountLine {
    /// The mount.
    pub mount: Arc<Mount>,
    /// Number of the mount it is attached to (its own at the root).
    pub parent: u64,
    /// Where it is, as seen from the reader's root.
    pub place: Vec<u8>,
    /// Its peer group, or 0.
    pub group: u64,
    /// The group it receives from, or 0.
    pub master: u64,
    /// Whether it is unbindable.
    pub unbindable: bool,
}

/// The mounts of `ns` that can be reached from `root`, oldest first.
pub fn mount_lines(ns: &MountNamespace, root: &Path) -> Vec<MountLine> {
    let all: Vec<(Arc<Mount>, u64, u64, u64, bool)> = {
        let tree = tree::lock();
        let mine = tree.nodes.values().filter(|n| n.ns == ns.id);
        mine.map(|n| {
            (n.mount.clone(), n.parent.unwrap_or(n.mount.id), n.group, n.master, n.unbindable)
        })
        .collect()
    };
    all.into_iter()
        .filter_map(|(mount, parent, group, master, unbindable)| {
            let path = Path { mount: mount.clone(), dentry: mount.root.clone() };
            let place = dpath::reachable(&path, root)?;
            Some(MountLine { mount, parent, place, group, master, unbindable })
        })
        .collect()
}

/// Writes `bytes` with blanks, tabs, newlines and backslashes as octal escapes.
fn escaped(out: &mut dyn Write, bytes: &[u8]) -> fmt::Result {
    for &byte in bytes {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => write!(out, "\\{byte:03o}")?,
            0x20..0x7f => out.write_char(char::from(byte))?,
            _ => write!(out, "\\{byte:03o}")?,
        }
    }
    Ok(())
}

fn flags(out: &mut dyn Write, flags: u64) -> fmt::Result {
    for (flag, name) in [
        (MS_NOSUID, ",nosuid"),
        (MS_NODEV, ",nodev"),
        (MS_NOEXEC, ",noexec"),
        (MS_NOATIME, ",noatime"),
        (MS_NODIRATIME, ",nodiratime"),
        (MS_RELATIME, ",relatime"),
    ] {
        if flags & flag != 0 {
            out.write_str(name)?;
        }
    }
    Ok(())
}

/// The lines of `/proc/PID/mounts`.
pub fn write_mounts(ns: &MountNamespace, root: &Path, out: &mut dyn Write) -> fmt::Result {
    for line in mount_lines(ns, root) {
        let mount = &line.mount;
        escaped(out, &mount.source)?;
        out.write_char(' ')?;
        escaped(out, &line.place)?;
        write!(out, " {} {}", mount.sb.fs_type, if mount.is_read_only() { "ro" } else { "rw" })?;
        // Linux's order: the super block's generic words, the mount's flags, the type's options.
        mount.sb.show_flags(out)?;
        flags(out, mount.flags())?;
        mount.sb.ops().show_options(&mount.sb, out)?;
        out.write_str(" 0 0\n")?;
    }
    Ok(())
}

/// The lines of `/proc/PID/mountinfo`.
pub fn write_mountinfo(ns: &MountNamespace, root: &Path, out: &mut dyn Write) -> fmt::Result {
    for line in mount_lines(ns, root) {
        let mount = &line.mount;
        let dev = mount.sb.dev;
        write!(out, "{} {} {}:{} ", mount.id, line.parent, dev.major(), dev.minor())?;
        escaped(out, &dpath::within_super(&mount.root))?;
        out.write_char(' ')?;
        escaped(out, &line.place)?;
        write!(out, " {}", if mount.has(MS_RDONLY) { "ro" } else { "rw" })?;
        flags(out, mount.flags())?;
        if line.group != 0 {
            write!(out, " shared:{}", line.group)?;
        }
        if line.master != 0 {
            write!(out, " master:{}", line.master)?;
        }
        if line.unbindable {
            out.write_str(" unbindable")?;
        }
        write!(out, " - {} ", mount.sb.fs_type)?;
        escaped(out, &mount.source)?;
        out.write_char(' ')?;
        mount.sb.show(out)?;
        out.write_char('\n')?;
    }
    Ok(())
}

/// The lines of `/proc/PID/mountstats`.
pub fn write_mountstats(ns: &MountNamespace, root: &Path, out: &mut dyn Write) -> fmt::Result {
    for line in mount_lines(ns, root) {
        out.write_str("device ")?;
        escaped(out, &line.mount.source)?;
        out.write_str(" mounted on ")?;
        escaped(out, &line.place)?;
        writeln!(out, " with fstype {}", line.mount.sb.fs_type)?;
    }
    Ok(())
}
