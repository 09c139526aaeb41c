//! The `ioctl`s of a loop device (man 4 loop): binding, changing and letting go.

use alloc::sync::Arc;

use abi::loopdev::*;
use abi::{Errno, Result};
use arch::{VirtAddr, user};
use block::{Device, Disk, ReadOnly};
use vfs::{Cap, Context, File};

use crate::drive::{Binding, Drive, check_file};
use crate::registry;
use crate::status;

const BLKRRPART: u32 = 0x125f;
const LOOP_MAJOR: u32 = 7;
const PAGE_SIZE: u32 = 4096;
/// Chains of loop devices that are bound to loop devices end here.
const MAX_CHAIN: u32 = 64;

pub(crate) struct Control;

impl blockdev::Control for Control {
    fn ioctl(
        &self,
        device: &Arc<Device>,
        file: &Arc<File>,
        ctx: &Context<'_>,
        cmd: u32,
        arg: usize,
    ) -> Result<usize> {
        if device.partition().is_some() {
            return Err(Errno::ENOIOCTLCMD);
        }
        let drive = registry::drive_of(device.id().minor).ok_or(Errno::ENOIOCTLCMD)?;
        let may_write = || match file.can_write() {
            true => Ok(()),
            false => ctx.creds.require(Cap::SYS_ADMIN),
        };
        let at = VirtAddr::new(arg as u64);
        match cmd {
            LOOP_SET_FD => {
                let backing = ctx.caller.open_file(arg as i32)?;
                drive.bind(file, backing, &status::empty(), 0, LO_FLAGS_READ_ONLY)?;
            }
            LOOP_CONFIGURE => {
                let config: LoopConfig = user::read_val(at)?;
                let backing = ctx.caller.open_file(config.fd as i32)?;
                if config.info.lo_flags & !LO_FLAGS_CONFIGURABLE != 0 {
                    return Err(Errno::EINVAL);
                }
                drive.bind(
                    file,
                    backing,
                    &config.info,
                    config.block_size,
                    LO_FLAGS_CONFIGURABLE,
                )?;
            }
            LOOP_CHANGE_FD => drive.change_file(ctx.caller.open_file(arg as i32)?)?,
            LOOP_CLR_FD => drive.let_go()?,
            LOOP_SET_STATUS => {
                may_write()?;
                drive.set_status(&status::widen(&user::read_val(at)?))?;
            }
            LOOP_SET_STATUS64 => {
                may_write()?;
                drive.set_status(&user::read_val(at)?)?;
            }
            LOOP_GET_STATUS => user::write_val(at, &status::narrow(&drive.status()?)?)?,
            LOOP_GET_STATUS64 => user::write_val(at, &drive.status()?)?,
            LOOP_SET_CAPACITY => {
                may_write()?;
                drive.measure()?;
            }
            LOOP_SET_DIRECT_IO => {
                may_write()?;
                drive.set_direct(arg != 0)?;
            }
            LOOP_SET_BLOCK_SIZE => {
                may_write()?;
                drive.set_block_size(arg)?;
            }
            BLKRRPART => {
                let binding = drive.binding.get();
                if !binding.is_some_and(|binding| binding.has(LO_FLAGS_PARTSCAN)) {
                    return Err(Errno::EINVAL);
                }
                return Err(Errno::ENOIOCTLCMD);
            }
            _ => return Err(Errno::ENOIOCTLCMD),
        }
        Ok(0)
    }
}

impl Drive {
    /// Binds the device, which `opened` is open, to `file`. Of the flags in `info` those in `allowed` count.
    pub(crate) fn bind(
        &self,
        opened: &File,
        file: Arc<File>,
        info: &LoopInfo64,
        block_size: u32,
        allowed: u32,
    ) -> Result<()> {
        let disk = self.disk().ok_or(Errno::ENXIO)?;
        let _held = self.config.lock();
        if self.binding.is_some() || disk.whole().is_claimed() {
            return Err(Errno::EBUSY);
        }
        self.check_chain(&file)?;
        check_file(&file)?;
        if block_size != 0 {
            check_block_size(block_size)?;
        }
        let mut binding = Binding {
            file,
            offset: 0,
            limit: 0,
            flags: info.lo_flags & allowed & !LO_FLAGS_READ_ONLY,
            name: [0; LO_NAME_SIZE],
            crypt_name: [0; LO_NAME_SIZE],
            words: [0; 2],
        };
        status::apply(&mut binding, info)?;
        let is_read_only = info.lo_flags & allowed & LO_FLAGS_READ_ONLY != 0
            || !binding.file.can_write()
            || !opened.can_write();
        if is_read_only {
            binding.flags |= LO_FLAGS_READ_ONLY;
        }
        if binding.has(LO_FLAGS_DIRECT_IO) && !can_be_direct(&binding.file) {
            binding.flags &= !LO_FLAGS_DIRECT_IO;
        }
        // A file that is used without its cache by who opened it.
        if binding.file.flags() & abi::fcntl::O_DIRECT != 0 {
            binding.flags |= LO_FLAGS_DIRECT_IO;
        }
        disk.set_read_only(if is_read_only { ReadOnly::Yes } else { ReadOnly::No });
        disk.set_block_size(if block_size == 0 { 512 } else { block_size });
        let (sectors, scans) = (binding.sectors(), binding.has(LO_FLAGS_PARTSCAN));
        self.binding.set(Some(Arc::new(binding)));
        self.start();
        block::attributes_changed();
        disk.set_capacity(sectors);
        if scans {
            scan(&disk);
        }
        Ok(())
    }

    /// Refuses a device that is bound, in the end, to this one.
    fn check_chain(&self, file: &Arc<File>) -> Result<()> {
        let mut file = file.clone();
        for _ in 0..MAX_CHAIN {
            let Some(device) = blockdev::device_of(&file) else { return Ok(()) };
            if device.id().major != LOOP_MAJOR {
                return Ok(());
            }
            if device.id().minor == self.index {
                return Err(Errno::EBADF);
            }
            let below = registry::drive_of(device.id().minor).ok_or(Errno::EINVAL)?;
            let next = below.binding.get().ok_or(Errno::EINVAL)?.file.clone();
            file = next;
        }
        Err(Errno::EBADF)
    }

    fn bound(&self) -> Result<(Arc<Binding>, Arc<Disk>)> {
        let binding = self.binding.get().ok_or(Errno::ENXIO)?;
        Ok((binding, self.disk().ok_or(Errno::ENXIO)?))
    }

    fn replace(&self, binding: Binding) {
        self.binding.set(Some(Arc::new(binding)));
        block::attributes_changed();
    }

    /// `LOOP_CHANGE_FD`: another file of the same size, for a device that is only read.
    pub(crate) fn change_file(&self, file: Arc<File>) -> Result<()> {
        // Its file may be a device that clears itself when it goes: it goes after the lock.
        let _last = self.binding.get();
        let _held = self.config.lock();
        let (binding, disk) = self.bound()?;
        if !binding.has(LO_FLAGS_READ_ONLY) {
            return Err(Errno::EINVAL);
        }
        self.check_chain(&file)?;
        check_file(&file)?;
        let next = Binding { file, ..(*binding).clone() };
        if next.sectors() != disk.whole().sectors() {
            return Err(Errno::EINVAL);
        }
        self.replace(next);
        drop_cached(&disk);
        Ok(())
    }

    /// `LOOP_CLR_FD`: at once if only the caller has the device open, else with the last close.
    pub(crate) fn let_go(&self) -> Result<()> {
        // As in `change_file`.
        let _last = self.binding.get();
        let _held = self.config.lock();
        let (binding, disk) = self.bound()?;
        if disk.whole().users() > 1 {
            let flags = binding.flags | LO_FLAGS_AUTOCLEAR;
            self.replace(Binding { flags, ..(*binding).clone() });
            return Ok(());
        }
        self.clear(&disk);
        Ok(())
    }

    /// What a device that clears itself does when nobody has it open.
    pub(crate) fn clear_if_unused(&self) {
        // As in `change_file`.
        let _last = self.binding.get();
        let _held = self.config.lock();
        let Ok((binding, disk)) = self.bound() else { return };
        // Somebody may have opened it since.
        if binding.has(LO_FLAGS_AUTOCLEAR) && disk.whole().users() == 0 {
            self.clear(&disk);
        }
    }

    /// Lets the file go. The configuration is locked.
    fn clear(&self, disk: &Arc<Disk>) {
        for device in disk.devices() {
            if let Err(error) = device.mapping().sync() {
                log::warn!("{}: {error} while it is detached", device.name());
            }
        }
        disk.set_capacity(0);
        scan(disk);
        self.stop();
        self.binding.set(None);
        disk.set_read_only(ReadOnly::No);
        disk.set_block_size(512);
        block::attributes_changed();
    }

    pub(crate) fn set_status(&self, info: &LoopInfo64) -> Result<()> {
        let _held = self.config.lock();
        let (binding, disk) = self.bound()?;
        let mut next = (*binding).clone();
        status::apply(&mut next, info)?;
        let kept = binding.flags & !(LO_FLAGS_CLEARABLE & !info.lo_flags);
        next.flags = kept | info.lo_flags & LO_FLAGS_SETTABLE;
        let moves = (next.offset, next.limit) != (binding.offset, binding.limit);
        let scans = next.has(LO_FLAGS_PARTSCAN) && !binding.has(LO_FLAGS_PARTSCAN);
        if moves {
            // What was written went to the old place, and is not at the new one.
            disk.whole().mapping().sync()?;
        }
        let sectors = next.sectors();
        self.replace(next);
        if moves {
            drop_cached(&disk);
            disk.set_capacity(sectors);
        }
        if scans {
            scan(&disk);
        }
        Ok(())
    }

    pub(crate) fn status(&self) -> Result<LoopInfo64> {
        let _held = self.config.lock();
        let (binding, _) = self.bound()?;
        status::of(self.index, &binding)
    }

    /// `LOOP_SET_CAPACITY`: the file may have another size now.
    fn measure(&self) -> Result<()> {
        let _held = self.config.lock();
        let (binding, disk) = self.bound()?;
        disk.set_capacity(binding.sectors());
        Ok(())
    }

    pub(crate) fn set_direct(&self, is_direct: bool) -> Result<()> {
        let _held = self.config.lock();
        let (binding, _) = self.bound()?;
        if is_direct && !can_be_direct(&binding.file) {
            return Err(Errno::EINVAL);
        }
        if is_direct != binding.has(LO_FLAGS_DIRECT_IO) {
            self.replace(Binding {
                flags: binding.flags ^ LO_FLAGS_DIRECT_IO,
                ..(*binding).clone()
            });
        }
        Ok(())
    }

    pub(crate) fn set_block_size(&self, bytes: usize) -> Result<()> {
        let _held = self.config.lock();
        let (_, disk) = self.bound()?;
        let bytes = u32::try_from(bytes).map_err(|_| Errno::EINVAL)?;
        check_block_size(bytes)?;
        if bytes != disk.whole().block_size() {
            disk.whole().mapping().sync()?;
            drop_cached(&disk);
            disk.set_block_size(bytes);
        }
        Ok(())
    }
}

fn can_be_direct(file: &File) -> bool {
    file.ops().supports_direct(file)
}

fn check_block_size(bytes: u32) -> Result<()> {
    match bytes {
        512..=PAGE_SIZE if bytes.is_power_of_two() => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

fn drop_cached(disk: &Disk) {
    for device in disk.devices() {
        device.mapping().drop_clean(0, pagecache::MAX_INDEX);
    }
}

fn scan(disk: &Arc<Disk>) {
    if let Err(error) = disk.rescan() {
        log::warn!("{}: cannot read the partition table: {error}", disk.name());
    }
}
