//! The PVH start info (`struct hvm_start_info`).

use crate::LoaderMemory;
use crate::info::{BootInfo, PhysRange, Protocol};
use crate::memory::MemoryKind;
use crate::zeropage::copy_c_string;
use archtypes::addr::PhysAddr;

const MAGIC: u32 = 0x336e_c578;

/// Fills `info` from the start info at physical `address`.
pub fn read(info: &mut BootInfo, memory: &impl LoaderMemory, address: u64) {
    info.protocol = Protocol::Pvh;
    let at = |offset: u64| address.wrapping_add(offset);
    if memory.u32(at(0)) != MAGIC {
        return;
    }
    let version = memory.u32(at(4));
    let module_count = memory.u32(at(12));
    let modules = memory.u64(at(16));
    let command_line = memory.u64(at(24));
    let rsdp = memory.u64(at(32));
    if command_line != 0 {
        copy_c_string(info, memory, command_line);
    }
    if rsdp != 0 {
        info.rsdp = Some(PhysAddr(rsdp));
    }
    if module_count > 0 && modules != 0 {
        let (start, len) = (memory.u64(modules), memory.u64(modules.wrapping_add(8)));
        info.initrd = Some(PhysRange::new(start, len));
    }
    if version >= 1 {
        let table = memory.u64(at(40));
        let entries = u64::from(memory.u32(at(48)));
        for entry in (0..entries).map(|index| table.wrapping_add(24 * index)) {
            let kind = MemoryKind::from_e820(memory.u32(entry.wrapping_add(16)));
            info.memory.add(memory.u64(entry), memory.u64(entry.wrapping_add(8)), kind);
        }
    }
}
