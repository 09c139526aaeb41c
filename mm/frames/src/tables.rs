//! Frames for page tables.

use crate::alloc::{Flags, alloc_page};
use crate::stats::Counter;
use arch::addr::PhysAddr;
use arch::paging::{NoMemory, TableFrames};
use framemeta::{kind, page};

pub(crate) struct Tables;

/// What `arch` is given.
pub(crate) static TABLES: &dyn TableFrames = &Tables;

impl TableFrames for Tables {
    fn allocate(&self) -> Result<PhysAddr, NoMemory> {
        let table = alloc_page(Flags::ZERO)?;
        table.set_kind(kind::TABLE);
        Counter::Tables.add(1);
        Ok(table.into_raw().phys())
    }
    fn share(&self, table: PhysAddr) {
        page(table.pfn()).get(1);
    }
    fn release(&self, table: PhysAddr) -> bool {
        let page = page(table.pfn());
        let last = page.put();
        if last {
            Counter::Tables.sub(1);
            page.free();
        }
        last
    }
    fn release_shared(&self, table: PhysAddr) -> bool {
        page(table.pfn()).put_unless_last()
    }
    fn references(&self, table: PhysAddr) -> u32 {
        page(table.pfn()).references()
    }
}
