//! Mappings at fixed addresses.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::meter::Failure;
use crate::sys::Fd;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Bytes of a MiB.
pub const MIB: usize = 1 << 20;
/// Protection for reading and writing.
pub const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// Flags of private memory without a file.
pub const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// Where areas are, far from everything else: the start of a GiB, so that every run finds the same
/// page tables and huge pages fit.
const BASE: usize = 0x1000_0000_0000;
/// The last page of that GiB. It is there from the first area on: areas have neighbours, and only the
/// lowest level of page tables is theirs alone.
const ANCHOR: usize = BASE + (1 << 30) - PAGE;
static HAS_ANCHOR: AtomicBool = AtomicBool::new(false);

/// A mapping, removed when its owner goes.
pub struct Area {
    base: *mut u8,
    len: usize,
}

impl Area {
    /// Private memory that has not been touched.
    pub fn anonymous(len: usize) -> Result<Area, Failure> {
        Area::at(0, len, RW, ANONYMOUS, -1)
    }

    /// Private memory of which every page is there.
    pub fn filled(len: usize) -> Result<Area, Failure> {
        let area = Area::anonymous(len)?;
        area.write();
        Ok(area)
    }

    /// Anonymous memory that forked children share, filled.
    pub fn shared(len: usize) -> Result<Area, Failure> {
        let area = Area::at(0, len, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)?;
        area.write();
        Ok(area)
    }

    /// The beginning of a file.
    pub fn of_file(len: usize, protection: i32, flags: i32, file: &Fd) -> Result<Area, Failure> {
        Area::at(0, len, protection, flags, file.raw())
    }

    /// `mmap(2)` at an offset from where areas are.
    pub fn at(
        offset: usize,
        len: usize,
        protection: i32,
        flags: i32,
        fd: i32,
    ) -> Result<Area, Failure> {
        if !HAS_ANCHOR.swap(true, Relaxed) {
            let anchor = fixed(ANCHOR, PAGE, RW, ANONYMOUS, -1)?;
            // SAFETY: just mapped.
            unsafe { anchor.write_volatile(1) };
        }
        Ok(Area { base: fixed(BASE + offset, len, protection, flags, fd)?, len })
    }

    /// Its first byte.
    pub fn start(&self) -> *mut u8 {
        self.base
    }

    /// Its first byte, as most calls want it.
    pub fn address(&self) -> *mut c_void {
        self.base.cast()
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Its pages.
    pub fn pages(&self) -> usize {
        self.len / PAGE
    }

    /// Reads the first byte of every page, which must be readable.
    #[inline(always)]
    pub fn read(&self) {
        for page in 0..self.pages() {
            // SAFETY: inside the mapping.
            unsafe { self.base.add(page * PAGE).read_volatile() };
        }
    }

    /// Writes the first byte of every page, which must be writable.
    #[inline(always)]
    pub fn write(&self) {
        for page in 0..self.pages() {
            // SAFETY: inside the mapping.
            unsafe { self.base.add(page * PAGE).write_volatile(1) };
        }
    }

    /// `madvise(2)` for all of it: whether it worked.
    #[inline(always)]
    pub fn advise(&self, advice: i32) -> bool {
        // SAFETY: only our own memory.
        unsafe { libc::madvise(self.address(), self.len, advice) == 0 }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: only our own memory, which nobody refers to any more.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

fn fixed(at: usize, len: usize, protection: i32, flags: i32, fd: i32) -> Result<*mut u8, Failure> {
    let flags = flags | libc::MAP_FIXED;
    // SAFETY: at these addresses there is nothing but areas.
    let base = unsafe { libc::mmap(at as *mut c_void, len, protection, flags, fd, 0) };
    if base == libc::MAP_FAILED { Err(Failure::last("mmap")) } else { Ok(base.cast()) }
}

/// A mapping at an address of the kernel's choice, made and removed: whether that worked.
#[inline(always)]
pub fn maps(len: usize, protection: i32, flags: i32, fd: i32) -> bool {
    // SAFETY: a new mapping harms nobody, and nobody uses it.
    unsafe {
        let base = libc::mmap(ptr::null_mut(), len, protection, flags, fd, 0);
        base != libc::MAP_FAILED && libc::munmap(base, len) == 0
    }
}
