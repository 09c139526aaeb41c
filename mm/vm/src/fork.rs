//! `fork(2)`: the child gets the parent's areas and shares its last-level tables copy-on-write.

use crate::AddressSpace;
use crate::commit::{commit, uncommit};
use crate::space::va;
use crate::vma::{Vma, flag};
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::addr::HUGE_SIZE;
use core::sync::atomic::Ordering;

impl AddressSpace {
    /// A copy of the address space.
    pub fn fork(&self) -> Result<Arc<AddressSpace>> {
        let child = AddressSpace::new(self.mmap_base)?;
        let brk = *self.brk.lock();
        *child.brk.lock() = brk;
        child.set_thp_disabled(self.is_thp_disabled());
        let areas = self.areas.write();
        let mut promised = 0;
        let mut left_out = false;
        {
            let mut to = child.areas.write_nested();
            for vma in areas.map.values() {
                if vma.has(flag::DONT_FORK) {
                    left_out = true;
                    continue;
                }
                left_out |= vma.has(flag::WIPE_ON_FORK);
                let mut copy = Vma { observer: None, ..vma.clone() };
                copy.flags &= !flag::LOCKED;
                if copy.has(flag::ACCOUNTED) {
                    promised += copy.pages();
                }
                child.watch(&mut copy);
                to.insert(copy);
            }
        }
        if let Err(error) = commit(promised, areas.total_pages) {
            // What the child's end takes back was never promised.
            uncommit(0u64.wrapping_sub(promised));
            return Err(error);
        }
        let shared = self.share_tables(&child, areas.map.values());
        for (to, from) in
            [(&child.anon, &self.anon), (&child.file, &self.file), (&child.shmem, &self.shmem)]
        {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        frames::Counter::Anon.change(self.anon.load(Ordering::Relaxed));
        frames::Counter::FileMapped
            .change(self.file.load(Ordering::Relaxed) + self.shmem.load(Ordering::Relaxed));
        // The parent's processors may hold writable translations.
        self.table.context().flush_all();
        if left_out {
            for vma in areas.map.values() {
                if vma.flags & (flag::DONT_FORK | flag::WIPE_ON_FORK) != 0 {
                    child.zap(vma.start, vma.end, false);
                }
            }
        }
        drop(areas);
        shared.map(|()| child)
    }

    fn share_tables<'a>(
        &self,
        child: &AddressSpace,
        areas: impl Iterator<Item = &'a Vma>,
    ) -> Result<()> {
        let _tables = self.tables.lock();
        let mut next = 0;
        for vma in areas {
            let mut at = (vma.start & !(HUGE_SIZE as u64 - 1)).max(next);
            while let Some(used) = self.table.next_used(va(at), va(vma.end)) {
                at = used.0 & !(HUGE_SIZE as u64 - 1);
                // The child's stores would be to pages of 2 MiB that are not its alone.
                self.split_huge(at)?;
                self.table.share(&child.table, va(at)).map_err(|_| Errno::ENOMEM)?;
                at += HUGE_SIZE as u64;
            }
            next = next.max(at);
        }
        Ok(())
    }
}
