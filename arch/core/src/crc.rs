//! CRC-32C by the processor's instruction.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering};

/// CRC-32C of `bytes` continued from `crc`, without inversion at either end; `None` where the
/// processor has no instruction for it.
#[inline]
pub fn crc32c(crc: u32, bytes: &[u8]) -> Option<u32> {
    has_instruction().then(|| by_instruction(crc, bytes))
}

fn has_instruction() -> bool {
    /// 0: not asked yet; 1: no; 2: yes.
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    // Relaxed: every processor finds the same answer.
    match KNOWN.load(Ordering::Relaxed) {
        0 => {
            // SDM vol. 2A, CPUID: leaf 1, ECX bit 20 is SSE4.2.
            let has = crate::cpu::identify(1, 0)[2] >> 20 & 1 != 0;
            KNOWN.store(1 + u8::from(has), Ordering::Relaxed);
            has
        }
        known => known == 2,
    }
}

fn by_instruction(crc: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut sum = u64::from(crc);
    for word in words {
        let word = u64::from_le_bytes(*word);
        // SAFETY: only called where the processor has the instruction, which touches nothing but
        // its operands (not even the flags).
        unsafe {
            asm!("crc32 {}, {}", inout(reg) sum, in(reg) word,
                options(pure, nomem, nostack, preserves_flags));
        }
    }
    let mut sum = sum as u32;
    for byte in rest {
        // SAFETY: as above.
        unsafe {
            asm!("crc32 {:e}, {}", inout(reg) sum, in(reg_byte) *byte,
                options(pure, nomem, nostack, preserves_flags));
        }
    }
    sum
}
