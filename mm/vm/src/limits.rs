//! The resource limits that bind address spaces: getrlimit(2).

use crate::vma::{Areas, Vma, flag, prot};
use abi::{Errno, Result};

/// Limits in bytes; `u64::MAX` does not bind.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `RLIMIT_AS`.
    pub space: u64,
    /// `RLIMIT_DATA`: private writable memory, the heap included.
    pub data: u64,
    /// `RLIMIT_MEMLOCK`.
    pub locked: u64,
}

impl Limits {
    /// No limits: for the kernel's own mappings.
    pub const NONE: Limits = Limits { space: u64::MAX, data: u64::MAX, locked: u64::MAX };

    /// Whether an area of `bytes` may be added, `replaced` bytes of others going.
    pub(crate) fn check_new(
        &self,
        areas: &Areas,
        vma: &Vma,
        bytes: u64,
        replaced: u64,
    ) -> Result<()> {
        let more = bytes.saturating_sub(replaced);
        if (areas.total_pages << 12).saturating_add(more) > self.space {
            return Err(Errno::ENOMEM);
        }
        let is_data = vma.is_private() && vma.prot & prot::WRITE != 0;
        if is_data && !vma.has(flag::GROWS_DOWN) {
            self.check_data(areas.data_pages + (more >> 12))?;
        }
        if vma.has(flag::LOCKED) && (areas.locked_pages << 12).saturating_add(more) > self.locked {
            return Err(Errno::EAGAIN);
        }
        Ok(())
    }

    /// Whether an area may grow by `more` bytes.
    pub(crate) fn check_growth(&self, areas: &Areas, vma: &Vma, more: u64) -> Result<()> {
        self.check_new(areas, vma, more, 0)
    }

    pub(crate) fn check_data(&self, pages: u64) -> Result<()> {
        if pages << 12 > self.data { Err(Errno::ENOMEM) } else { Ok(()) }
    }
}
