//! From the boot loader to `kernel_main`: every way in, one description out.
//!
//! [`head`] holds the entry points of the Linux boot protocol and of PVH. They meet in [`early`],
//! which runs one-to-one mapped: it reads what the loader left ([`zeropage`], [`pvh`]) into the one
//! [`BootInfo`], picks the slides, builds the first real page tables ([`tables`]), relocates the
//! image a second time and calls `kernel_main` at its final address.
//!
//! The specification is the kernel's boot protocol as exported in `<asm/bootparam.h>`, and the
//! PVH start info of `<xen/interface/hvm/start_info.h>` as QEMU and Firecracker fill it.

mod free;
mod info;
mod memory;

#[cfg(target_os = "none")]
mod early;
#[cfg(target_os = "none")]
mod head;
#[cfg(target_os = "none")]
mod pvh;
#[cfg(target_os = "none")]
mod tables;
#[cfg(target_os = "none")]
mod zeropage;

#[cfg(target_os = "none")]
pub use early::{boot_page_table, boot_stack, info, initrd};
pub use free::FreeMemory;
#[cfg(target_os = "none")]
pub use free::take_free_memory;
pub use info::{BootInfo, Framebuffer, PhysRange, Protocol};
pub use memory::{MemoryKind, MemoryMap, MemoryRegion};
#[cfg(target_os = "none")]
pub use tables::is_mapped;
#[cfg(target_os = "none")]
pub(crate) use tables::trampoline_tables;

/// Says which function of the image is called after boot: on one processor with interrupts off, the
/// image at its final address, per-CPU data, descriptor tables and exceptions there.
///
/// ```ignore
/// fn start(info: &'static arch::boot::BootInfo) -> ! { … }
/// arch::entry_point!(start);
/// ```
#[macro_export]
macro_rules! entry_point {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn kernel_main(info: &'static $crate::boot::BootInfo) -> ! {
            let main: fn(&'static $crate::boot::BootInfo) -> ! = $main;
            main(info)
        }
    };
}

/// Parses a size as Linux's command line has it: a number (decimal, `0x`) and a suffix `K M G T`.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (text.get(..text.len() - 1)?, 10),
        b'm' | b'M' => (text.get(..text.len() - 1)?, 20),
        b'g' | b'G' => (text.get(..text.len() - 1)?, 30),
        b't' | b'T' => (text.get(..text.len() - 1)?, 40),
        _ => (text, 0),
    };
    let number = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse::<u64>().ok()?,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(parse_size("512M"), Some(512 << 20));
        assert_eq!(parse_size("0x10k"), Some(0x4000));
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size(""), None);
        assert_eq!(parse_size("G"), None);
        assert_eq!(parse_size("99999999999T"), None);
    }
}
