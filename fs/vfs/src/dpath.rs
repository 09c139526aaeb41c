//! Paths as text: `getcwd(2)`, `/proc/PID/fd/N`, `/proc/PID/mounts`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};

use crate::dentry::Dentry;
use crate::path::Path;

/// How far up a path was followed.
enum Top {
    /// To the root asked for.
    Root,
    /// To the top of its tree, outside the root asked for.
    Outside,
}

/// Adds `/name` in reverse.
fn push(text: &mut Vec<u8>, name: &[u8]) {
    text.extend(name.iter().rev());
    text.push(b'/');
}

fn build(path: &Path, root: &Path) -> (Vec<u8>, Top) {
    let mut text = Vec::with_capacity(64);
    let mut at = path.clone();
    let top = loop {
        if at.is(root) {
            break Top::Root;
        }
        if at.is_mount_root() || at.dentry.is_root() {
            match at.mount.mountpoint() {
                Some(up) => at = up,
                None => break Top::Outside,
            }
            continue;
        }
        at.dentry.with_name(|name| push(&mut text, name));
        match at.dentry.parent() {
            Some(parent) => at.dentry = parent,
            None => break Top::Outside,
        }
    };
    if text.is_empty() {
        text.push(b'/');
    }
    text.reverse();
    (text, top)
}

/// The absolute path as seen from `root`; `None` if it is not below `root`.
pub fn reachable(path: &Path, root: &Path) -> Option<Vec<u8>> {
    match build(path, root) {
        (text, Top::Root) => Some(text),
        _ => None,
    }
}

/// What `/proc/PID/fd/N` links show: the path, with ` (deleted)`, from the top of its tree if it is
/// not below `root`; or the name of an object that is in no directory (`pipe:[17]`).
pub fn describe(path: &Path, root: &Path) -> Vec<u8> {
    let dentry = &path.dentry;
    if !dentry.is_root() && dentry.parent().is_none() {
        return dentry.with_name(<[u8]>::to_vec);
    }
    let (mut text, _) = build(path, root);
    if dentry.is_deleted() {
        text.extend_from_slice(b" (deleted)");
    }
    text
}

/// `getcwd(2)`: the path of the working directory.
pub fn cwd(path: &Path, root: &Path) -> Result<Vec<u8>> {
    if path.dentry.is_deleted() {
        return Err(Errno::ENOENT);
    }
    let (mut text, top) = build(path, root);
    if matches!(top, Top::Outside) {
        let mut prefixed = b"(unreachable)".to_vec();
        prefixed.append(&mut text);
        text = prefixed;
    }
    Ok(text)
}

/// The path of a dentry within its file system.
pub fn within_super(dentry: &Arc<Dentry>) -> Vec<u8> {
    let mut text = Vec::new();
    let mut at = dentry.clone();
    while let Some(parent) = at.parent() {
        at.with_name(|name| push(&mut text, name));
        at = parent;
    }
    if text.is_empty() {
        text.push(b'/');
    }
    text.reverse();
    if dentry.is_deleted() {
        text.extend_from_slice(b"//deleted");
    }
    text
}

/// The path from the top of the mount tree it is in.
pub fn from_top(path: &Path) -> Vec<u8> {
    let mut top = path.mount.clone();
    while let Some(up) = top.mountpoint() {
        top = up.mount;
    }
    let root = Path { dentry: top.root.clone(), mount: top };
    describe(path, &root)
}
