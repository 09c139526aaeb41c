//! From the boot loader to `kernel_main`: every way in.
//!
//! [`head`] holds the entry points of the Linux boot protocol and of PVH. They meet in [`early`],
//! which runs one-to-one mapped: it has what the loader left read into the one [`BootInfo`], picks
//! the slides, has the kernel's page tables built, relocates the image a second time and calls
//! `kernel_main` at its final address.
//!
//! The `bootloader` crate's entry ([`bootloader`]) first copies the image to where the others have it
//! ([`handover`]). Under UEFI the image is itself an application of the firmware ([`efi`]), which
//! becomes a loader of the Linux boot protocol.
//!
//! The specification is the kernel's boot protocol as exported in `<asm/bootparam.h>`, and the
//! PVH start info of `<xen/interface/hvm/start_info.h>` as QEMU and Firecracker fill it.

#[cfg(target_os = "none")]
mod bootloader;
#[cfg(target_os = "none")]
mod builtin;
#[cfg(target_os = "none")]
mod early;
#[cfg(target_os = "none")]
mod efi;
mod free;
#[cfg(target_os = "none")]
mod handover;
#[cfg(target_os = "none")]
mod head;
#[cfg(target_os = "none")]
mod running;

/// A stop before anything works: says why on the serial port.
#[cfg(target_os = "none")]
fn die(reason: &str) -> ! {
    say(reason);
    crate::x86::regs::halt_forever()
}

/// Says something on the serial port before there is a log.
#[cfg(target_os = "none")]
fn say(what: &str) {
    for part in ["boot: ", what, "\n"] {
        crate::hooks::machine_early_print(part);
    }
}

pub use bootinfo::*;
#[cfg(target_os = "none")]
pub(crate) use early::is_kernel_memory;
#[cfg(target_os = "none")]
pub use early::{boot_page_table, boot_stack, info, initrd};
pub use free::FreeMemory;
#[cfg(target_os = "none")]
pub use free::take_free_memory;
#[cfg(target_os = "none")]
pub use running::is_mapped;
#[cfg(target_os = "none")]
pub(crate) use running::{is_in_direct_map, trampoline_tables};
