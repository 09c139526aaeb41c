//! What `/proc/bus/pci` shows.

use alloc::string::String;
use core::fmt::Write;

use crate::bar::BarKind;
use crate::bus::devices;
use crate::device::Device;

/// The contents of `/proc/bus/pci/devices`: a line per function with bus and slot, ids, interrupt,
/// six BARs and the ROM, their sizes, and the driver.
pub fn describe_devices() -> String {
    let mut text = String::new();
    for device in devices() {
        // Writing to a string does not fail.
        let _ = line(&mut text, &device);
    }
    text
}

fn line(text: &mut String, device: &Device) -> core::fmt::Result {
    let at = device.address;
    let slot = u32::from(at.bus) << 8 | u32::from(at.device) << 3 | u32::from(at.function);
    write!(
        text,
        "{slot:04x}\t{:04x}{:04x}\t{:x}",
        device.id.vendor, device.id.device, device.interrupt.1
    )?;
    for bar in device.bars() {
        let value = bar.map_or(0, |bar| bar.address | kind_bits(bar.kind));
        write!(text, "\t{value:16x}")?;
    }
    write!(text, "\t{:16x}", 0)?;
    for bar in device.bars() {
        write!(text, "\t{:16x}", bar.map_or(0, |bar| bar.size))?;
    }
    writeln!(text, "\t{:16x}\t{}", 0, device.driver().unwrap_or(""))
}

fn kind_bits(kind: BarKind) -> u64 {
    match kind {
        BarKind::Ports => 1,
        BarKind::Memory { is_64bit, is_prefetchable } => {
            u64::from(is_64bit) << 2 | u64::from(is_prefetchable) << 3
        }
    }
}

/// Copies configuration space from `offset` on into `out`; how many bytes.
pub fn config_bytes(device: &Device, offset: u16, out: &mut [u8]) -> usize {
    let size = usize::from(device.config_size());
    let n = out.len().min(size.saturating_sub(usize::from(offset)));
    for (at, byte) in (offset..).zip(out.iter_mut().take(n)) {
        *byte = device.read8(at);
    }
    n
}
