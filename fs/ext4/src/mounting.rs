//! Mounting: from a device and a list of options to a super block.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::{Arc, Weak};

use abi::mount::MS_RDONLY;
use abi::{Errno, Result};
use block::Device;
use pagecache::Periodic;
use vfs::superblock::{FileSystemType, MountRequest, OptionError, OptionValue, SuperInit};
use vfs::{DeviceNumber, SuperBlock};

use crate::fs::{Ext4, SuperPart};
use crate::layout::Super;
use crate::node::Node;
use crate::options::{DataMode, Flags, Given, Options};

/// Mounts the file system on `device`: what `mount -t ext4` and `root=` do.
pub fn mount(device: &Arc<Device>, flags: u64, data: &[u8]) -> Result<Arc<SuperBlock>> {
    mount_as("ext4", device, flags, data)
}

fn mount_as(
    fs_type: &'static str,
    device: &Arc<Device>,
    flags: u64,
    data: &[u8],
) -> Result<Arc<SuperBlock>> {
    let name = device.name();
    // Which options there are does not depend on the disk.
    let place = Given::place_of(data)?;
    let sb = Super::read(device, place)?;
    let mut given = Given::on(Options::defaults(&sb));
    given.read_only = flags & MS_RDONLY != 0 || device.is_read_only();
    given.parse_kept(sb.mount_options());
    given.parse(data)?;
    given.check_mount(&sb, name)?;
    let read_only = given.read_only;
    let aborts = given.options.flags.contains(Flags::ABORT);
    given.options.flags -= Flags::ABORT;
    let fs = Ext4::open(device.clone(), sb, given)?;
    let id = device.id();
    let init = SuperInit {
        fs_type,
        dev: DeviceNumber::new(id.major, id.minor),
        flags: if read_only { flags | MS_RDONLY } else { flags },
        block_size: fs.sb.block_size as u32,
        max_file_size: fs.max_file_size(),
        name_max: 255,
        magic: 0xef53,
        id: String::from(name),
    };
    let sb = SuperBlock::new(init, Box::new(SuperPart(fs.clone())));
    fs.vfs.call_once(|| Arc::downgrade(&sb));
    let root = Node::load(&fs, 2)?;
    if !root.is_dir() || root.nlink() == 0 {
        log::error!("ext4: {name}: corrupt root inode");
        return Err(Errno::EUCLEAN);
    }
    sb.set_root(root);
    if !read_only {
        fs.begin_writing()?;
    }
    // It may become writable later.
    let periodic: Weak<dyn Periodic> = Arc::downgrade(&(fs.clone() as Arc<dyn Periodic>));
    device.flusher().add_periodic(periodic);
    if aborts {
        fs.abort_by_user();
    }
    if crate::bytes::u16_at(&fs.sb.raw, 0x3a) & 2 != 0 && !read_only {
        log::warn!(
            "EXT4-fs ({name}): warning: mounting fs with errors, running e2fsck is recommended"
        );
    }
    if fs.journal.is_some() && !fs.has(Flags::BARRIER) {
        log::info!("EXT4-fs ({name}): barriers disabled");
    }
    let mode = match (&fs.journal, fs.data_mode()) {
        (None, _) => "without journal",
        (_, DataMode::Journal) => "with journalled data mode",
        (_, DataMode::Ordered) => "with ordered data mode",
        (_, DataMode::Writeback) => "with writeback data mode",
    };
    log::info!("EXT4-fs ({name}): mounted filesystem {mode}. Quota mode: none.");
    Ok(sb)
}

/// `ext4`, `ext3` and `ext2` for `mount(2)`.
pub struct Ext4Type(&'static str);

impl FileSystemType for Ext4Type {
    fn name(&self) -> &'static str {
        self.0
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
        Given::check(key, text)
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        let device = blockdev::source_of(request)?;
        let id = device.id();
        let dev = DeviceNumber::new(id.major, id.minor);
        for name in ["ext4", "ext3", "ext2"] {
            let Some(sb) = vfs::superblock::find_super(name, dev) else { continue };
            if name != self.0 {
                return Err(Errno::EBUSY);
            }
            Given::place_of(request.data)?;
            if (sb.flags() ^ request.flags) & MS_RDONLY != 0 {
                return Err(Errno::EBUSY);
            }
            return Ok(sb);
        }
        mount_as(self.0, &device, request.flags, request.data)
    }
}

/// Makes `ext4` (and `ext3`, `ext2`) known to `mount(2)`.
pub fn init() {
    static TYPES: [Ext4Type; 3] = [Ext4Type("ext4"), Ext4Type("ext3"), Ext4Type("ext2")];
    for fs in &TYPES {
        vfs::superblock::register_file_system(fs);
    }
}
