//! The extended registers of a thread: x87, SSE, AVX, AVX-512.

/// How a new user thread's extended registers start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FpuStart {
    /// In their initial state: a new program.
    Initial,
    /// As a copy of the current thread's: fork and clone.
    CopyCurrent,
}

#[cfg(not(target_os = "none"))]
pub use crate::host::thread::{
    legacy_image, read_signal_frame, reset_current, set_legacy_image, signal_frame_size,
    write_signal_frame,
};
#[cfg(target_os = "none")]
pub use crate::x86::fpu::{
    legacy_image, read_signal_frame, reset_current, set_legacy_image, signal_frame_size,
    write_signal_frame,
};

/// The saved extended registers; a kernel thread has none.
pub struct FpuState {
    area: Option<alloc::boxed::Box<[Chunk]>>,
    /// The processor they were last loaded on.
    #[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "no registers there"))]
    pub(crate) last_cpu: u32,
}

/// A cache line of the save area, for its alignment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Chunk(pub(crate) [u8; 64]);

#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "no registers there"))]
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
    pub(crate) fn area(&mut self) -> Option<&mut [Chunk]> {
        self.area.as_deref_mut()
    }
    pub(crate) fn replace(&mut self, area: alloc::boxed::Box<[Chunk]>) {
        self.area = Some(area);
        self.last_cpu = u32::MAX;
    }
}
