//! Which loop devices there are, `/dev/loop-control`, and on whose behalf files are used.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::any::Any;

use abi::loopdev::{LOOP_CTL_ADD, LOOP_CTL_GET_FREE, LOOP_CTL_REMOVE};
use abi::{Errno, Result};
use arch::lock::{LockClass, Once};
use block::{Disk, Scheduler, names};
use sched::Mutex;
use vfs::dev::{DeviceNode, DeviceOpen, Opened};
use vfs::file::FileMode;
use vfs::{
    Context, Creds, DeviceNumber, File, FileKind, FileOps, Inode, KernelCaller, MountNamespace,
    UserNamespace,
};

use crate::control::Control;
use crate::drive::Drive;

static DEVICES: LockClass = LockClass::new("loop.devices", 190);

/// A device there is.
struct Known {
    drive: Arc<Drive>,
    disk: Arc<Disk>,
}

static ALL: Mutex<BTreeMap<u32, Known>> = Mutex::new(&DEVICES, BTreeMap::new());

/// The largest number a device can have: minors have 20 bits.
const MAX_INDEX: u32 = 0xf_ffff;

/// Makes the device with a number. The devices are locked.
fn add(all: &mut BTreeMap<u32, Known>, index: u32) -> Result<()> {
    let drive = Drive::new(index);
    let disk = Disk::add_numbered(names::LOOP, index, drive.clone(), 0)?;
    drive.disk.call_once(|| Arc::downgrade(&disk));
    // The file's own disk sorts.
    disk.whole().set_scheduler(Scheduler::None);
    all.insert(index, Known { drive, disk });
    Ok(())
}

/// The lowest number that nobody has.
fn unused(all: &BTreeMap<u32, Known>) -> Result<u32> {
    let taken = all.keys().zip(0..).take_while(|(index, place)| *index == place).count();
    u32::try_from(taken).ok().filter(|index| *index <= MAX_INDEX).ok_or(Errno::ENOSPC)
}

/// `LOOP_CTL_GET_FREE`: the first that is not bound; makes one if all are.
pub(crate) fn free() -> Result<u32> {
    let mut all = ALL.lock();
    let unbound = all.iter().find(|(_, known)| !known.drive.binding.is_some());
    if let Some((index, _)) = unbound {
        return Ok(*index);
    }
    let index = unused(&all)?;
    add(&mut all, index)?;
    Ok(index)
}

/// `LOOP_CTL_REMOVE`: `EBUSY` while it is bound or open.
fn remove(index: u32) -> Result<()> {
    let mut all = ALL.lock();
    let known = all.get(&index).ok_or(Errno::ENODEV)?;
    let held = known.drive.config.lock();
    if known.drive.binding.is_some() || known.disk.whole().users() > 0 {
        return Err(Errno::EBUSY);
    }
    known.disk.remove();
    drop(held);
    all.remove(&index);
    Ok(())
}

/// The driver of a device.
pub(crate) fn drive_of(index: u32) -> Option<Arc<Drive>> {
    ALL.lock().get(&index).map(|known| known.drive.clone())
}

/// Who uses the files: the kernel itself, whatever the rights of who bound them.
struct Kernel {
    creds: Arc<Creds>,
    mounts: Arc<MountNamespace>,
}

static KERNEL: Once<Kernel> = Once::new();

/// Does something with a file as the kernel.
pub(crate) fn as_kernel<R>(work: impl FnOnce(&Context<'_>) -> Result<R>) -> Result<R> {
    let kernel = KERNEL.get().ok_or(Errno::EIO)?;
    let root = kernel.mounts.root_path()?;
    work(&Context {
        creds: &kernel.creds,
        root: &root,
        cwd: &root,
        umask: 0,
        mounts: &kernel.mounts,
        caller: &KernelCaller,
    })
}

struct LoopControl;

impl DeviceOpen for LoopControl {
    fn open(&self, _: DeviceNumber, _: &Arc<Inode>, _: u32, _: &Context<'_>) -> Result<Opened> {
        Ok(Opened { ops: Arc::new(LoopControl), mode: FileMode::empty() })
    }
}

impl FileOps for LoopControl {
    /// man 4 loop, "/dev/loop-control".
    fn ioctl(&self, _: &Arc<File>, _: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        let index = |arg: usize| u32::try_from(arg as i32).ok().filter(|index| *index <= MAX_INDEX);
        let index = match cmd {
            LOOP_CTL_GET_FREE => free()?,
            LOOP_CTL_ADD => {
                let mut all = ALL.lock();
                let index = match arg as i32 {
                    // As many programs say "any".
                    ..0 => unused(&all)?,
                    _ => index(arg).ok_or(Errno::EINVAL)?,
                };
                if all.contains_key(&index) {
                    return Err(Errno::EEXIST);
                }
                add(&mut all, index)?;
                index
            }
            LOOP_CTL_REMOVE => {
                let index = index(arg).ok_or(Errno::EINVAL)?;
                remove(index)?;
                0
            }
            _ => return Err(Errno::ENOSYS),
        };
        Ok(index as usize)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Offers the devices, whose files are used in a namespace's name. Once, at start-up.
pub fn init(mounts: &Arc<MountNamespace>) -> Result<()> {
    let creds = Arc::new(Creds::root(UserNamespace::initial()));
    KERNEL.call_once(|| Kernel { creds, mounts: mounts.clone() });
    blockdev::set_loop_control(&Control);
    // Documentation/admin-guide/devices.txt: misc, 237.
    let dev = DeviceNumber::new(10, 237);
    vfs::dev::register_char(dev, 1, "misc", Arc::new(LoopControl))?;
    vfs::dev::add_node(DeviceNode {
        name: "loop-control".into(),
        kind: FileKind::CharDevice,
        dev,
        mode: 0o600,
        class: "misc",
        attributes: alloc::vec::Vec::new(),
    });
    Ok(())
}
