//! A command line in the image itself, for ways to boot that have none: `cargo xtask image` writes
//! it into the section `.command_line`. It comes before what the loader passes.

use bootinfo::COMMAND_LINE_MAX;

#[used]
#[unsafe(link_section = ".command_line")]
static LINE: [u8; COMMAND_LINE_MAX] = [0; COMMAND_LINE_MAX];

/// Copies it to `buffer`; how long it is.
pub(super) fn copy_to(buffer: &mut [u8; COMMAND_LINE_MAX]) -> usize {
    // SAFETY: the static is valid. Volatile, because what the compiler sees is not what is there.
    *buffer = unsafe { (&raw const LINE).read_volatile() };
    buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len())
}
