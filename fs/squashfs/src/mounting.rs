//! The option, and super blocks.

use alloc::sync::Arc;

use abi::{Errno, Result};
use block::Device;
use vfs::superblock::{
    FileSystemType, MountRequest, OptionError, OptionValue, find_super, register_file_system,
};
use vfs::{DeviceNumber, SuperBlock};

use crate::tree;
use crate::volume::Volume;

/// `errors=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnError {
    Continue,
    Panic,
}

impl OnError {
    /// Reads the list that mount(2) gets.
    fn parse(data: &[u8]) -> Result<OnError> {
        let mut on_error = OnError::Continue;
        for word in data.split(|byte| *byte == b',').filter(|word| !word.is_empty()) {
            on_error = match word {
                b"errors=continue" => OnError::Continue,
                b"errors=panic" => OnError::Panic,
                _ => return Err(Errno::EINVAL),
            };
        }
        Ok(on_error)
    }
}

/// Mounts the file system on `device`, with mount(2)'s flags and options; for reading, whatever is
/// asked for.
///
/// # Errors
///
/// `EINVAL` for what is no squashfs 4.0, or is compressed in a way that is not supported, and for wrong
/// options; `EIO` for a damaged one; `EBUSY` for a device in use.
pub fn mount(device: &Arc<Device>, flags: u64, data: &[u8]) -> Result<Arc<SuperBlock>> {
    let on_error = OnError::parse(data)?;
    let claim = device.claim()?;
    let volume = Volume::open(device, on_error).map_err(|why| {
        log::error!("SQUASHFS error: {}: {why}", device.name());
        Errno::EINVAL
    })?;
    tree::super_block(volume, claim, flags)
}

struct Squashfs;

impl FileSystemType for Squashfs {
    fn name(&self) -> &'static str {
        "squashfs"
    }

    fn needs_device(&self) -> bool {
        true
    }

    fn check_option(&self, key: &[u8], value: OptionValue<'_>) -> Result<(), OptionError> {
        match (key, value) {
            (b"errors", OptionValue::Text(b"continue" | b"panic")) => Ok(()),
            (b"errors", _) => Err(OptionError::BadValue),
            _ => Err(OptionError::Unknown),
        }
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        let device = blockdev::source_of(request)?;
        let id = device.id();
        if let Some(sb) = find_super("squashfs", DeviceNumber::new(id.major, id.minor)) {
            return Ok(sb);
        }
        mount(&device, request.flags, request.data)
    }
}

/// Makes `squashfs` known to mount(2).
pub fn init() {
    register_file_system(&Squashfs);
}
