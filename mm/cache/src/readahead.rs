//! How far to read ahead: a window per open file that doubles while reads are sequential.
//!
//! A read that misses at the start of the file, or right behind the last one, opens a window. The
//! page at the window's middle gets a marker; touching it starts the next window in the background,
//! so that a sequential reader never waits once it runs. A random read gets just what it asked for.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Pages in the largest window unless the device says otherwise (128 KiB).
pub const DEFAULT_MAX_PAGES: u32 = 32;

/// Read-ahead state of one open file. Racing readers may disturb each other's guess, never
/// correctness, so all accesses are relaxed.
#[derive(Debug)]
pub struct ReadAhead {
    start: AtomicU64,
    size: AtomicU32,
    /// Pages at the window's end that are still ahead of the marker.
    ahead: AtomicU32,
    max: AtomicU32,
    /// Last page read plus one; 0: nothing read yet.
    previous: AtomicU64,
}

impl Default for ReadAhead {
    fn default() -> Self {
        Self::new()
    }
}

/// Pages to bring in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    pub(crate) start: u64,
    pub(crate) size: u32,
    /// Which page gets the marker, if any.
    pub(crate) marker: Option<u64>,
}

const RELAXED: Ordering = Ordering::Relaxed;

impl ReadAhead {
    /// Fresh: as after `open(2)` or `POSIX_FADV_NORMAL`.
    pub const fn new() -> ReadAhead {
        ReadAhead {
            start: AtomicU64::new(0),
            size: AtomicU32::new(0),
            ahead: AtomicU32::new(0),
            max: AtomicU32::new(DEFAULT_MAX_PAGES),
            previous: AtomicU64::new(0),
        }
    }

    /// `POSIX_FADV_RANDOM` is 0; `POSIX_FADV_SEQUENTIAL` doubles the default.
    pub fn set_max_pages(&self, pages: u32) {
        self.max.store(pages, RELAXED);
    }

    /// The limit in force.
    pub fn max_pages(&self) -> u32 {
        self.max.load(RELAXED)
    }

    /// Notes that page `index` was read; whether it is another page than last time.
    #[inline]
    pub(crate) fn touch(&self, index: u64) -> bool {
        let now = index.wrapping_add(1);
        if self.previous.load(RELAXED) == now {
            return false;
        }
        self.previous.store(now, RELAXED);
        true
    }

    fn store(&self, window: Window, ahead: u32) -> Window {
        self.start.store(window.start, RELAXED);
        self.size.store(window.size, RELAXED);
        self.ahead.store(ahead, RELAXED);
        window
    }

    /// The window for a miss at `index` by a read of `wanted` pages.
    pub(crate) fn on_miss(&self, index: u64, wanted: u64) -> Window {
        let max = self.max.load(RELAXED);
        let wanted = wanted.clamp(1, 512) as u32;
        let previous = self.previous.load(RELAXED);
        let next_window = self.start.load(RELAXED) + u64::from(self.size.load(RELAXED));
        let sequential = index == 0 || index == previous || index + 1 == previous;
        if max == 0 || !(sequential || index == next_window || wanted > max) {
            return Window { start: index, size: wanted, marker: None };
        }
        let size = if self.size.load(RELAXED) > 0 && index == next_window {
            Self::grow(self.size.load(RELAXED), max)
        } else {
            Self::first(wanted, max)
        };
        let ahead = if size > wanted { size - wanted } else { size };
        let window = Window { start: index, size, marker: Some(index + u64::from(size - ahead)) };
        self.store(window, ahead)
    }

    /// The next window, when the reader reached the marker at `index`.
    pub(crate) fn on_marker(&self, index: u64, wanted: u64) -> Option<Window> {
        let max = self.max.load(RELAXED);
        if max == 0 {
            return None;
        }
        let (start, size) = (self.start.load(RELAXED), self.size.load(RELAXED));
        let end = start + u64::from(size);
        let next = if index >= start && index < end {
            end
        } else {
            // Another file's window left this marker: begin right behind it.
            index + 1
        };
        let size = Self::grow(size.max(wanted.clamp(1, 512) as u32), max);
        Some(self.store(Window { start: next, size, marker: Some(next) }, size))
    }

    fn first(wanted: u32, max: u32) -> u32 {
        let size = wanted.next_power_of_two();
        if size <= max / 32 {
            size * 4
        } else if size <= max / 4 {
            size * 2
        } else {
            size.max(4).min(max.max(wanted))
        }
        .max(4.min(max))
    }

    fn grow(size: u32, max: u32) -> u32 {
        if size < max / 16 { size * 4 } else { (size * 2).min(max) }.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_reading_doubles_up_to_the_limit() {
        let state = ReadAhead::new();
        let first = state.on_miss(0, 1);
        assert_eq!(first.start, 0);
        assert!(first.size >= 4);
        let mut marker = first.marker;
        let mut end = u64::from(first.size);
        for _ in 0..6 {
            let Some(at) = marker else { panic!("window without marker") };
            let Some(next) = state.on_marker(at, 1) else { panic!("no window") };
            assert_eq!(next.start, end);
            end += u64::from(next.size);
            marker = next.marker;
        }
        assert_eq!(state.size.load(RELAXED), DEFAULT_MAX_PAGES);
    }

    #[test]
    fn random_reading_takes_what_it_asked_for() {
        let state = ReadAhead::new();
        state.touch(5);
        assert_eq!(state.on_miss(1000, 2), Window { start: 1000, size: 2, marker: None });
    }
}
