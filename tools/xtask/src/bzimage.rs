//! Puts the bzImage together: setup code with its header filled in, then the flat kernel image.

use crate::Result;
use crate::elf::Elf;

const SECTOR: usize = 512;
const MARK: &[u8] = b"@release@";
const VERSION_MAX: usize = 180;

/// The bytes of `vmlinuz` from the linked setup code and the linked kernel.
pub(crate) fn assemble(setup: &[u8], kernel: &[u8], version: &str) -> Result<Vec<u8>> {
    let mut head = Elf::parse(setup)?.flatten()?;
    let at = head.windows(MARK.len()).position(|window| window == MARK);
    let at = at.ok_or("setup code has no place for the version")?;
    let mut text: Vec<u8> = version.bytes().take(VERSION_MAX).collect();
    text.resize(VERSION_MAX, 0);
    head[at..at + VERSION_MAX].copy_from_slice(&text);
    head.resize(head.len().next_multiple_of(SECTOR).max(5 * SECTOR), 0);

    let kernel = Elf::parse(kernel)?;
    let mut payload = kernel.flatten()?;
    payload.resize(payload.len().next_multiple_of(SECTOR), 0);
    // Room for the move to the next multiple of 16 MiB is not counted: the loader leaves it.
    let init_size = kernel.memory_len().next_multiple_of(4096) as u32;

    head[0x1f1] = (head.len() / SECTOR - 1) as u8;
    put_u32(&mut head, 0x1f4, (payload.len() / 16) as u32);
    put_u32(&mut head, 0x260, init_size);
    let info = payload.windows(4).take(4096).position(|window| window == b"LToP");
    put_u32(&mut head, 0x268, info.ok_or("kernel image has no kernel_info")? as u32);
    head.extend(payload);
    Ok(head)
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
