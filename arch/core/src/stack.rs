//! Looking at frames on the kernel's stacks.

/// The frame pointer of the function that asks.
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let frame: u64;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags));
    }
    frame
}

/// The saved frame pointer and return address at `frame`, if that can be read safely.
#[cfg(target_os = "none")]
pub fn read_frame(frame: u64) -> Option<[u64; 2]> {
    if frame & 7 != 0 || !(0xffff_8000_0000_0000..=u64::MAX - 16).contains(&frame) {
        return None;
    }
    if !crate::boot::is_mapped(frame) || !crate::boot::is_mapped(frame + 8) {
        return None;
    }
    // SAFETY: the page tables map both words; a race with an unmapping of a stack that this chain
    // does not own can only happen in a dying machine.
    Some(unsafe { (frame as *const [u64; 2]).read_volatile() })
}

/// On the host frames belong to the test runner.
#[cfg(not(target_os = "none"))]
pub fn read_frame(_frame: u64) -> Option<[u64; 2]> {
    None
}
