//! The extended registers of a thread: x87, SSE, AVX, AVX-512.

use crate::addr::VirtAddr;

/// How a new user thread's extended registers start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FpuStart {
    /// In their initial state: a new program.
    Initial,
    /// As a copy of the current thread's: fork and clone.
    CopyCurrent,
}

#[cfg(not(target_os = "none"))]
use crate::host::thread as imp;
#[cfg(target_os = "none")]
use crate::x86::fpu as imp;

/// The size of the current processor's extended state in the standard (not compacted) format that
/// signal frames carry; without the trailing magic number.
pub fn signal_area_len() -> usize {
    imp::signal_area_len()
}

/// The features (XCR0 bits) that the area holds; 0 on a processor without XSAVE, whose frames have
/// the legacy area alone.
pub fn signal_features() -> u64 {
    imp::signal_features()
}

/// Writes the current thread's extended registers in the standard format into `area`, which is
/// [`signal_area_len`] bytes long.
pub fn save_for_signal(area: &mut [u8]) {
    imp::save_for_signal(area);
}

/// Writes the current thread's extended registers in the standard format to user memory, if all of
/// it is present; whether it was. [`save_for_signal`] is for when it is not.
pub fn save_to_user(to: VirtAddr) -> bool {
    imp::save_to_user(to)
}

/// [`restore_from_signal`] with `len` bytes of user memory, if all of them are present; whether
/// they were (and fit).
pub fn restore_from_user(from: VirtAddr, len: usize, features: u64) -> bool {
    imp::restore_from_user(from, len, features)
}

/// Replaces the current thread's extended registers by `area` (standard format, from user memory,
/// so nothing in it is trusted); features not in `features` get their initial state. Whether the
/// contents were acceptable.
pub fn restore_from_signal(area: &[u8], features: u64) -> bool {
    imp::restore_from_signal(area, features)
}

/// Puts the current thread's extended registers in their initial state: a new program. A kernel
/// thread that becomes a program gets them so.
pub fn reset_current() {
    imp::reset_current();
}

/// The saved extended registers; a kernel thread has none.
pub struct FpuState {
    area: Option<alloc::boxed::Box<[Chunk]>>,
    /// The processor they were last loaded on.
    pub(crate) last_cpu: u32,
}

/// A cache line of the save area, for its alignment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Chunk(pub(crate) [u8; 64]);

impl FpuState {
    /// No extended registers: kernel threads.
    pub const fn none() -> FpuState {
        FpuState { area: None, last_cpu: u32::MAX }
    }
    pub(crate) fn for_start(start: FpuStart) -> FpuState {
        #[cfg(target_os = "none")]
        return FpuState { area: Some(crate::x86::fpu::new_area(start)), last_cpu: u32::MAX };
        #[cfg(not(target_os = "none"))]
        {
            let _ = start;
            FpuState::none()
        }
    }
    pub(crate) fn is_some(&self) -> bool {
        self.area.is_some()
    }
    #[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "no registers there"))]
    pub(crate) fn area(&mut self) -> Option<&mut [Chunk]> {
        self.area.as_deref_mut()
    }
    #[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "no registers there"))]
    pub(crate) fn replace(&mut self, area: alloc::boxed::Box<[Chunk]>) {
        self.area = Some(area);
        self.last_cpu = u32::MAX;
    }
}
