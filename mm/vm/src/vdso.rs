//! The vDSO's two areas, vdso(7): its data, readable only, and directly above it its code.
//!
//! Both show frames of the kernel image, so nothing is counted, and one copy serves all programs. A
//! debugger's store into the code gives its program a page of its own, as in any private mapping.

use crate::layout::MIN_ADDRESS;
use crate::vma::{Areas, FileMap, Vma, flag, prot};
use crate::{AddressSpace, MapSource};
use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::PhysAddr;
use arch::addr::{PAGE_SIZE, USER_END};
use arch::vdso::{VdsoPages, pages};
use pagecache::{Mapping, ReadAhead};

/// Pages of the kernel image that follow each other.
struct Image {
    first: PhysAddr,
    len: u64,
}

impl MapSource for Image {
    fn mapping(&self) -> Option<Arc<Mapping>> {
        None
    }
    fn device_frame(&self, offset: u64) -> Result<PhysAddr> {
        if offset < self.len { Ok(self.first + offset as usize) } else { Err(Errno::EFAULT) }
    }
}

impl Image {
    fn area(self, start: u64, prot: u32, flags: u32) -> Vma {
        let end = start + self.len;
        let file = FileMap { source: Arc::new(self), mapping: None, ahead: ReadAhead::default() };
        Vma { start, end, prot, flags, offset: 0, file: Some(Arc::new(file)), observer: None }
    }
}

impl AddressSpace {
    /// Maps the vDSO at `hint`, or where there is room if the hint is taken; the address of its
    /// code (`AT_SYSINFO_EHDR`), or `None` when this machine has none.
    pub fn map_vdso(&self, hint: u64) -> Option<u64> {
        let VdsoPages { data, code, code_len } = pages()?;
        let code = Image { first: code, len: code_len as u64 };
        let data = Image { first: data, len: PAGE_SIZE as u64 };
        let mut areas = self.areas.write();
        let at = self.vdso_room(&mut areas, hint, data.len + code.len)?;
        let above = at + data.len;
        let never_write = flag::VVAR | flag::NEVER_WRITE | flag::DONT_DUMP;
        areas.insert(data.area(at, prot::READ, never_write));
        areas.insert(code.area(above, prot::READ | prot::EXEC, flag::VDSO));
        Some(above)
    }

    fn vdso_room(&self, areas: &mut Areas, hint: u64, len: u64) -> Option<u64> {
        let end = hint.checked_add(len).filter(|end| *end <= USER_END);
        if end.is_some_and(|end| areas.is_free(hint, end)) {
            return Some(hint);
        }
        areas.find_room(len, self.mmap_base, MIN_ADDRESS)
    }
}
