//! Options (mount(8), "Mount options for iso9660") and super blocks.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::{self, Write};

use abi::mount::MS_RDONLY;
use abi::{Errno, Result};
use vfs::superblock::{
    FileSystemType, MountRequest, OptionError, OptionValue, SuperInit, find_super,
};
use vfs::{DeviceNumber, SuperBlock};

use crate::record::NameMap;
use crate::tree;
use crate::volume::{Names, Volume};

const MAGIC: u64 = 0x9660;
/// Read and execute permission for everybody.
const DEFAULT_MODE: u32 = 0o555;

/// What was asked for at the mount.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) rock: bool,
    pub(crate) joliet: bool,
    pub(crate) unhide: bool,
    pub(crate) map: NameMap,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    mode: Option<u32>,
    dir_mode: Option<u32>,
}

impl Options {
    pub(crate) fn parse(data: &[u8]) -> Result<Options> {
        let mut options = Options {
            rock: true,
            joliet: true,
            unhide: false,
            map: NameMap::Normal,
            uid: None,
            gid: None,
            mode: None,
            dir_mode: None,
        };
        let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (word, None),
            };
            options.take(key, value).ok_or_else(|| {
                log::error!("iso9660: option {word} is unknown or has a wrong value");
                Errno::EINVAL
            })?;
        }
        Ok(options)
    }

    fn take(&mut self, key: &str, value: Option<&str>) -> Option<()> {
        let number = |radix| value.and_then(|text| u32::from_str_radix(text, radix).ok());
        let mode = || number(8).filter(|mode| *mode <= 0o7777);
        match (key, value) {
            ("norock", None) => self.rock = false,
            ("nojoliet", None) => self.joliet = false,
            ("unhide", None) => self.unhide = true,
            ("map", Some("n" | "normal")) => self.map = NameMap::Normal,
            ("map", Some("o" | "off")) => self.map = NameMap::Off,
            ("uid", _) => self.uid = Some(number(10)?),
            ("gid", _) => self.gid = Some(number(10)?),
            ("mode", _) => self.mode = Some(mode()?),
            ("dmode", _) => self.dir_mode = Some(mode()?),
            ("block", _) => {
                number(10).filter(|bytes| matches!(bytes, 512 | 1024 | 2048))?;
            }
            // What is always so, or makes no difference here.
            ("check", Some("s" | "strict")) | ("utf8" | "cruft" | "nocompress", None) => {}
            ("iocharset", Some(_)) => {}
            _ => return None,
        }
        Some(())
    }

    /// The mode of what has none of its own.
    pub(crate) fn mode_of(&self, is_dir: bool) -> u32 {
        let chosen = if is_dir { self.dir_mode } else { self.mode };
        chosen.unwrap_or(DEFAULT_MODE)
    }

    pub(crate) fn show(&self, volume: &Volume, out: &mut dyn Write) -> fmt::Result {
        let is_joliet = volume.names == Names::Joliet;
        out.write_str(if self.rock { ",nojoliet" } else { ",norock" })?;
        // Joliet's names are found in any case.
        out.write_str(if is_joliet { ",check=r" } else { ",check=s" })?;
        out.write_str(if self.map == NameMap::Off { ",map=o" } else { ",map=n" })?;
        write!(out, ",blocksize={}", volume.block_size())?;
        if self.unhide {
            out.write_str(",unhide")?;
        }
        for (key, value) in [("uid", self.uid), ("gid", self.gid)] {
            if let Some(value) = value {
                write!(out, ",{key}={value}")?;
            }
        }
        for (key, value) in [("dmode", self.dir_mode), ("fmode", self.mode)] {
            if let Some(value) = value {
                write!(out, ",{key}={value:o}")?;
            }
        }
        out.write_str(",iocharset=utf8")
    }
}

struct Iso9660;

impl FileSystemType for Iso9660 {
    fn name(&self) -> &'static str {
        "iso9660"
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
        Options::parse(&word).map(|_| ()).map_err(|_| OptionError::Unknown)
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<SuperBlock>> {
        let device = blockdev::source_of(request)?;
        let id = device.id();
        let dev = DeviceNumber::new(id.major, id.minor);
        if let Some(sb) = find_super("iso9660", dev) {
            return if request.flags & MS_RDONLY == 0 { Err(Errno::EBUSY) } else { Ok(sb) };
        }
        let mut options = Options::parse(request.data)?;
        if request.flags & MS_RDONLY == 0 {
            // A drive has its own word for who would write.
            device.prepare(block::Purpose::Write)?;
            return Err(Errno::EACCES);
        }
        let claim = device.claim()?;
        let volume = Volume::open(&device, &options)?;
        // Whether it is there shows.
        options.rock = matches!(volume.names, Names::RockRidge { .. });
        let init = SuperInit {
            fs_type: "iso9660",
            dev,
            flags: request.flags | MS_RDONLY,
            block_size: volume.block_size() as u32,
            max_file_size: i64::MAX as u64,
            name_max: 255,
            magic: MAGIC,
            id: String::from(device.name()),
        };
        let medium = tree::medium(volume, options, claim);
        let sb = SuperBlock::new(init, tree::operations(&medium));
        sb.set_root(medium.root(&sb)?);
        Ok(sb)
    }
}

/// Makes `iso9660` known to `mount(2)`.
pub fn init() {
    vfs::superblock::register_file_system(&Iso9660);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let options = Options::parse(b"norock,uid=7,mode=0444,map=off").unwrap();
        assert_eq!((options.rock, options.uid, options.mode_of(false)), (false, Some(7), 0o444));
        for wrong in ["nosuch", "uid=x", "uid", "mode=9", "map=x", "norock=1", "block=4096"] {
            assert_eq!(Options::parse(wrong.as_bytes()).err(), Some(Errno::EINVAL), "{wrong}");
        }
    }
}
