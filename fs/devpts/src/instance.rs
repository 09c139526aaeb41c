//! An instance: its super block, its directory and its nodes.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use abi::stat::{S_IFCHR, S_IFDIR};
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use tty::Tty;
use vfs::{
    Context, DeviceNumber, DirEntry, DirSink, File, FileOps, FileSystemType, FsStat, Inode,
    InodeFlags, InodeInit, InodeOps, MountRequest, SuperBlock, SuperInit, SuperOps,
};

use crate::options::Options;

static INSTANCE: LockClass = LockClass::new("devpts.instance", 330);

const MAGIC: u64 = 0x1cd1;
const ROOT_INO: u64 = 1;
const PTMX_INO: u64 = 2;
const FIRST_INO: u64 = 3;

const DT_DIR: u8 = 4;
const DT_CHR: u8 = 2;

/// `kernel.pty.max`: how many pairs there may be in all instances.
static LIMIT: AtomicU32 = AtomicU32::new(4096);
static IN_USE: AtomicU32 = AtomicU32::new(0);

/// Sets `kernel.pty.max`.
pub fn set_limit(limit: u32) {
    LIMIT.store(limit, Ordering::Relaxed);
}

/// What the instance's lock protects.
struct Nodes {
    options: Options,
    ptmx: Option<Arc<Inode>>,
    /// `None`: the number is taken, the node not there yet.
    slaves: BTreeMap<u32, Option<Arc<Inode>>>,
}

/// An instance.
#[derive(Clone)]
pub(crate) struct Instance(Arc<SpinLock<Nodes>>);

impl Instance {
    fn new(options: Options) -> Self {
        let nodes = Nodes { options, ptmx: None, slaves: BTreeMap::new() };
        Self(Arc::new(SpinLock::new(&INSTANCE, nodes)))
    }

    /// Takes the lowest free number.
    pub(crate) fn take_index(&self) -> Result<u32> {
        let limit = LIMIT.load(Ordering::Relaxed);
        let raise = |n: u32| (n < limit).then_some(n + 1);
        IN_USE
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, raise)
            .map_err(|_| Errno::ENOSPC)?;
        let mut nodes = self.0.lock();
        let free = nodes.slaves.keys().zip(0..).find(|(taken, n)| **taken != *n);
        let index = free.map_or(nodes.slaves.len() as u32, |(_, n)| n);
        if index >= nodes.options.max {
            IN_USE.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        nodes.slaves.insert(index, None);
        Ok(index)
    }

    /// Gives a number back and removes its node.
    pub(crate) fn remove(&self, index: u32) {
        let removed = self.0.lock().slaves.remove(&index);
        if removed.is_some() {
            IN_USE.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(Some(inode)) = removed {
            inode.set_nlink(0);
        }
    }

    /// Makes the node of a slave.
    pub(crate) fn add(&self, sb: &Arc<SuperBlock>, tty: &Arc<Tty>, index: u32, ctx: &Context<'_>) {
        let options = self.0.lock().options;
        let mut init = InodeInit::pseudo(FIRST_INO + u64::from(index), S_IFCHR | options.mode);
        init.rdev = tty.dev();
        init.uid = options.uid.unwrap_or(ctx.creds.fsuid);
        init.gid = options.gid.unwrap_or(ctx.creds.fsgid);
        let inode = Inode::new(sb, &init, Arc::new(Slave { tty: tty.clone() }), None);
        self.0.lock().slaves.insert(index, Some(inode));
    }

    fn find(&self, name: &[u8]) -> Option<Arc<Inode>> {
        let nodes = self.0.lock();
        if name == b"ptmx" {
            return nodes.ptmx.clone();
        }
        nodes.slaves.get(&parse_index(name)?).cloned().flatten()
    }

    /// The entry at or after `from` (an index): its number.
    fn next_index(&self, from: u32) -> Option<u32> {
        let nodes = self.0.lock();
        nodes.slaves.range(from..).find(|(_, inode)| inode.is_some()).map(|(index, _)| *index)
    }
}

/// A number as the directory writes it: without leading zeros.
fn parse_index(name: &[u8]) -> Option<u32> {
    let is_plain =
        name.iter().all(u8::is_ascii_digit) && (name.len() == 1 || name.first() != Some(&b'0'));
    if !is_plain {
        return None;
    }
    core::str::from_utf8(name).ok()?.parse().ok()
}

impl SuperOps for Instance {
    fn statfs(&self, sb: &SuperBlock) -> Result<FsStat> {
        Ok(FsStat {
            magic: MAGIC,
            block_size: 4096,
            name_max: 255,
            fsid: u64::from(sb.dev.minor()),
            ..FsStat::default()
        })
    }

    fn remount(&self, _: &Arc<SuperBlock>, _: u64, data: &[u8]) -> Result<()> {
        let options = Options::parse(data)?;
        let mut nodes = self.0.lock();
        nodes.options = options;
        if let Some(ptmx) = &nodes.ptmx {
            ptmx.set_mode(S_IFCHR | options.ptmx_mode);
        }
        Ok(())
    }

    fn show_options(&self, _: &SuperBlock, out: &mut dyn Write) -> fmt::Result {
        let options = self.0.lock().options;
        options.show(out)
    }

    fn put_super(&self, _: &SuperBlock) {
        // Inodes hold the super block: let them go.
        let gone = {
            let mut nodes = self.0.lock();
            (nodes.ptmx.take(), core::mem::take(&mut nodes.slaves))
        };
        IN_USE.fetch_sub(gone.1.len() as u32, Ordering::Relaxed);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The node of a slave.
pub(crate) struct Slave {
    pub(crate) tty: Arc<Tty>,
}

impl InodeOps for Slave {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Ptmx;

impl InodeOps for Ptmx {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Root(Instance);

impl InodeOps for Root {
    fn lookup(&self, _: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        Ok(self.0.find(name))
    }

    fn revalidate(&self, _: &Inode, name: &[u8], child: Option<&Inode>) -> bool {
        match (self.0.find(name), child) {
            (None, None) => true,
            (Some(now), Some(then)) => core::ptr::eq(&*now, then),
            _ => false,
        }
    }

    fn open(&self, _: &Arc<Inode>, _: u32, _: &Context<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(Arc::new(Listing(self.0.clone())))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Listing(Instance);

impl FileOps for Listing {
    fn readdir(&self, _: &File, cursor: u64, out: &mut dyn DirSink) -> Result<u64> {
        let fixed: [(&[u8], u64, u8); 3] =
            [(b".", ROOT_INO, DT_DIR), (b"..", ROOT_INO, DT_DIR), (b"ptmx", PTMX_INO, DT_CHR)];
        let mut cursor = cursor;
        while let Some((name, ino, kind)) = usize::try_from(cursor).ok().and_then(|n| fixed.get(n))
        {
            let entry = DirEntry { name, ino: *ino, kind: *kind, next: cursor + 1 };
            if !out.emit(&entry) {
                return Ok(cursor);
            }
            cursor += 1;
        }
        loop {
            let Ok(from) = u32::try_from(cursor - fixed.len() as u64) else { return Ok(cursor) };
            let Some(index) = self.0.next_index(from) else { return Ok(cursor) };
            let name = format!("{index}");
            let next = fixed.len() as u64 + u64::from(index) + 1;
            let ino = FIRST_INO + u64::from(index);
            let entry = DirEntry { name: name.as_bytes(), ino, kind: DT_CHR, next };
            if !out.emit(&entry) {
                return Ok(cursor);
            }
            cursor = next;
        }
    }

    fn fsync(&self, _: &File, _: core::ops::Range<u64>, _: bool) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The file-system type.
pub(crate) struct Devpts;

impl FileSystemType for Devpts {
    fn name(&self) -> &'static str {
        "devpts"
    }

    fn userns_mount(&self) -> bool {
        true
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        let options = Options::parse(request.data)?;
        let instance = Instance::new(options);
        let sb = SuperBlock::new(SuperInit::pseudo("devpts", MAGIC), Box::new(instance.clone()));
        sb.set_flags(request.flags);
        let mut init = InodeInit::pseudo(ROOT_INO, S_IFDIR | 0o755);
        init.flags |= InodeFlags::REVALIDATE;
        sb.set_root(Inode::new(&sb, &init, Arc::new(Root(instance.clone())), None));
        let mut init = InodeInit::pseudo(PTMX_INO, S_IFCHR | options.ptmx_mode);
        init.rdev = DeviceNumber::new(5, 2);
        let ptmx = Inode::new(&sb, &init, Arc::new(Ptmx), None);
        instance.0.lock().ptmx = Some(ptmx);
        Ok(sb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_lowest_free() {
        let instance = Instance::new(Options { max: 3, ..Options::default() });
        assert_eq!(instance.take_index(), Ok(0));
        assert_eq!(instance.take_index(), Ok(1));
        assert_eq!(instance.take_index(), Ok(2));
        assert_eq!(instance.take_index(), Err(Errno::ENOSPC));
        instance.remove(1);
        assert_eq!(instance.take_index(), Ok(1));
        assert_eq!(parse_index(b"07"), None);
        assert_eq!(parse_index(b"0"), Some(0));
        assert_eq!(parse_index(b"12"), Some(12));
        assert_eq!(parse_index(b""), None);
    }
}
