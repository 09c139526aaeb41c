//! Memory that the kernel and a program share: rings of submissions and completions.
//!
//! It is a file in the page cache that has no name and no disk; its pages are held, so that they can be
//! used in any context. A value never lies on the border of two pages.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result};
use arch::addr::PAGE_SIZE;
use frames::PageRef;
use pagecache::Mapping;
use vm::{Description, MapSource};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Shared memory.
pub struct Ring {
    mapping: Arc<Mapping>,
    pages: Vec<PageRef>,
}

impl Ring {
    /// `len` bytes, zeros.
    pub fn new(len: usize) -> Result<Ring> {
        let count = len.div_ceil(PAGE_SIZE);
        let mapping = Mapping::without_backing((count * PAGE_SIZE) as u64);
        let mut pages = Vec::new();
        pages.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        for index in 0..count {
            pages.push(mapping.get_page(index as u64)?);
        }
        Ok(Ring { mapping, pages })
    }

    /// How many bytes, whole pages.
    pub fn len(&self) -> usize {
        self.pages.len() * PAGE_SIZE
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// What a program maps; `name` is what `/proc/PID/maps` shows.
    pub fn source(&self, name: &'static str) -> Arc<dyn MapSource> {
        Arc::new(Source { mapping: self.mapping.clone(), name })
    }

    fn place(&self, at: usize, len: usize) -> Option<(&PageRef, usize)> {
        let offset = at % PAGE_SIZE;
        let page = self.pages.get(at / PAGE_SIZE)?;
        (offset + len <= PAGE_SIZE).then_some((page, offset))
    }

    /// A value as it is now; zeros where there is none.
    pub fn read<T: FromBytes>(&self, at: usize) -> T {
        let found = self
            .place(at, size_of::<T>())
            .and_then(|(page, offset)| page.part(offset, size_of::<T>()).read(0));
        found.unwrap_or_else(T::new_zeroed)
    }

    /// Writes a value.
    pub fn write<T: IntoBytes + Immutable>(&self, at: usize, value: T) {
        if let Some((page, offset)) = self.place(at, size_of::<T>()) {
            page.part(offset, size_of::<T>()).write(0, value);
        }
    }

    /// Writes bytes, which may lie on borders of pages.
    pub fn copy_in(&self, at: usize, bytes: &[u8]) {
        let (mut at, mut rest) = (at, bytes);
        while let Some(page) = self.pages.get(at / PAGE_SIZE)
            && !rest.is_empty()
        {
            let offset = at % PAGE_SIZE;
            let (now, later) = rest.split_at(rest.len().min(PAGE_SIZE - offset));
            page.copy_in(offset, now);
            (at, rest) = (at + now.len(), later);
        }
    }

    fn with_word<R>(&self, at: usize, f: impl FnOnce(&AtomicU32) -> R) -> Option<R> {
        let (page, offset) = self.place(at, 4)?;
        page.part(offset, 4).atomic32(0).map(f)
    }

    /// A word that the other side has written: what it wrote before is seen.
    pub fn load(&self, at: usize) -> u32 {
        self.with_word(at, |word| word.load(Ordering::Acquire)).unwrap_or(0)
    }

    /// Writes a word for the other side: what was written before is seen with it.
    pub fn store(&self, at: usize, value: u32) {
        self.with_word(at, |word| word.store(value, Ordering::Release));
    }

    /// Sets and clears bits of a word.
    pub fn change(&self, at: usize, set: u32, clear: u32) {
        self.with_word(at, |word| {
            word.fetch_or(set, Ordering::SeqCst);
            word.fetch_and(!clear, Ordering::SeqCst);
        });
    }
}

struct Source {
    mapping: Arc<Mapping>,
    name: &'static str,
}

impl MapSource for Source {
    fn mapping(&self) -> Option<Arc<Mapping>> {
        Some(self.mapping.clone())
    }

    fn describe(&self) -> Description {
        Description { path: String::from(self.name), ..Description::default() }
    }
}
