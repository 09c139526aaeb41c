//! `struct loop_info64` and its older form: to a [`Binding`] and back.

use abi::loopdev::*;
use abi::{Errno, Result};
use zerocopy::FromZeros;

use crate::drive::Binding;

const MAX_KEY_LEN: u32 = 32;

/// What `LOOP_SET_FD` says: nothing.
pub(crate) fn empty() -> LoopInfo64 {
    LoopInfo64::new_zeroed()
}

/// Takes place, length and names over; flags have rules of their own.
pub(crate) fn apply(binding: &mut Binding, info: &LoopInfo64) -> Result<()> {
    if info.lo_encrypt_key_size > MAX_KEY_LEN || info.lo_encrypt_type != 0 {
        return Err(Errno::EINVAL);
    }
    // Places in files are signed.
    let too_large = |value| i64::try_from(value).is_err();
    if too_large(info.lo_offset) || too_large(info.lo_sizelimit) {
        return Err(Errno::EOVERFLOW);
    }
    (binding.offset, binding.limit) = (info.lo_offset, info.lo_sizelimit);
    binding.name = terminated(info.lo_file_name);
    binding.crypt_name = terminated(info.lo_crypt_name);
    binding.words = info.lo_init;
    Ok(())
}

fn terminated(mut name: [u8; LO_NAME_SIZE]) -> [u8; LO_NAME_SIZE] {
    if let Some(last) = name.last_mut() {
        *last = 0;
    }
    name
}

/// What `LOOP_GET_STATUS64` tells.
pub(crate) fn of(index: u32, binding: &Binding) -> Result<LoopInfo64> {
    let attr = binding.file.inode().attr()?;
    Ok(LoopInfo64 {
        lo_device: attr.dev.encode(),
        lo_inode: attr.ino,
        lo_rdevice: attr.rdev.encode(),
        lo_offset: binding.offset,
        lo_sizelimit: binding.limit,
        lo_number: index,
        lo_encrypt_type: 0,
        lo_encrypt_key_size: 0,
        lo_flags: binding.flags,
        lo_file_name: binding.name,
        lo_crypt_name: binding.crypt_name,
        lo_encrypt_key: [0; 32],
        lo_init: binding.words,
    })
}

/// The older form as the newer one.
pub(crate) fn widen(old: &LoopInfo) -> LoopInfo64 {
    LoopInfo64 {
        lo_number: old.lo_number as u32,
        lo_device: old.lo_device,
        lo_inode: old.lo_inode,
        lo_rdevice: old.lo_rdevice,
        // An `int` that is negative is no place.
        lo_offset: i64::from(old.lo_offset) as u64,
        lo_encrypt_type: old.lo_encrypt_type as u32,
        lo_encrypt_key_size: old.lo_encrypt_key_size as u32,
        lo_flags: old.lo_flags,
        lo_file_name: old.lo_name,
        lo_init: old.lo_init,
        ..empty()
    }
}

/// The newer form as the older one: `EOVERFLOW` for what does not fit.
pub(crate) fn narrow(new: &LoopInfo64) -> Result<LoopInfo> {
    let offset = i32::try_from(new.lo_offset).map_err(|_| Errno::EOVERFLOW)?;
    Ok(LoopInfo {
        lo_number: new.lo_number as i32,
        lo_device: new.lo_device,
        lo_inode: new.lo_inode,
        lo_rdevice: new.lo_rdevice,
        lo_offset: offset,
        lo_encrypt_type: new.lo_encrypt_type as i32,
        lo_flags: new.lo_flags,
        lo_name: new.lo_file_name,
        lo_init: new.lo_init,
        ..LoopInfo::new_zeroed()
    })
}
