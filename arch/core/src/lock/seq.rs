//! A sequence lock: readers never write and never wait for each other.

use super::check::LockClass;
use super::spin_lock::IrqLock;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Small data that is read much more often than written. Readers may run anywhere, interrupt
/// handlers included; they read again when a writer came between.
pub struct SeqLock<T: Copy> {
    sequence: AtomicU32,
    writer: IrqLock<()>,
    value: UnsafeCell<T>,
}

// SAFETY: readers copy word by word and discard torn copies; writers exclude each other.
unsafe impl<T: Copy + Send> Sync for SeqLock<T> {}

impl<T: Copy> SeqLock<T> {
    /// Wraps the value; its size must be a multiple of 8 and its alignment 8.
    pub const fn new(class: &'static LockClass, value: T) -> Self {
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() >= 8) };
        SeqLock {
            sequence: AtomicU32::new(0),
            writer: IrqLock::new(class, ()),
            value: UnsafeCell::new(value),
        }
    }

    /// A consistent copy.
    #[inline]
    pub fn read(&self) -> T {
        let mut turn = 0;
        loop {
            // Acquire: the copy below comes after; pairs with the writer's release.
            let before = self.sequence.load(Ordering::Acquire);
            if before & 1 == 0 {
                let mut copy = core::mem::MaybeUninit::<T>::uninit();
                for index in 0..size_of::<T>() / 8 {
                    // SAFETY: both sides are `size_of::<T>()` bytes of aligned words; the shared
                    // side is only ever accessed through relaxed atomics.
                    unsafe {
                        let from = AtomicU64::from_ptr(self.value.get().cast::<u64>().add(index));
                        copy.as_mut_ptr()
                            .cast::<u64>()
                            .add(index)
                            .write(from.load(Ordering::Relaxed));
                    }
                }
                fence(Ordering::Acquire);
                if self.sequence.load(Ordering::Relaxed) == before {
                    // SAFETY: no writer came between, so the words are those of one valid value.
                    return unsafe { copy.assume_init() };
                }
            }
            super::wait_turn(&mut turn);
        }
    }

    /// Changes the value.
    pub fn write(&self, change: impl FnOnce(&mut T)) {
        let _writer = self.writer.lock();
        // SAFETY: the writer lock excludes other writers; readers only copy.
        let mut value = unsafe { self.value.get().read() };
        change(&mut value);
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for index in 0..size_of::<T>() / 8 {
            // SAFETY: as in `read`; padding, if any, is copied as it is.
            unsafe {
                let word = (&raw const value).cast::<u64>().add(index).read();
                let to = AtomicU64::from_ptr(self.value.get().cast::<u64>().add(index));
                to.store(word, Ordering::Relaxed);
            }
        }
        // Release: pairs with the reader's acquire.
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }
}
