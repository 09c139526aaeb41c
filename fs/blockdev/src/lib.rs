#![doc = include_str!("../README.md")]
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use core::ops::Range;

use abi::{Errno, Result};
use arch::VirtAddr;
use arch::lock::Once;
use arch::uio::{Sink, Source};
use arch::user;
use block::{Asker, Bio, Device, DeviceId, Disk, Event, Op, Purpose, SECTOR_SHIFT, Use};
use vfs::dev::{DeviceNode, DeviceOpen, Opened};
use vfs::file::FileMode;
use vfs::{
    Cap, Context, DeviceNumber, DirectIo, Direction, File, FileKind, FileOps, Inode, MapArgs,
    MountRequest, Walk, pagefile, seek,
};
use vm::MapSource;

#[cfg(test)]
mod tests;

/// man 4 loop; `Documentation/admin-guide/devices.txt` lists the numbers.
const LOOP_MAJOR: u32 = 7;
const O_ACCMODE: u32 = 3;
const O_EXCL: u32 = 0o200;
const O_NONBLOCK: u32 = 0o4000;
const SEEK_DATA: u32 = 3;

const BLKROSET: u32 = 0x125d;
const BLKROGET: u32 = 0x125e;
const BLKRRPART: u32 = 0x125f;
const BLKGETSIZE: u32 = 0x1260;
const BLKFLSBUF: u32 = 0x1261;
const BLKRAGET: u32 = 0x1263;
const BLKSSZGET: u32 = 0x1268;
const BLKBSZGET: u32 = 0x8008_1270;
const BLKGETSIZE64: u32 = 0x8008_1272;
const BLKDISCARD: u32 = 0x1277;
const BLKIOMIN: u32 = 0x1278;
const BLKIOOPT: u32 = 0x1279;
const BLKALIGNOFF: u32 = 0x127a;
const BLKPBSZGET: u32 = 0x127b;
const BLKZEROOUT: u32 = 0x127f;
const BLKROTATIONAL: u32 = 0x127e;
const HDIO_GETGEO: u32 = 0x301;

fn number(id: DeviceId) -> DeviceNumber {
    DeviceNumber::new(id.major, id.minor)
}

/// `ioctl`s of a driver that have to do with files.
pub trait Control: Send + Sync {
    /// Answers an `ioctl` on the open device `file`; `ENOIOCTLCMD` for what all block devices know.
    fn ioctl(
        &self,
        device: &Arc<Device>,
        file: &Arc<File>,
        ctx: &Context<'_>,
        cmd: u32,
        arg: usize,
    ) -> Result<usize>;
}

static LOOP: Once<&'static dyn Control> = Once::new();

/// Sets who answers for loop devices.
pub fn set_loop_control(control: &'static dyn Control) {
    LOOP.call_once(|| control);
}

/// The device behind an open file, if it is one.
pub fn device_of(file: &File) -> Option<&Arc<Device>> {
    file.private::<BlockFile>().map(|open| open.device.device())
}

/// The block device a mount's source names: a node, or (at start-up) a name without one.
pub fn source_of(request: &MountRequest<'_>) -> Result<Arc<Device>> {
    let source = request.source;
    let text = core::str::from_utf8(source).map_err(|_| Errno::EINVAL)?;
    match vfs::walk(request.ctx, request.ctx.cwd, source, Walk::FOLLOW) {
        Ok(path) => {
            let inode = path.dentry.inode().ok_or(Errno::ENOENT)?;
            if inode.kind != FileKind::BlockDevice {
                return Err(Errno::ENOTBLK);
            }
            let (major, minor) = (inode.rdev.major(), inode.rdev.minor());
            block::by_id(DeviceId { major, minor }).ok_or(Errno::ENXIO)
        }
        Err(error) => block::by_spec(text).ok_or(error),
    }
}

/// man 2 open, O_NONBLOCK: a drive can be asked without a medium in it.
fn purpose(flags: u32) -> Purpose {
    match flags & O_ACCMODE {
        _ if flags & O_NONBLOCK != 0 => Purpose::Look,
        0 => Purpose::Read,
        _ => Purpose::Write,
    }
}

struct Opener;

impl DeviceOpen for Opener {
    fn open(
        &self,
        dev: DeviceNumber,
        _inode: &Arc<Inode>,
        flags: u32,
        _ctx: &Context<'_>,
    ) -> Result<Opened> {
        let id = DeviceId { major: dev.major(), minor: dev.minor() };
        let device = block::by_id(id).ok_or(Errno::ENXIO)?;
        device.prepare(purpose(flags))?;
        if flags & O_ACCMODE != 0 && device.is_read_only() {
            return Err(Errno::EACCES);
        }
        // open(2): O_EXCL without O_CREAT on a block device fails if it is in use.
        if flags & O_EXCL != 0 && device.is_claimed() {
            return Err(Errno::EBUSY);
        }
        let mode = FileMode::SEEK | FileMode::POSITIONAL | FileMode::LOCK_POSITION;
        Ok(Opened { ops: Arc::new(BlockFile { device: device.open() }), mode })
    }
}

/// An open block device.
struct BlockFile {
    device: Use,
}

impl BlockFile {
    fn device(&self) -> &Arc<Device> {
        self.device.device()
    }

    /// `BLKZEROOUT`: by the device itself if it can, else through the cache.
    fn zero(&self, start: u64, end: u64) -> Result<()> {
        let device = self.device();
        device.mapping().write_and_wait(start, end.saturating_sub(1))?;
        match device.write_zeroes(start / 512, (end - start) / 512) {
            Ok(()) => {
                // What the cache has of it is old.
                return device.mapping().punch(start, end);
            }
            Err(Errno::EOPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
        let mut at = start;
        while at < end {
            let len = (end - at).min(1 << 20) as usize;
            let written = device.mapping().write(at, &mut Source::zeros(len))?;
            if written == 0 {
                return Err(Errno::EIO);
            }
            at += written as u64;
        }
        device.mapping().write_and_wait(start, end.saturating_sub(1))
    }
}

impl FileOps for BlockFile {
    fn read_at(&self, file: &File, pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        self.device().mapping().read(pos, sink, file.read_ahead())
    }

    fn write_at(&self, _file: &File, pos: u64, source: &mut Source<'_>) -> Result<usize> {
        let size = self.device().size();
        if pos >= size && !source.is_empty() {
            return Err(Errno::ENOSPC);
        }
        let room = usize::try_from(size - pos.min(size)).unwrap_or(usize::MAX);
        let cut = source.truncate(room);
        let written = self.device().mapping().write(pos, source);
        source.reexpand(cut);
        written
    }

    /// What was written is on its way before the device can be taken away: as on Linux, a close waits for it.
    fn release(&self, file: &File) {
        if file.can_write()
            && let Err(error) = self.device().mapping().sync()
        {
            log::warn!("{}: {error} when it was closed", self.device().name());
        }
    }

    fn supports_direct(&self, _file: &File) -> bool {
        true
    }

    fn start_direct(&self, _file: &File, io: DirectIo) -> core::result::Result<(), DirectIo> {
        let device = self.device();
        let unit = u64::from(device.block_size().max(512));
        let is_write = io.direction == Direction::Write;
        let (end, size) = (io.pos.saturating_add(io.len() as u64), device.size());
        if !io.is_aligned(unit) {
            (io.done)(Err(Errno::EINVAL));
            return Ok(());
        }
        // The end of the device is the cache's business, and so is what is mapped.
        if end > size || device.mapping().prepare_direct(io.pos, end, is_write).is_err() {
            return Err(io);
        }
        let op = if is_write { Op::Write } else { Op::Read };
        let (len, done) = (io.len(), io.done);
        let mut bio =
            Bio::new(op, io.pos >> SECTOR_SHIFT, move |result| done(result.map(|()| len)));
        for piece in io.pieces {
            bio.push(piece.page, piece.offset, piece.len);
        }
        device.submit(bio);
        Ok(())
    }

    fn seek(&self, _file: &File, current: u64, offset: i64, whence: u32) -> Result<u64> {
        if whence >= SEEK_DATA {
            return Err(Errno::EINVAL);
        }
        seek::seek_within(current, offset, whence, self.device().size(), i64::MAX as u64)
    }

    fn fsync(&self, _file: &File, range: Range<u64>, _data_only: bool) -> Result<()> {
        self.device().mapping().write_and_wait(range.start, range.end)?;
        self.device().flush()
    }

    fn mmap(&self, file: &Arc<File>, _args: &MapArgs) -> Result<Arc<dyn MapSource>> {
        pagefile::map(file)
    }

    fn ioctl(&self, file: &Arc<File>, ctx: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        let device = self.device();
        if device.id().major == LOOP_MAJOR
            && let Some(control) = LOOP.get()
        {
            match control.ioctl(device, file, ctx, cmd, arg) {
                Err(Errno::ENOIOCTLCMD) => {}
                other => return other,
            }
        }
        let limits = device.limits();
        let at = VirtAddr::new(arg as u64);
        let put32 = |value: u32| -> Result<usize> {
            user::write_val(at, &value)?;
            Ok(0)
        };
        let put64 = |value: u64| -> Result<usize> {
            user::write_val(at, &value)?;
            Ok(0)
        };
        match cmd {
            BLKGETSIZE64 => put64(device.size()),
            BLKGETSIZE => put64(device.sectors()),
            BLKSSZGET => put32(device.block_size()),
            BLKPBSZGET => put32(limits.physical_block_size.max(device.block_size())),
            BLKBSZGET => put32(4096),
            BLKIOMIN => {
                put32(limits.io_min.max(limits.physical_block_size).max(device.block_size()))
            }
            BLKIOOPT => put32(limits.io_opt),
            BLKALIGNOFF => put32(0),
            BLKROTATIONAL => {
                user::write_val(at, &u16::from(limits.rotational))?;
                Ok(0)
            }
            BLKRAGET => put64(256),
            BLKROGET => put32(u32::from(device.is_read_only())),
            BLKROSET => {
                ctx.creds.require(Cap::SYS_ADMIN).map_err(|_| Errno::EACCES)?;
                let value: u32 = user::read_val(at)?;
                let state = if value == 0 { block::ReadOnly::No } else { block::ReadOnly::Yes };
                block::disk_of(device).ok_or(Errno::ENXIO)?.set_read_only(state);
                Ok(0)
            }
            BLKFLSBUF => {
                ctx.creds.require(Cap::SYS_ADMIN).map_err(|_| Errno::EACCES)?;
                device.sync()?;
                device.mapping().drop_clean(0, pagecache::MAX_INDEX);
                Ok(0)
            }
            BLKRRPART => {
                ctx.creds.require(Cap::SYS_ADMIN).map_err(|_| Errno::EACCES)?;
                if device.partition().is_some() {
                    return Err(Errno::EINVAL);
                }
                block::disk_of(device).ok_or(Errno::ENXIO)?.rescan()?;
                Ok(0)
            }
            BLKDISCARD | BLKZEROOUT => {
                if !file.can_write() {
                    return Err(Errno::EBADF);
                }
                let start: u64 = user::read_val(at)?;
                let len: u64 = user::read_val(VirtAddr::new(arg as u64 + 8))?;
                let unit = u64::from(device.block_size());
                let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
                if !start.is_multiple_of(unit) || !len.is_multiple_of(unit) || end > device.size() {
                    return Err(Errno::EINVAL);
                }
                if cmd == BLKZEROOUT {
                    return self.zero(start, end).map(|()| 0);
                }
                if limits.max_discard_sectors == 0 {
                    return Err(Errno::EOPNOTSUPP);
                }
                device.mapping().punch(start, end)?;
                device.discard(start / 512, len / 512)?;
                Ok(0)
            }
            HDIO_GETGEO if !limits.removable => {
                let start = device.partition().map_or(0, |partition| partition.start);
                let cylinders = (device.sectors() / (255 * 63)).min(u64::from(u16::MAX)) as u16;
                // struct hd_geometry: heads, sectors, cylinders, then the start as a long.
                user::write_val(at, &[255u8, 63])?;
                user::write_val(VirtAddr::new(arg as u64 + 2), &cylinders)?;
                user::write_val(VirtAddr::new(arg as u64 + 8), &start)?;
                Ok(0)
            }
            _ => {
                let asker = Asker {
                    users: device.users(),
                    may_administer: ctx.creds.require(Cap::SYS_ADMIN).is_ok(),
                    may_do_raw_io: ctx.creds.require(Cap::SYS_RAWIO).is_ok(),
                };
                device.driver().ioctl(asker, cmd, arg)
            }
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn node_of(device: &Device) -> DeviceNode {
    DeviceNode {
        name: String::from(device.name()),
        kind: FileKind::BlockDevice,
        dev: number(device.id()),
        mode: 0o600,
        class: "block",
        attributes: alloc::vec::Vec::new(),
    }
}

fn on_event(event: Event, _disk: &Arc<Disk>, device: &Arc<Device>) {
    let node = node_of(device);
    match event {
        Event::Added => {
            let served =
                vfs::dev::register_block(node.dev, 1, driver_name(device), Arc::new(Opener));
            if let Err(error) = served {
                log::error!("{}: cannot serve its number: {error}", device.name());
            }
            vfs::dev::add_node(node);
        }
        Event::Removed => {
            vfs::dev::remove_node(node.kind, node.dev);
            vfs::dev::unregister(FileKind::BlockDevice, node.dev);
        }
        Event::Changed => {}
    }
}

/// The name that `/proc/devices` shows for the major.
fn driver_name(device: &Device) -> &'static str {
    match device.id().major {
        1 => "ramdisk",
        LOOP_MAJOR => "loop",
        8 => "sd",
        11 => "sr",
        254 => "virtblk",
        _ => "blkext",
    }
}

/// Makes nodes for the disks that exist and those that come. Once, at start-up.
pub fn init() {
    block::set_event_hook(on_event);
}
