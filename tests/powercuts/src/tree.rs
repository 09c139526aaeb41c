//! Recovery of an image, ours and that of `e2fsck`, and what is there afterwards.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use abi::Errno;
use arch::uio::Sink;
use block::{Disk, Driver, Limits, Op, Request};
use pagecache::ReadAhead;
use vfs::{
    Context, Creds, FileKind, Inode, KernelCaller, MountNamespace, SuperBlock, UserNamespace,
};

/// Memory of the simulated machine.
const MEMORY: usize = 512 << 20;
/// No file of the load is longer.
const MAX_FILE: u64 = 64 << 20;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A directory.
    Dir,
    /// A file with this contents.
    File(Vec<u8>),
    /// Something that the load does not make.
    Other,
}

/// All that is on a file system, by path.
pub type Tree = BTreeMap<String, Found>;

/// A drive whose contents can be taken away: file systems may outlive their unmounting.
struct Drive(Mutex<Vec<u8>>);

impl Driver for Drive {
    fn limits(&self) -> Limits {
        Limits::default()
    }

    fn submit(&self, _queue: usize, request: Request) -> Result<(), Request> {
        let result = self.serve(&request);
        request.complete(result.ok_or(Errno::EIO));
        Ok(())
    }
}

impl Drive {
    fn serve(&self, request: &Request) -> Option<()> {
        let mut bytes = self.0.lock().ok()?;
        let mut at = usize::try_from(request.sector()).ok()?.checked_mul(512)?;
        for segment in request.segments() {
            let (offset, len) = (segment.offset as usize, segment.len as usize);
            let part = bytes.get_mut(at..at.checked_add(len)?)?;
            match request.op() {
                Op::Read => segment.page.copy_in(offset, part),
                Op::Write => segment.page.copy_out(offset, part),
                _ => return None,
            }
            at += len;
        }
        Some(())
    }
}

/// Recovers an image in both ways, which must find the same; returns what. `scratch` is a file to work in.
///
/// # Errors
///
/// What went wrong, or what is damaged.
pub fn recover(image: Vec<u8>, scratch: &Path) -> Result<Tree, String> {
    let theirs = by_fsck(&image, scratch).map_err(|why| format!("recovered by e2fsck: {why}"))?;
    let ours = by_us(image, scratch).map_err(|why| format!("recovered by us: {why}"))?;
    let mut paths = theirs.keys().chain(ours.keys());
    match paths.find(|path| theirs.get(*path) != ours.get(*path)) {
        Some(path) => Err(format!("{path} differs from what e2fsck makes of it")),
        None => Ok(ours),
    }
}

fn by_fsck(image: &[u8], scratch: &Path) -> Result<Tree, String> {
    let text = |error: std::io::Error| error.to_string();
    std::fs::write(scratch, image).map_err(text)?;
    let (code, said) = fsck("-p", scratch)?;
    // 1: what was to be done was done.
    if code > 1 {
        return Err(format!("e2fsck -p says {code}: {said}"));
    }
    check(scratch)?;
    Ok(look(std::fs::read(scratch).map_err(text)?)?.0)
}

fn by_us(image: Vec<u8>, scratch: &Path) -> Result<Tree, String> {
    let (tree, left) = look(image)?;
    std::fs::write(scratch, left).map_err(|error| error.to_string())?;
    check(scratch)?;
    Ok(tree)
}

/// Nothing may be left to repair.
fn check(path: &Path) -> Result<(), String> {
    match fsck("-fn", path)? {
        (0, _) => Ok(()),
        (code, said) => Err(format!("e2fsck -fn says {code}: {said}")),
    }
}

fn fsck(how: &str, path: &Path) -> Result<(i32, String), String> {
    let mut command = Command::new("e2fsck");
    let search = std::env::var("PATH").unwrap_or_default();
    command.arg(how).arg(path).env("PATH", format!("{search}:/usr/sbin:/sbin"));
    let output = command.output().map_err(|error| format!("e2fsck: {error}"))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok((output.status.code().unwrap_or(-1), said))
}

/// Mounts an image, which recovers it if it needs that, and reads all; returns what the image is after it
/// is unmounted too.
fn look(image: Vec<u8>) -> Result<(Tree, Vec<u8>), String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    frames::init_host(MEMORY);
    let sectors = image.len() as u64 / 512;
    let drive = Arc::new(Drive(Mutex::new(image)));
    let name = format!("cut{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let disk = Disk::add(&name, drive.clone(), sectors).map_err(|error| format!("{error}"))?;
    let tree = match ext4::mount(disk.whole(), 0, b"") {
        Ok(sb) => {
            let tree = walk(&sb);
            // The last mount's end, which the namespace's does not bring.
            sb.deactivate();
            tree
        }
        Err(error) => Err(format!("mount: {error}")),
    };
    disk.remove();
    let left = drive.0.lock().map(|mut bytes| std::mem::take(&mut *bytes));
    Ok((tree?, left.map_err(|error| error.to_string())?))
}

/// Reads all. Mounts the file system, so that it is active.
fn walk(sb: &Arc<SuperBlock>) -> Result<Tree, String> {
    let text = |error: Errno| format!("the root directory: {error}");
    let user_ns = UserNamespace::initial();
    let mounts = MountNamespace::with_root(1, user_ns.clone(), sb, b"cut", 0).map_err(text)?;
    let root = mounts.root_path().map_err(text)?;
    let creds = Arc::new(Creds::root(user_ns));
    let caller = &KernelCaller;
    let ctx = Context { creds: &creds, root: &root, cwd: &root, umask: 0, mounts: &mounts, caller };
    let mut tree = Tree::new();
    visit(&ctx, "", &mut tree)?;
    Ok(tree)
}

fn visit(ctx: &Context<'_>, dir: &str, tree: &mut Tree) -> Result<(), String> {
    let place = if dir.is_empty() { "." } else { dir };
    for name in names(ctx, place).map_err(|error| format!("{place}: {error}"))? {
        let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
        let inode = vfs::walk(ctx, ctx.root, path.as_bytes(), vfs::Walk::empty())
            .and_then(|found| found.inode())
            .map_err(|error| format!("{path}: {error}"))?;
        match inode.kind {
            FileKind::Directory => {
                tree.insert(path.clone(), Found::Dir);
                visit(ctx, &path, tree)?;
            }
            FileKind::Regular => {
                let contents = read(&inode).map_err(|why| format!("{path}: {why}"))?;
                tree.insert(path, Found::File(contents));
            }
            _ => drop(tree.insert(path, Found::Other)),
        }
    }
    Ok(())
}

fn names(ctx: &Context<'_>, path: &str) -> Result<Vec<String>, Errno> {
    let file = vfs::open(ctx, ctx.root, path.as_bytes(), &vfs::OpenHow::new(0, 0))?;
    let (mut cursor, mut all) = (0, Vec::new());
    loop {
        let before = all.len();
        let next = file.ops().readdir(&file, cursor, &mut |entry: &vfs::DirEntry<'_>| {
            all.push(String::from_utf8_lossy(entry.name).into_owned());
            true
        })?;
        if next == cursor || all.len() == before {
            all.retain(|name| name != "." && name != "..");
            return Ok(all);
        }
        cursor = next;
    }
}

fn read(inode: &Arc<Inode>) -> Result<Vec<u8>, String> {
    let size = inode.size();
    let mapping = inode.mapping().filter(|_| size <= MAX_FILE).ok_or("a length out of reach")?;
    let mut bytes = vec![0; size as usize];
    match mapping.read(0, &mut Sink::kernel(&mut bytes), &ReadAhead::new()) {
        Ok(count) if count == bytes.len() => Ok(bytes),
        Ok(count) => Err(format!("{count} bytes can be read of {size}")),
        Err(error) => Err(error.to_string()),
    }
}
