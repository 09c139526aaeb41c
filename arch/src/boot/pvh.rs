//! The PVH start info (`struct hvm_start_info`), read one-to-one mapped.

use super::info::{BootInfo, PhysRange, Protocol};
use super::memory::MemoryKind;
use super::zeropage::{copy_c_string, peek};
use crate::addr::PhysAddr;

const MAGIC: u32 = 0x336e_c578;

/// Fills `info` from the start info at physical `address`.
///
/// # Safety
/// The loader must have put a start info there, and memory must be mapped one to one.
pub(super) unsafe fn read(info: &mut BootInfo, address: u64) {
    info.protocol = Protocol::Pvh;
    // SAFETY: forwarded from the caller; all offsets are inside the structure of its version.
    unsafe {
        if peek::<u32>(address, 0) != MAGIC {
            return;
        }
        let version = peek::<u32>(address, 4);
        let module_count = peek::<u32>(address, 12);
        let modules = peek::<u64>(address, 16);
        let command_line = peek::<u64>(address, 24);
        let rsdp = peek::<u64>(address, 32);
        if command_line != 0 {
            copy_c_string(info, command_line);
        }
        if rsdp != 0 {
            info.rsdp = Some(PhysAddr(rsdp));
        }
        if module_count > 0 && modules != 0 {
            info.initrd = Some(PhysRange::new(peek(modules, 0), peek(modules, 8)));
        }
        if version >= 1 {
            let table = peek::<u64>(address, 40);
            let entries = u64::from(peek::<u32>(address, 48));
            for entry in (0..entries).map(|index| table + 24 * index) {
                let kind = MemoryKind::from_e820(peek(entry, 16));
                info.memory.add(peek(entry, 0), peek(entry, 8), kind);
            }
        }
    }
}
