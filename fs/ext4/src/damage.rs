//! What follows when the file system turns out to be damaged: it is noted in the super block, for
//! `e2fsck` and whoever mounts it next, and `errors=` says what else happens.

use alloc::sync::Weak;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::mount::MS_RDONLY;
use abi::{Errno, Result};
use vfs::Time;

use crate::bytes::{put16, put32, u16_at, u32_at};
use crate::fs::Ext4;
use crate::layout;
use crate::options::OnError;

/// `s_state`: errors were found.
const ERROR_STATE: u16 = 2;

/// What was found since the super block was last written.
pub(crate) struct Damage {
    count: AtomicU32,
    /// It is not in the super block yet.
    is_new: AtomicBool,
}

impl Damage {
    pub(crate) fn new() -> Damage {
        Damage { count: AtomicU32::new(0), is_new: AtomicBool::new(false) }
    }
}

/// Notes `count` errors more in a raw super block and signs it.
fn note(raw: &mut [u8], count: u32) {
    let now = Time::now().sec as u32;
    let state = u16_at(raw, 0x3a);
    put16(raw, 0x3a, state | ERROR_STATE);
    let known = u32_at(raw, 0x194);
    put32(raw, 0x194, known.saturating_add(count));
    if known == 0 {
        put32(raw, 0x198, now);
    }
    put32(raw, 0x1cc, now);
    layout::sign_super(raw);
}

impl Ext4 {
    /// Passes a result on; if it says that the disk is damaged, that has consequences.
    pub(crate) fn judge<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error @ (Errno::EUCLEAN | Errno::EBADMSG)) = &result {
            self.found_damage(*error);
        }
        result
    }

    #[cold]
    fn found_damage(&self, error: Errno) {
        let name = self.device.name();
        log::error!("EXT4-fs error (device {name}): {error}");
        self.damage.count.fetch_add(1, Ordering::Relaxed);
        self.damage.is_new.store(true, Ordering::Release);
        match self.config.on_error() {
            OnError::Continue => {}
            OnError::RemountReadOnly => self.go_read_only(),
            OnError::Panic => {
                self.write_damage();
                panic!("EXT4-fs (device {name}): panic forced after error");
            }
        }
    }

    /// `abort`, the option: as if an error had been found for which nothing may be written any more.
    pub(crate) fn abort_by_user(&self) {
        log::error!("EXT4-fs error (device {}): Abort forced by user", self.device.name());
        self.damage.count.fetch_add(1, Ordering::Relaxed);
        self.damage.is_new.store(true, Ordering::Release);
        self.go_read_only();
    }

    fn go_read_only(&self) {
        if self.read_only.load(Ordering::Acquire) {
            return;
        }
        self.write_damage();
        self.stop_writing();
        if let Some(sb) = self.vfs.get().and_then(Weak::upgrade) {
            sb.set_flags(sb.flags() | MS_RDONLY);
        }
        log::error!("EXT4-fs ({}): Remounting filesystem read-only", self.device.name());
    }

    /// Puts what was found into the super block's buffer.
    pub(crate) fn store_damage(&self) -> Result<()> {
        if !self.damage.is_new.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let count = self.damage.count.swap(0, Ordering::Relaxed);
        self.modify_super(|raw| note(raw, count))
    }

    /// Writes it to the device, past the journal: that may never be written again.
    fn write_damage(&self) {
        self.damage.is_new.store(false, Ordering::Release);
        let count = self.damage.count.swap(0, Ordering::Relaxed);
        let (block, at) = self.sb.place();
        let result = crate::io::change_block(&self.device, block, self.sb.block_size, |bytes| {
            if let Some(raw) = bytes.get_mut(at..at + 1024) {
                note(raw, count);
            }
        });
        if let Err(error) = result {
            log::error!(
                "EXT4-fs ({}): I/O error while writing superblock: {error}",
                self.device.name()
            );
        }
    }
}

/// What is known of damage in a raw super block, for one that recovery puts in its place.
pub(crate) fn keep(before: &[u8], raw: &mut [u8]) {
    if u16_at(before, 0x3a) & ERROR_STATE == 0 || u32_at(raw, 0x194) >= u32_at(before, 0x194) {
        return;
    }
    let state = u16_at(raw, 0x3a);
    put16(raw, 0x3a, state | ERROR_STATE);
    if let (Some(from), Some(to)) = (before.get(0x194..0x200), raw.get_mut(0x194..0x200)) {
        to.copy_from_slice(from);
    }
    layout::sign_super(raw);
}
