//! Metadata blocks and tables (squashfs binary format, "Packing Metadata" and "The Different Tables").

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use block::Device;

use crate::cache::{Block, Cache};
use crate::compress::buffer;
use crate::layout::{SUPER_LEN, Super, u16_at, u32_at, u64_at};
use crate::mounting::OnError;

/// Bytes of a metadata block.
pub(crate) const META: usize = 8192;
/// Metadata blocks that are kept.
const META_KEPT: usize = 64;
/// Bytes of data blocks that are kept, at least three.
const DATA_KEPT: usize = 4 << 20;
/// A metadata block is stored as it is.
const PLAIN_META: u16 = 0x8000;
/// A data block is stored as it is.
const PLAIN_DATA: u32 = 1 << 24;

/// A file system that is read.
pub(crate) struct Volume {
    pub(crate) device: Arc<Device>,
    pub(crate) sb: Super,
    on_error: OnError,
    meta: Cache,
    data: Cache,
}

/// A place in metadata: a block, by where it begins on the device, and a byte in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) block: u64,
    pub(crate) offset: usize,
}

/// Reads metadata on from a place.
pub(crate) struct Cursor<'a> {
    volume: &'a Volume,
    at: Place,
}

/// Where a fragment block is, and its size word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    pub(crate) at: u64,
    pub(crate) word: u32,
}

impl Stored {
    /// Bytes on the device; 0: a block of zeros.
    pub(crate) fn len(&self) -> u32 {
        self.word & (PLAIN_DATA - 1)
    }
}

impl Volume {
    /// Reads the super block; the error says what is wrong with it.
    pub(crate) fn open(
        device: &Arc<Device>,
        on_error: OnError,
    ) -> core::result::Result<Volume, &'static str> {
        let mut bytes = [0; SUPER_LEN];
        device.read_at(0, &mut bytes).map_err(|_| "unable to read the super block")?;
        let sb = Super::parse(&bytes, device.size())?;
        let blocks = (DATA_KEPT / sb.block_size as usize).clamp(3, 32);
        let (meta, data) = (Cache::new(META_KEPT), Cache::new(blocks));
        Ok(Volume { device: device.clone(), sb, on_error, meta, data })
    }

    /// What follows damage.
    pub(crate) fn on_error(&self) -> OnError {
        self.on_error
    }

    /// Says that the image is damaged. `EIO`.
    #[cold]
    pub(crate) fn corrupt(&self, what: &str) -> Errno {
        let name = self.device.name();
        log::error!("SQUASHFS error: {name}: {what}");
        if self.on_error == OnError::Panic {
            // mount(8) asks for it.
            panic!("squashfs: {name} is damaged, and errors=panic was asked for");
        }
        Errno::EIO
    }

    /// Reads bytes of the image.
    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let end = at.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.sb.bytes_used) {
            return Err(self.corrupt("a block is behind the end of the file system"));
        }
        self.device.read_at(at, buffer)
    }

    /// A metadata block.
    fn meta(&self, at: u64) -> Result<Arc<Block>> {
        if let Some(block) = self.meta.get(at) {
            return Ok(block);
        }
        let mut header = [0; 2];
        self.read(at, &mut header)?;
        let word = u16_at(&header, 0);
        let len = usize::from(word & !PLAIN_META);
        if len == 0 || len > META {
            return Err(self.corrupt("bad length of a metadata block"));
        }
        let mut stored = buffer(len)?;
        self.read(at + 2, &mut stored)?;
        let bytes = match word & PLAIN_META {
            0 => self.unpack(&stored, META)?,
            _ => stored,
        };
        let block = Arc::new(Block { bytes, next: at + 2 + len as u64 });
        self.meta.put(at, &block);
        Ok(block)
    }

    fn unpack(&self, bytes: &[u8], limit: usize) -> Result<Vec<u8>> {
        self.sb.compressor.decompress(bytes, limit).map_err(|error| match error {
            Errno::EIO => self.corrupt("a block cannot be decompressed"),
            error => error,
        })
    }

    /// A data block or one of fragments.
    pub(crate) fn data(&self, stored: Stored) -> Result<Arc<Block>> {
        if let Some(block) = self.data.get(stored.at) {
            return Ok(block);
        }
        let (len, limit) = (stored.len() as usize, self.sb.block_size as usize);
        if len == 0 || len > limit {
            return Err(self.corrupt("bad length of a data block"));
        }
        let mut packed = buffer(len)?;
        self.read(stored.at, &mut packed)?;
        let bytes = match stored.word & PLAIN_DATA {
            0 => self.unpack(&packed, limit)?,
            _ => packed,
        };
        let block = Arc::new(Block { bytes, next: 0 });
        self.data.put(stored.at, &block);
        Ok(block)
    }

    /// Reads metadata from a place on.
    pub(crate) fn cursor(&self, at: Place) -> Cursor<'_> {
        Cursor { volume: self, at }
    }

    /// Entry `index`, of `N` bytes, of a table whose blocks are listed at `list`.
    pub(crate) fn table_entry<const N: usize>(&self, list: u64, index: u64) -> Result<[u8; N]> {
        let per_block = (META / N) as u64;
        let mut pointer = [0; 8];
        let at = list.checked_add(index / per_block * 8).ok_or(Errno::EIO)?;
        self.read(at, &mut pointer)?;
        let offset = (index % per_block) as usize * N;
        let mut entry = [0; N];
        self.cursor(Place { block: u64_at(&pointer, 0), offset }).read(&mut entry)?;
        Ok(entry)
    }

    /// The user or group of an index.
    pub(crate) fn id(&self, index: u16) -> Result<u32> {
        if index >= self.sb.ids {
            return Err(self.corrupt("a file has an owner that is not there"));
        }
        let entry = self.table_entry::<4>(self.sb.id_table, index.into())?;
        Ok(u32_at(&entry, 0))
    }

    /// Where a block of fragments is.
    pub(crate) fn fragment(&self, index: u32) -> Result<Stored> {
        if index >= self.sb.fragments {
            return Err(self.corrupt("a file ends in a fragment that is not there"));
        }
        let entry = self.table_entry::<16>(self.sb.fragment_table, index.into())?;
        Ok(Stored { at: u64_at(&entry, 0), word: u32_at(&entry, 8) })
    }

    /// The reference of an inode by its number, if the image has a table of them.
    pub(crate) fn reference_of(&self, ino: u32) -> Result<u64> {
        let table = self.sb.export_table.ok_or(Errno::ESTALE)?;
        let index = ino.checked_sub(1).filter(|index| *index < self.sb.inodes);
        let entry = self.table_entry::<8>(table, index.ok_or(Errno::ESTALE)?.into())?;
        Ok(u64_at(&entry, 0))
    }

    /// Where a reference leads: a block of a table, relative to its start, and a byte in it.
    pub(crate) fn place(&self, table: u64, reference: u64) -> Result<Place> {
        let block = table.checked_add(reference >> 16).ok_or(Errno::EIO)?;
        Ok(Place { block, offset: (reference & 0xffff) as usize })
    }
}

impl Cursor<'_> {
    /// Where it stands.
    pub(crate) fn at(&self) -> Place {
        self.at
    }

    /// Fills `buffer`. Each block is behind the one before: this ends with the image at the latest.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let block = self.volume.meta(self.at.block)?;
            let have = block.bytes.get(self.at.offset..).unwrap_or(&[]);
            if have.is_empty() {
                // Only full blocks have another behind them.
                if self.at.offset != META || block.bytes.len() != META {
                    return Err(self.volume.corrupt("metadata end too early"));
                }
                self.at = Place { block: block.next, offset: 0 };
                continue;
            }
            let step = have.len().min(buffer.len() - done);
            if let (Some(to), Some(from)) = (buffer.get_mut(done..done + step), have.get(..step)) {
                to.copy_from_slice(from);
            }
            done += step;
            self.at.offset += step;
        }
        Ok(())
    }

    /// So many bytes as a value.
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    /// As many bytes as somebody says; `EIO` for more than `most`.
    pub(crate) fn bytes(&mut self, len: usize, most: usize) -> Result<Vec<u8>> {
        if len > most {
            return Err(self.volume.corrupt("a name or a value is too long"));
        }
        let mut bytes = buffer(len)?;
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    /// Passes over bytes.
    pub(crate) fn skip(&mut self, mut len: usize) -> Result<()> {
        let mut bytes = [0; 64];
        while len > 0 {
            let step = len.min(bytes.len());
            self.read(bytes.get_mut(..step).unwrap_or_default())?;
            len -= step;
        }
        Ok(())
    }
}
