//! The file system: one flat directory of queues per IPC namespace.

use crate::Charge;
use crate::queue::{Attributes, Queue};
use abi::fcntl::{O_ACCMODE, O_CREAT, O_EXCL};
use abi::stat::{DT_DIR, DT_REG};
use abi::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use core::any::Any;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use sched::Mutex;
use spin::Once;
use vfs::ops::OpenHow;
use vfs::{
    Context, DirEntry, DirSink, File, FileKind, FileOps, FileSystemType, FsStat, Inode, InodeInit,
    InodeOps, Mount, MountRequest, NewInode, Path, SuperBlock, SuperInit, SuperOps, Time,
};

const MAGIC: u64 = 0x1980_0202;
/// What each queue adds to the size of the directory.
const ENTRY_SIZE: u64 = 20;
/// The length a queue's file shows.
const FILE_SIZE: u64 = 80;

static OPENING: LockClass = LockClass::new("mqueue.opening", 206);
static TABLE: LockClass = LockClass::new("mqueue.dir", 310);

/// `/proc/sys/fs/mqueue`.
#[derive(Debug)]
pub struct Limits {
    /// `queues_max`.
    pub queues: AtomicU32,
    /// `msg_max`: messages in a queue that the unprivileged make.
    pub messages: AtomicU32,
    /// `msgsize_max`: bytes in a message of such a queue.
    pub size: AtomicU32,
    /// `msg_default`.
    pub messages_default: AtomicU32,
    /// `msgsize_default`.
    pub size_default: AtomicU32,
}

/// The queue that `mq_open` is about to make.
struct Planned {
    name: Box<[u8]>,
    attributes: Attributes,
    charge: Option<Box<dyn Charge>>,
    /// `queues_max` does not bind its maker.
    is_unbound: bool,
}

/// The queues of an IPC namespace.
pub struct Instance {
    /// Their limits.
    pub limits: Limits,
    mount: Once<Arc<Mount>>,
    opening: Mutex<()>,
    planned: SpinLock<Option<Planned>>,
    count: AtomicU32,
}

struct Super {
    /// Gone with its namespace; mounts may stay longer.
    instance: Weak<Instance>,
    next_ino: AtomicU64,
}

impl SuperOps for Super {
    fn statfs(&self, _sb: &SuperBlock) -> Result<FsStat> {
        Ok(FsStat {
            magic: MAGIC,
            block_size: 4096,
            fragment_size: 4096,
            name_max: 255,
            ..FsStat::default()
        })
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Instance {
    /// No queues yet.
    pub fn new() -> Arc<Instance> {
        Arc::new(Instance {
            limits: Limits {
                queues: AtomicU32::new(256),
                messages: AtomicU32::new(10),
                size: AtomicU32::new(8192),
                messages_default: AtomicU32::new(10),
                size_default: AtomicU32::new(8192),
            },
            mount: Once::new(),
            opening: Mutex::new(&OPENING, ()),
            planned: SpinLock::new(&TABLE, None),
            count: AtomicU32::new(0),
        })
    }

    /// The internal mount, made when it is first needed.
    fn mount(self: &Arc<Self>) -> Result<&Arc<Mount>> {
        if let Some(mount) = self.mount.get() {
            return Ok(mount);
        }
        let ops = Super { instance: Arc::downgrade(self), next_ino: AtomicU64::new(2) };
        let sb = SuperBlock::new(SuperInit::pseudo("mqueue", MAGIC), Box::new(ops));
        let root = NewInode {
            kind: FileKind::Directory,
            mode: 0o1777,
            uid: 0,
            gid: 0,
            rdev: vfs::DeviceNumber::NONE,
            target: b"",
            now: Time::now(),
        };
        let mut init = InodeInit::new(1, &root);
        init.size = 2 * ENTRY_SIZE;
        sb.set_root(Inode::new(&sb, &init, Arc::new(Dir::new()), None));
        let mount = Mount::internal(&sb)?;
        Ok(self.mount.call_once(|| mount))
    }

    fn root(self: &Arc<Self>) -> Result<Path> {
        let mount = self.mount()?;
        Ok(Path { mount: mount.clone(), dentry: mount.sb.root()? })
    }

    /// The attributes of a queue that does not say what it wants.
    pub fn default_attributes(&self) -> Attributes {
        let least = |a: &AtomicU32, b: &AtomicU32| {
            a.load(Ordering::Relaxed).min(b.load(Ordering::Relaxed)) as usize
        };
        Attributes {
            max_messages: least(&self.limits.messages, &self.limits.messages_default),
            message_size: least(&self.limits.size, &self.limits.size_default),
        }
    }

    /// `mq_open(3)`. `charge` is asked for when a queue is to be made with `attributes`.
    pub fn open(
        self: &Arc<Self>,
        ctx: &Context<'_>,
        name: &[u8],
        (flags, mode): (u32, u32),
        attributes: Attributes,
        charge: impl FnOnce() -> Result<Box<dyn Charge>>,
    ) -> Result<Arc<File>> {
        check_name(name)?;
        let root = self.root()?;
        let how = OpenHow::new(flags, mode);
        if flags & O_CREAT == 0 {
            if flags & O_ACCMODE == O_ACCMODE {
                return Err(Errno::EINVAL);
            }
            return vfs::ops::open(ctx, &root, name, &how);
        }
        let _held = self.opening.lock();
        let exists =
            vfs::ops::open(ctx, &root, name, &OpenHow::new(flags & !(O_CREAT | O_EXCL), 0));
        match exists {
            Ok(_) if flags & O_EXCL != 0 => return Err(Errno::EEXIST),
            // Access mode 3 only passes where there is nothing to have access to.
            Ok(_) if flags & O_ACCMODE == O_ACCMODE => return Err(Errno::EINVAL),
            Err(Errno::ENOENT) => {}
            Err(Errno::EACCES) if flags & O_EXCL != 0 => return Err(Errno::EEXIST),
            other => return other,
        }
        let is_unbound = ctx.creds.capable(vfs::Cap::SYS_RESOURCE);
        let plan = Planned { name: name.into(), attributes, charge: Some(charge()?), is_unbound };
        let old = self.planned.lock().replace(plan);
        drop(old);
        let opened = vfs::ops::open(ctx, &root, name, &how);
        let rest = self.planned.lock().take();
        drop(rest);
        opened
    }

    /// `mq_unlink(3)`.
    pub fn unlink(self: &Arc<Self>, ctx: &Context<'_>, name: &[u8]) -> Result<()> {
        check_name(name)?;
        vfs::ops::unlink(ctx, &self.root()?, name)
    }

    fn make(&self, name: &[u8]) -> Result<Queue> {
        let plan = {
            let mut planned = self.planned.lock();
            let is_this = planned.as_ref().is_some_and(|plan| *plan.name == *name);
            if is_this { planned.take() } else { None }
        };
        let is_unbound = plan.as_ref().is_some_and(|plan| plan.is_unbound);
        let most = self.limits.queues.load(Ordering::Relaxed);
        if !is_unbound && self.count.load(Ordering::Relaxed) >= most {
            return Err(Errno::ENOSPC);
        }
        let queue = match plan {
            Some(plan) => Queue::new(plan.attributes, plan.charge),
            None => Queue::new(self.default_attributes(), None),
        };
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(queue)
    }

    /// How many queues there are.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Queues are names in one directory.
fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() {
        return Err(Errno::ENOENT);
    }
    if name == b"." || name == b".." || name.contains(&b'/') {
        return Err(Errno::EACCES);
    }
    if name.len() > 255 { Err(Errno::ENAMETOOLONG) } else { Ok(()) }
}

/// The queues by name, each with its place in a listing.
type Queues = BTreeMap<Box<[u8]>, (u64, Arc<Inode>)>;

/// The directory.
struct Dir {
    queues: SpinLock<Queues>,
    cookies: SpinLock<BTreeMap<u64, Box<[u8]>>>,
    next: AtomicU64,
}

static COOKIES: LockClass = LockClass::new("mqueue.cookies", 311);

impl Dir {
    fn new() -> Dir {
        Dir {
            queues: SpinLock::new(&TABLE, BTreeMap::new()),
            cookies: SpinLock::new(&COOKIES, BTreeMap::new()),
            next: AtomicU64::new(3),
        }
    }

    fn changed(&self, dir: &Inode, entries: i64) {
        let size = dir.size() as i64 + entries * ENTRY_SIZE as i64;
        dir.set_size(size.max(0) as u64);
        dir.touch(Time::now());
    }
}

impl InodeOps for Dir {
    fn lookup(&self, _dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        Ok(self.queues.lock().get(name).map(|entry| entry.1.clone()))
    }

    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        if new.kind != FileKind::Regular {
            return Err(Errno::EPERM);
        }
        let own = dir.sb().private::<Super>().ok_or(Errno::EIO)?;
        let instance = own.instance.upgrade().ok_or(Errno::EACCES)?;
        let queue = instance.make(name)?;
        let mut init = InodeInit::new(own.next_ino.fetch_add(1, Ordering::Relaxed), new);
        init.size = FILE_SIZE;
        let inode = Inode::new(dir.sb(), &init, Arc::new(QueueInode(Arc::new(queue))), None);
        let cookie = self.next.fetch_add(1, Ordering::Relaxed);
        self.queues.lock().insert(name.into(), (cookie, inode.clone()));
        self.cookies.lock().insert(cookie, name.into());
        self.changed(dir, 1);
        Ok(inode)
    }

    fn unlink(&self, dir: &Arc<Inode>, name: &[u8], victim: &Arc<Inode>) -> Result<()> {
        let removed = self.queues.lock().remove(name).ok_or(Errno::ENOENT)?;
        self.cookies.lock().remove(&removed.0);
        victim.drop_link();
        victim.set_ctime(Time::now());
        self.changed(dir, -1);
        Ok(())
    }

    fn open(&self, _: &Arc<Inode>, _: u32, _: &Context<'_>) -> Result<Arc<dyn FileOps>> {
        static OPS: Once<Arc<DirFile>> = Once::new();
        Ok(OPS.call_once(|| Arc::new(DirFile)).clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The inode of a queue.
struct QueueInode(Arc<Queue>);

impl InodeOps for QueueInode {
    fn open(&self, _: &Arc<Inode>, _: u32, _: &Context<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(self.0.clone())
    }

    fn setattr(&self, inode: &Arc<Inode>, change: &vfs::SetAttr) -> Result<()> {
        inode.apply(change);
        Ok(())
    }

    fn evict(&self, inode: &Arc<Inode>) {
        if let Some(own) = inode.sb().private::<Super>()
            && let Some(instance) = own.instance.upgrade()
        {
            instance.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The open directory.
struct DirFile;

impl FileOps for DirFile {
    fn readdir(&self, file: &File, cursor: u64, out: &mut dyn DirSink) -> Result<u64> {
        let inode = file.inode();
        let dir = inode.private::<Dir>().ok_or(Errno::EIO)?;
        let mut at = cursor;
        for (number, name) in [(0u64, &b"."[..]), (1, b"..")] {
            if at == number {
                if !out.emit(&DirEntry { name, ino: inode.ino, kind: DT_DIR, next: number + 1 }) {
                    return Ok(at);
                }
                at += 1;
            }
        }
        loop {
            let next = {
                let cookies = dir.cookies.lock();
                let next = cookies.range(at..).next();
                next.map(|(&cookie, name)| (cookie, Vec::from(&**name)))
            };
            let Some((cookie, name)) = next else { return Ok(at) };
            let ino = dir.queues.lock().get(&*name).map_or(0, |entry| entry.1.ino);
            if !out.emit(&DirEntry { name: &name, ino, kind: DT_REG, next: cookie + 1 }) {
                return Ok(at);
            }
            at = cookie + 1;
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

type Current = fn() -> Option<Arc<Instance>>;
static CURRENT: Once<Current> = Once::new();

struct Mqueue;

impl FileSystemType for Mqueue {
    fn name(&self) -> &'static str {
        "mqueue"
    }
    fn userns_mount(&self) -> bool {
        true
    }
    fn mount(&self, _request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        let instance = CURRENT.get().and_then(|current| current()).ok_or(Errno::EINVAL)?;
        Ok(instance.mount()?.sb.clone())
    }
}

/// Makes the type known to `mount(2)`; `current` says which instance is the caller's.
pub fn init(current: Current) {
    CURRENT.call_once(|| current);
    vfs::register_file_system(&Mqueue);
}
