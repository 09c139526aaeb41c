//! The image as the linker laid it out.

use core::ops::Range;

/// Room for the table of symbols; what does not fit is left out by the build.
const ROOM: usize = 1 << 20;

#[repr(C, align(64))]
struct Room([u8; ROOM]);

#[used]
#[unsafe(link_section = ".ksyms")]
static ROOM_IN_IMAGE: Room = Room([0; ROOM]);

unsafe extern "C" {
    static __ksyms_start: u8;
    static __ksyms_end: u8;
    static __image_start: u8;
    static __image_end: u8;
}

/// The table of symbols that the build writes after linking.
pub fn symbol_table() -> &'static [u8] {
    let start = &raw const __ksyms_start;
    let len = (&raw const __ksyms_end as usize).wrapping_sub(start as usize);
    // SAFETY: the linker script puts the section between the two symbols; it is read-only.
    unsafe { core::slice::from_raw_parts(start, len) }
}

/// The addresses of the image.
pub fn range() -> Range<u64> {
    &raw const __image_start as u64..&raw const __image_end as u64
}
