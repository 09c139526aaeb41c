//! The extended registers of a thread: x87, SSE, AVX, AVX-512.

/// How a new user thread's extended registers start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FpuStart {
    /// In their initial state: a new program.
    Initial,
    /// As a copy of the current thread's: fork and clone.
    CopyCurrent,
}

/// The saved extended registers; a kernel thread has none.
pub struct FpuState {
    area: Option<alloc::boxed::Box<[Chunk]>>,
}

/// A cache line of the save area, for its alignment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Chunk(pub(crate) [u8; 64]);

impl FpuState {
    /// No extended registers: kernel threads.
    pub const fn none() -> FpuState {
        FpuState { area: None }
    }
    pub(crate) fn for_start(start: FpuStart) -> FpuState {
        #[cfg(target_os = "none")]
        return FpuState { area: Some(crate::x86::fpu::new_area(start)) };
        #[cfg(not(target_os = "none"))]
        {
            let _ = start;
            FpuState { area: None }
        }
    }
    #[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "no registers there"))]
    pub(crate) fn area(&mut self) -> Option<&mut [Chunk]> {
        self.area.as_deref_mut()
    }
}

/// The size of the current processor's extended state in the standard (not compacted) format that
/// signal frames carry; without the trailing magic number.
pub fn signal_area_len() -> usize {
    #[cfg(target_os = "none")]
    return crate::x86::fpu::signal_area_len();
    #[cfg(not(target_os = "none"))]
    512
}

/// The features (XCR0 bits) that the area holds.
pub fn signal_features() -> u64 {
    #[cfg(target_os = "none")]
    return crate::x86::fpu::signal_features();
    #[cfg(not(target_os = "none"))]
    3
}

/// Writes the current thread's extended registers in the standard format into `area`, which is
/// [`signal_area_len`] bytes long.
pub fn save_for_signal(area: &mut [u8]) {
    #[cfg(target_os = "none")]
    crate::x86::fpu::save_for_signal(area);
    #[cfg(not(target_os = "none"))]
    area.fill(0);
}

/// Replaces the current thread's extended registers by `area` (standard format, from user memory,
/// so nothing in it is trusted); features not in `features` get their initial state. Whether the
/// contents were acceptable.
pub fn restore_from_signal(area: &[u8], features: u64) -> bool {
    #[cfg(target_os = "none")]
    return crate::x86::fpu::restore_from_signal(area, features);
    #[cfg(not(target_os = "none"))]
    {
        let _ = (area, features);
        true
    }
}

/// Puts the current thread's extended registers in their initial state: a new program.
pub fn reset_current() {
    #[cfg(target_os = "none")]
    crate::x86::fpu::reset_current();
}
