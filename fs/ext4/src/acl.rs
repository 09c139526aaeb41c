//! POSIX ACLs on the disk: a shorter form of what programs exchange as `system.posix_acl_*`.

use alloc::vec::Vec;

use abi::{Errno, Result};

use crate::bytes::{u16_at, u32_at};

/// Version words of the two forms.
const DISK: u32 = 1;
const PROGRAM: u32 = 2;
/// Entries with an id: a named user, a named group.
const USER: u16 = 2;
const GROUP: u16 = 8;

fn has_id(tag: u16) -> bool {
    tag == USER || tag == GROUP
}

/// The form programs see.
pub(crate) fn from_disk(disk: &[u8]) -> Result<Vec<u8>> {
    if u32_at(disk, 0) != DISK || disk.len() < 4 {
        return Err(Errno::EINVAL);
    }
    let mut out = PROGRAM.to_le_bytes().to_vec();
    let mut rest = &disk[4..];
    while !rest.is_empty() {
        let len = if has_id(u16_at(rest, 0)) { 8 } else { 4 };
        let entry = rest.get(..len).ok_or(Errno::EINVAL)?;
        out.extend_from_slice(&entry[..4]);
        let id = if len == 8 { u32_at(entry, 4) } else { u32::MAX };
        out.extend_from_slice(&id.to_le_bytes());
        rest = &rest[len..];
    }
    Ok(out)
}

/// The form on the disk; the VFS has checked the ACL.
pub(crate) fn to_disk(program: &[u8]) -> Result<Vec<u8>> {
    if u32_at(program, 0) != PROGRAM || program.len() % 8 != 4 {
        return Err(Errno::EINVAL);
    }
    let mut out = DISK.to_le_bytes().to_vec();
    for entry in program[4..].chunks_exact(8) {
        let len = if has_id(u16_at(entry, 0)) { 8 } else { 4 };
        out.extend_from_slice(&entry[..len]);
    }
    Ok(out)
}
