//! Access to an address space from outside: `/proc/PID/mem`, `ptrace`, `process_vm_readv`, exec.

use crate::space::va;
use crate::{AddressSpace, FaultAccess, Vma, flag};
use abi::{Errno, Result};
use alloc::vec::Vec;
use arch::addr::{PAGE_SIZE, VirtAddr};
use arch::paging::{Pte, PteFlags};
use frames::{Page, PageRef, kind, page};
use mapped::Slot;

/// A copy of a page of the vDSO; what device memory reads as depends on the device, so it does not.
fn device_copy(vma: &Vma, at: u64) -> Result<PageRef> {
    if !vma.has(flag::VDSO) {
        return Err(Errno::EFAULT);
    }
    let from = (vma.index_of(at) << 12) as usize;
    let bytes = arch::vdso::image().get(from..from + PAGE_SIZE).ok_or(Errno::EFAULT)?;
    let copy = frames::alloc_page(frames::Flags::empty()).map_err(|_| Errno::ENOMEM)?;
    copy.copy_in(0, bytes);
    Ok(copy)
}

impl AddressSpace {
    /// The page at an address, faulted in; for an access that writes, such that what is written to it
    /// is written to this address space.
    pub(crate) fn remote_page(&self, at: u64, access: FaultAccess) -> Result<PageRef> {
        for _ in 0..64 {
            let areas = self.areas.read();
            let vma = areas.find(at).filter(|vma| !vma.has(flag::VVAR)).ok_or(Errno::EFAULT)?;
            // The page cache takes pages away under this lock, and unsharing gives tables up.
            let tables = self.tables.lock();
            if let Some((entry, seen, page)) = self.table.huge(va(at))
                && (access == FaultAccess::Read
                    || access == FaultAccess::Force
                    || seen.is_writable())
            {
                match PageRef::try_new(page) {
                    Some(page) if entry.load() == seen => return Ok(page),
                    _ => continue,
                }
            }
            if let Some(entry) = self.table.lookup(va(at))
                && let seen = entry.load()
                && self.is_mapped_for(vma, at, seen, access)
            {
                let is_special = seen.flags().contains(PteFlags::SOFT0);
                if is_special && vma.file.is_some() {
                    return device_copy(vma, at);
                }
                // A fault takes no lock to put a copy in place, which may free the page.
                match PageRef::try_new(page(seen.address().pfn())) {
                    Some(page) if entry.load() == seen => return Ok(page),
                    _ => continue,
                }
            }
            drop(tables);
            drop(areas);
            self.handle_fault(VirtAddr(at), access, 0)?;
        }
        Err(Errno::EFAULT)
    }

    /// Whether what an entry maps can be used for an access as it is. Holding `tables`.
    fn is_mapped_for(&self, vma: &Vma, at: u64, seen: Pte, access: FaultAccess) -> bool {
        let is_own_table = || !self.table.is_shared(va(at));
        match access {
            FaultAccess::Read => seen.is_present(),
            // The process's own, whether or not it may write there itself.
            FaultAccess::Force if vma.is_private() => {
                let is_own = |frame: &Page| {
                    frame.kind() == kind::ANON && (seen.is_writable() || frame.references() == 1)
                };
                Slot::page_of(seen).is_some_and(is_own) && is_own_table()
            }
            _ => Slot::page_of(seen).is_some() && seen.is_writable() && is_own_table(),
        }
    }

    /// The pages that hold `len` bytes from `at` on, faulted in and held: what is done to them is done
    /// to this address space as it is now. `is_written`: somebody will write to them.
    pub fn hold_pages(&self, at: VirtAddr, len: usize, is_written: bool) -> Result<Vec<PageRef>> {
        let access = if is_written { FaultAccess::Write } else { FaultAccess::Read };
        let first = at.page_down().0;
        let end = at.0.checked_add(len as u64).ok_or(Errno::EFAULT)?;
        let mut pages = Vec::new();
        pages
            .try_reserve_exact((end - first).div_ceil(PAGE_SIZE as u64) as usize)
            .map_err(|_| Errno::ENOMEM)?;
        for page in (first..end).step_by(PAGE_SIZE) {
            pages.push(self.remote_page(page, access)?);
        }
        Ok(pages)
    }

    /// Copies out; how many bytes before the first that cannot be read.
    pub fn read_remote(&self, from: VirtAddr, to: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < to.len() {
            let at = from + done;
            let part = (PAGE_SIZE - at.page_offset()).min(to.len() - done);
            match self.remote_page(at.page_down().0, FaultAccess::Read) {
                Ok(page) => {
                    let Some(buffer) = to.get_mut(done..done + part) else { break };
                    page.copy_out(at.page_offset(), buffer);
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += part;
        }
        Ok(done)
    }

    /// Copies in; how many bytes before the first that cannot be written.
    pub fn write_remote(&self, to: VirtAddr, from: &[u8]) -> Result<usize> {
        self.write_pages(to, from, FaultAccess::Write)
    }

    /// Copies in as a debugger does: private memory need not be writable, and others that have the
    /// page do not see the change.
    pub fn write_forced(&self, to: VirtAddr, from: &[u8]) -> Result<usize> {
        self.write_pages(to, from, FaultAccess::Force)
    }

    fn write_pages(&self, to: VirtAddr, from: &[u8], access: FaultAccess) -> Result<usize> {
        let mut done = 0;
        while done < from.len() {
            let at = to + done;
            let part = (PAGE_SIZE - at.page_offset()).min(from.len() - done);
            match self.remote_page(at.page_down().0, access) {
                Ok(page) => {
                    let Some(bytes) = from.get(done..done + part) else { break };
                    page.copy_in(at.page_offset(), bytes);
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += part;
        }
        Ok(done)
    }

    /// What a futex at an address is known by to everybody who maps the same memory: an object and
    /// an offset; `None` for private memory.
    pub fn shared_key(&self, at: VirtAddr) -> Result<Option<(u64, u64)>> {
        let areas = self.areas.read();
        let vma = areas.find(at.0).ok_or(Errno::EFAULT)?;
        let mapping = vma.file.as_ref().and_then(|file| file.mapping.as_ref());
        match mapping {
            Some(mapping) if !vma.is_private() => {
                let object = alloc::sync::Arc::as_ptr(mapping).addr() as u64;
                Ok(Some((object, at.0 - vma.start + vma.offset)))
            }
            _ => Ok(None),
        }
    }
}
