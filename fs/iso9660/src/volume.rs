//! Volume descriptors (ECMA-119 8): which tree is read, and from where.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use abi::{Errno, Result};
use block::Device;
use pagecache::MAX_INDEX;

use crate::mounting::Options;
use crate::record::{Record, u8_at, u16_at, u32_at};
use crate::susp::{self, RockRidge};

/// Descriptors are in sectors of this size, from the seventeenth on.
const SECTOR: u64 = 2048;
const FIRST: u64 = 16;
/// So many are looked at; there are three or four.
const MOST: u64 = 100;

/// How names are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Names {
    /// ECMA-119 alone.
    Plain,
    /// In UCS-2.
    Joliet,
    /// With Rock Ridge, behind so many bytes of each system use area.
    RockRidge {
        /// The bytes.
        skip: usize,
    },
}

/// The tree of a medium.
pub(crate) struct Volume {
    pub(crate) device: Arc<Device>,
    block_size: u64,
    /// Blocks of the volume.
    pub(crate) blocks: u64,
    /// Where the root directory is, and its bytes.
    pub(crate) root: (u64, u32),
    pub(crate) names: Names,
}

impl Volume {
    /// Finds the tree that the options ask for.
    pub(crate) fn open(device: &Arc<Device>, options: &Options) -> Result<Volume> {
        let (mut primary, mut joliet) = (None, None);
        for sector in FIRST..FIRST + MOST {
            let mut bytes = vec![0; SECTOR as usize];
            // What is too short is no medium of this kind.
            device.read_at(sector * SECTOR, &mut bytes).map_err(|_| Errno::EINVAL)?;
            if bytes.get(1..6) != Some(b"CD001") {
                break;
            }
            match u8_at(&bytes, 0) {
                1 if primary.is_none() => primary = Some(bytes),
                2 if is_joliet(&bytes) => joliet = Some(bytes),
                255 => break,
                _ => {}
            }
        }
        let primary = primary.ok_or(Errno::EINVAL)?;
        let volume = Volume::described(device, &primary, Names::Plain)?;
        if options.rock
            && let Some(skip) = volume.rock_ridge()?
        {
            return Ok(Volume { names: Names::RockRidge { skip }, ..volume });
        }
        match joliet.filter(|_| options.joliet) {
            Some(bytes) => Volume::described(device, &bytes, Names::Joliet),
            None => Ok(volume),
        }
    }

    fn described(device: &Arc<Device>, descriptor: &[u8], names: Names) -> Result<Volume> {
        let block_size = u64::from(u16_at(descriptor, 128));
        let is_known = matches!(block_size, 512 | 1024 | 2048);
        let root = Record::parse(descriptor.get(156..190).unwrap_or(&[])).ok_or(Errno::EINVAL)?;
        if !is_known || u64::from(device.block_size()) > block_size {
            return Err(Errno::EINVAL);
        }
        let blocks = u64::from(u32_at(descriptor, 80));
        let root = (root.extent(), root.size());
        Ok(Volume { device: device.clone(), block_size, blocks, root, names })
    }

    /// How many bytes come before Rock Ridge's entries, if the root directory has some.
    fn rock_ridge(&self) -> Result<Option<usize>> {
        let mut bytes = vec![0; self.block_size as usize];
        self.read(self.root.0, 0, &mut bytes)?;
        let Some(record) = Record::parse(&bytes) else { return Ok(None) };
        let area = record.system_use();
        let Some(skip) = susp::skip_of(area) else { return Ok(None) };
        Ok(RockRidge::read(self, area, skip)?.is_there.then_some(skip))
    }

    pub(crate) fn block_size(&self) -> u64 {
        self.block_size
    }

    /// The first byte of a block on the device.
    pub(crate) fn place(&self, block: u64) -> Result<u64> {
        block.checked_mul(self.block_size).ok_or(Errno::EIO)
    }

    /// Reads bytes behind the start of a block, through the cache of the bare device.
    pub(crate) fn read(&self, block: u64, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let at = self.place(block)?.checked_add(offset).ok_or(Errno::EIO)?;
        let end = at.checked_add(buffer.len() as u64).ok_or(Errno::EIO)?;
        if end > self.device.size() || end >> 12 > MAX_INDEX {
            return Err(Errno::EIO);
        }
        self.device.read_at(at, buffer)
    }

    /// Reads a directory and calls `each` with the place of each record, in bytes of the device. A record
    /// does not cross the end of a sector (ECMA-119 6.8.1.1).
    pub(crate) fn for_each_record(
        &self,
        (block, size): (u64, u32),
        mut each: impl FnMut(u64, Record<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut sector: Vec<u8> = vec![0; SECTOR as usize];
        let size = u64::from(size);
        for start in (0..size).step_by(SECTOR as usize) {
            let len = (size - start).min(SECTOR) as usize;
            let bytes = sector.get_mut(..len).ok_or(Errno::EIO)?;
            self.read(block, start, bytes)?;
            let base = self.place(block)?.saturating_add(start);
            let mut at = 0;
            while bytes.get(at).is_some_and(|&len| len != 0) {
                let rest: Range<usize> = at..len;
                let Some(record) = bytes.get(rest).and_then(Record::parse) else {
                    let name = self.device.name();
                    log::error!(
                        "iso9660: {name}: corrupt directory record at {}",
                        base + at as u64
                    );
                    return Err(Errno::EIO);
                };
                each(base + at as u64, record)?;
                at += record.len();
            }
        }
        Ok(())
    }
}

/// The escape sequences of the three levels of UCS-2.
fn is_joliet(descriptor: &[u8]) -> bool {
    let sequence = descriptor.get(88..91).unwrap_or(&[]);
    [b"%/@", b"%/C", b"%/E"].iter().any(|known| sequence == *known)
}
