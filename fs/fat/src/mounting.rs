//! Mounting: from a device and options to a super block.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::{Arc, Weak};

use abi::mount::MS_RDONLY;
use abi::{Errno, Result};
use block::Device;
use pagecache::Periodic;
use vfs::superblock::{FileSystemType, MountRequest, OptionError, OptionValue, SuperInit};
use vfs::{DeviceNumber, SuperBlock, find_super};

use crate::boot::{BOOT_LEN, Geometry};
use crate::fs::{Fat, MAGIC, SuperPart, name_max};
use crate::node::Node;
use crate::options::{Mounter, Options};

const TYPES: [&str; 2] = ["vfat", "msdos"];

/// Mounts the file system on `device` as `vfat` for root, with mount(2)'s flags and options.
///
/// # Errors
///
/// `EINVAL` for what is no FAT and for wrong options, `EACCES` for writing on a device that cannot be
/// written, `EBUSY` for one in use.
pub fn mount(device: &Arc<Device>, flags: u64, data: &[u8]) -> Result<Arc<SuperBlock>> {
    let root = Mounter { uid: 0, gid: 0, umask: 0o022 };
    mount_as("vfat", device, flags, Options::parse(true, data, root)?)
}

/// The same for a type and options that were read.
pub(crate) fn mount_as(
    fs_type: &'static str,
    device: &Arc<Device>,
    flags: u64,
    options: Options,
) -> Result<Arc<SuperBlock>> {
    let flags = if options.is_for_reading() { flags | MS_RDONLY } else { flags };
    let read_only = flags & MS_RDONLY != 0;
    if !read_only && device.is_read_only() {
        return Err(Errno::EACCES);
    }
    let name = device.name();
    let claim = device.claim()?;
    let mut boot = [0; BOOT_LEN];
    device.read_at(0, &mut boot).map_err(|_| Errno::EINVAL)?;
    let geometry = Geometry::parse(&boot, device.block_size()).map_err(|why| {
        log::error!("FAT-fs ({name}): {why}");
        Errno::EINVAL
    })?;
    let is_vfat = options.is_vfat;
    let id = device.id();
    let init = SuperInit {
        fs_type,
        dev: DeviceNumber::new(id.major, id.minor),
        flags,
        block_size: geometry.cluster,
        max_file_size: u32::MAX.into(),
        name_max: name_max(is_vfat),
        magic: MAGIC,
        id: String::from(name),
    };
    let fs = Fat::new(device, geometry, options, claim, read_only)?;
    let sb = SuperBlock::new(init, Box::new(SuperPart(fs.clone())));
    let root = Node::root(&fs, &sb)?;
    sb.set_root(root);
    // From here on damage has consequences.
    fs.vfs.call_once(|| Arc::downgrade(&sb));
    if !read_only {
        fs.begin_writing()?;
    }
    let periodic: Weak<dyn Periodic> = Arc::downgrade(&(fs.clone() as Arc<dyn Periodic>));
    device.flusher().add_periodic(periodic);
    Ok(sb)
}

/// `vfat` and `msdos` for mount(2).
struct FatType {
    name: &'static str,
    is_vfat: bool,
}

impl FileSystemType for FatType {
    fn name(&self) -> &'static str {
        self.name
    }

    fn needs_device(&self) -> bool {
        true
    }

    fn check_option(&self, key: &[u8], value: OptionValue<'_>) -> Result<(), OptionError> {
        let text = match value {
            OptionValue::None => None,
            OptionValue::Text(text) => Some(text),
            OptionValue::Object => return Err(OptionError::BadValue),
        };
        let mut word = key.to_vec();
        if let Some(text) = text {
            word.push(b'=');
            word.extend_from_slice(text);
        }
        let nobody = Mounter { uid: 0, gid: 0, umask: 0 };
        Options::parse(self.is_vfat, &word, nobody).map(|_| ()).map_err(|_| OptionError::Unknown)
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        let device = blockdev::source_of(request)?;
        let id = device.id();
        let dev = DeviceNumber::new(id.major, id.minor);
        for name in TYPES {
            let Some(sb) = find_super(name, dev) else { continue };
            if name != self.name || (sb.flags() ^ request.flags) & MS_RDONLY != 0 {
                return Err(Errno::EBUSY);
            }
            return Ok(sb);
        }
        let creds = &request.ctx.creds;
        let mounter =
            Mounter { uid: creds.fsuid, gid: creds.fsgid, umask: request.ctx.umask & 0o777 };
        let options = Options::parse(self.is_vfat, request.data, mounter)?;
        mount_as(self.name, &device, request.flags, options)
    }
}

/// Makes `vfat` and `msdos` known to mount(2).
pub fn init() {
    static VFAT: FatType = FatType { name: TYPES[0], is_vfat: true };
    static MSDOS: FatType = FatType { name: TYPES[1], is_vfat: false };
    for fs in [&VFAT, &MSDOS] {
        vfs::superblock::register_file_system(fs);
    }
}
