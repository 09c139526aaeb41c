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
