//! Data of which every processor has its own copy.
//!
//! [`percpu!`](crate::percpu!) places a static in the section `.percpu`. That section is a
//! template: every processor owns a copy of it, made before it runs its first Rust code that looks
//! at per-CPU data, and GS points at the copy's [`CpuLocal`]. An access costs one load of the
//! distance from template to copy and one addition. On the host a copy is made on first use.
//!
//! The linker script provides `__percpu_start`, `__percpu_end` and room for the boot processor's
//! copy, `__percpu_boot`, all aligned to 64 bytes.

use crate::cpu::CpuId;
#[cfg(not(target_os = "none"))]
use crate::cpu::MAX_CPUS;
use core::cell::{Cell, UnsafeCell};

#[cfg(target_os = "none")]
pub use crate::x86::local::CpuLocal;
#[cfg(target_os = "none")]
pub use crate::x86::local::{cpu_number as local_cpu_number, delta_of};

#[cfg(not(target_os = "none"))]
pub use crate::host::cpu::number as local_cpu_number;

/// A static with one value per processor; made by [`percpu!`](crate::percpu!).
#[repr(C, align(64))]
pub struct PerCpu<T: 'static> {
    #[cfg(target_os = "none")]
    value: T,
    #[cfg(not(target_os = "none"))]
    init: fn() -> T,
    #[cfg(not(target_os = "none"))]
    slots: [std::sync::OnceLock<Box<T>>; MAX_CPUS],
}

// SAFETY: values are handed out as shared references only, across processors.
unsafe impl<T: Sync> Sync for PerCpu<T> {}

impl<T: Sync> PerCpu<T> {
    /// Wraps the template value; only [`percpu!`](crate::percpu!) may call it, which puts the
    /// result where the template belongs.
    #[doc(hidden)]
    #[cfg(target_os = "none")]
    pub const fn __new(value: T) -> Self {
        PerCpu { value }
    }

    /// Wraps the constructor of the values.
    #[doc(hidden)]
    #[cfg(not(target_os = "none"))]
    pub const fn __new(init: fn() -> T) -> Self {
        PerCpu { init, slots: [const { std::sync::OnceLock::new() }; MAX_CPUS] }
    }

    /// This processor's value. It stays valid when the thread moves on: then it is another's.
    #[inline(always)]
    pub fn this(&'static self) -> &'static T {
        #[cfg(target_os = "none")]
        {
            let template = &raw const self.value;
            // SAFETY: each processor's copy of the section lies `delta` bytes from the template,
            // lives for ever and was initialised from it.
            unsafe { &*template.wrapping_byte_add(crate::x86::local::delta() as usize) }
        }
        #[cfg(not(target_os = "none"))]
        self.on(crate::cpu::id())
    }

    /// Another processor's value. The processor must be one of `cpu::possible()`.
    #[inline]
    pub fn on(&'static self, cpu: CpuId) -> &'static T {
        #[cfg(target_os = "none")]
        {
            let template = &raw const self.value;
            // SAFETY: as in `this`; `delta_of` answers the boot processor's for one without copy.
            unsafe { &*template.wrapping_byte_add(delta_of(cpu) as usize) }
        }
        #[cfg(not(target_os = "none"))]
        self.slots[cpu.index()].get_or_init(|| Box::new((self.init)()))
    }
}

/// Declares statics of type `PerCpu<T>`: one value of the constant expression per processor.
///
/// ```ignore
/// arch::percpu! { static WAKEUPS: PerCpu<AtomicU64> = AtomicU64::new(0); }
/// WAKEUPS.this().fetch_add(1, Ordering::Relaxed);
/// ```
#[macro_export]
macro_rules! percpu {
    ($($(#[$attr:meta])* $vis:vis static $name:ident : PerCpu<$ty:ty> = $init:expr;)*) => {$(
        $(#[$attr])*
        #[cfg(target_os = "none")]
        #[unsafe(link_section = ".percpu")]
        $vis static $name: $crate::percpu::PerCpu<$ty> = $crate::percpu::PerCpu::<$ty>::__new($init);
        $(#[$attr])*
        #[cfg(not(target_os = "none"))]
        $vis static $name: $crate::percpu::PerCpu<$ty> =
            $crate::percpu::PerCpu::<$ty>::__new(|| $init);
    )*};
}

/// A value that only its processor touches, with interrupts off. Not re-entrant.
pub struct PerCpuCell<T> {
    borrowed: Cell<bool>,
    #[cfg(not(target_os = "none"))]
    host: std::sync::Mutex<()>,
    value: UnsafeCell<T>,
}

// SAFETY: `with` runs with interrupts off on the one processor whose cell it is (on the host under
// a mutex), so no two accesses overlap; the value moves between threads, hence `Send`.
unsafe impl<T: Send> Sync for PerCpuCell<T> {}

impl<T> PerCpuCell<T> {
    /// Wraps the initial value.
    pub const fn new(value: T) -> Self {
        PerCpuCell {
            borrowed: Cell::new(false),
            #[cfg(not(target_os = "none"))]
            host: std::sync::Mutex::new(()),
            value: UnsafeCell::new(value),
        }
    }
}

impl<T: Send> PerCpuCell<T> {
    /// Lets `f` look at a value that its processor may be changing: for counters, whose words are
    /// each read whole but may not belong together.
    pub fn peek<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        #[cfg(not(target_os = "none"))]
        let _host = self.host.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: the value lives as long as the cell; callers read plain integers only, for which
        // a stale value is as good as a fresh one.
        f(unsafe { &*self.value.get() })
    }
}

impl<T: Send> PerCpu<PerCpuCell<T>> {
    /// Runs `f` on this processor's value with interrupts off.
    ///
    /// # Panics
    /// When `f` comes back to the same cell.
    #[inline]
    pub fn with<R>(&'static self, f: impl FnOnce(&mut T) -> R) -> R {
        let irq = crate::irq::disable();
        let cell = self.this();
        #[cfg(not(target_os = "none"))]
        let _host = cell.host.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        assert!(!cell.borrowed.replace(true), "per-CPU cell entered twice");
        // SAFETY: interrupts are off and `borrowed` was clear, so this is the only reference.
        let result = f(unsafe { &mut *cell.value.get() });
        cell.borrowed.set(false);
        drop(irq);
        result
    }
}
