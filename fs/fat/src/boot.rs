//! The boot sector: where everything is (FAT specification 1.03, "Boot Sector and BPB").

use alloc::vec::Vec;

use crate::bytes::{u8_at, u16_at, u32_at};

/// Bytes of the boot sector that are looked at.
pub(crate) const BOOT_LEN: usize = 512;
/// The first cluster with data has this number.
pub(crate) const FIRST_CLUSTER: u32 = 2;
/// Most clusters by width of an entry: `linux/msdos_fs.h`.
const MAX_FAT12: u32 = 0xff4;
const MAX_FAT16: u32 = 0xfff4;
const MAX_FAT32: u32 = 0x0fff_fff6;

/// Bits of an entry of the FAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Width {
    Fat12,
    Fat16,
    Fat32,
}

/// Where the root directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Root {
    /// A place of its own: its first byte on the device, and its length in bytes.
    Fixed { at: u64, len: u32 },
    /// Clusters like any other's.
    Chain { first: u32 },
}

/// What the boot sector says. Places and lengths are in bytes of the device.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    /// Bytes of a sector.
    pub(crate) sector: u32,
    /// Bytes of a cluster.
    pub(crate) cluster: u32,
    pub(crate) width: Width,
    /// Where the copies of the FAT begin that are kept; the first is read.
    pub(crate) fats: Vec<u64>,
    /// Bytes of a FAT.
    pub(crate) fat_len: u64,
    pub(crate) root: Root,
    /// Where the first cluster is.
    pub(crate) data_at: u64,
    /// How many clusters there are: numbers from 2 on.
    pub(crate) clusters: u32,
    /// The sector with the number of free clusters (FAT32).
    pub(crate) info_at: Option<u64>,
    /// The byte of the boot sector that has the dirty flag.
    pub(crate) state_at: usize,
    /// The dirty flag was set.
    pub(crate) was_dirty: bool,
    pub(crate) volume_id: u32,
}

/// Why a boot sector is none.
type Refusal = &'static str;

impl Geometry {
    /// Reads a boot sector, of a device with logical blocks of `block` bytes.
    pub(crate) fn parse(boot: &[u8], block: u32) -> Result<Geometry, Refusal> {
        let sector = u32::from(u16_at(boot, 11));
        let per_cluster = u32::from(u8_at(boot, 13));
        let reserved = u64::from(u16_at(boot, 14));
        let fats = u8_at(boot, 16);
        if reserved == 0 {
            return Err("bogus number of reserved sectors");
        }
        if fats == 0 {
            return Err("bogus number of FAT structure");
        }
        if !matches!(u8_at(boot, 21), 0xf0 | 0xf8..) {
            return Err("invalid media value");
        }
        if !sector.is_power_of_two() || !(512..=4096).contains(&sector) {
            return Err("bogus logical sector size");
        }
        if !per_cluster.is_power_of_two() {
            return Err("bogus sectors per cluster");
        }
        if sector < block {
            return Err("logical sector size too small for device");
        }
        let is_wide = u16_at(boot, 22) == 0;
        let fat_sectors = if is_wide { u32_at(boot, 36) } else { u32::from(u16_at(boot, 22)) };
        if fat_sectors == 0 {
            return Err("bogus number of FAT sectors");
        }
        let root_entries = u32::from(u16_at(boot, 17));
        if !(root_entries * 32).is_multiple_of(sector) {
            return Err("bogus number of directory entries");
        }
        let sectors = match u16_at(boot, 19) {
            0 => u64::from(u32_at(boot, 32)),
            few => u64::from(few),
        };
        let fat_len = u64::from(fat_sectors) * u64::from(sector);
        let fat_at = |copy: u8| reserved * u64::from(sector) + u64::from(copy) * fat_len;
        let root_at = fat_at(fats);
        let data_at = root_at + u64::from(root_entries) * 32;
        let data_sectors =
            sectors.checked_sub(data_at / u64::from(sector)).ok_or("bogus number of sectors")?;
        let stated = (data_sectors / u64::from(per_cluster)).min(u64::from(u32::MAX)) as u32;
        let width = match (is_wide, stated) {
            (true, _) => Width::Fat32,
            (false, ..=MAX_FAT12) => Width::Fat12,
            (false, _) => Width::Fat16,
        };
        let clusters = stated.min(width.room(fat_len).saturating_sub(FIRST_CLUSTER));
        if clusters > width.most() {
            return Err("count of clusters too big");
        }
        let root = match is_wide {
            true => Root::Chain { first: u32_at(boot, 44) },
            false => Root::Fixed { at: root_at, len: root_entries * 32 },
        };
        // FAT32 may say that only one copy is kept.
        let flags = if is_wide { u16_at(boot, 40) } else { 0 };
        let kept = match flags & 0x80 {
            0 => (0..fats).map(fat_at).collect(),
            _ if (flags & 15) < u16::from(fats) => [fat_at((flags & 15) as u8)].to_vec(),
            _ => return Err("bogus number of the active FAT"),
        };
        let info = u64::from(u16_at(boot, 48));
        let info_is_there = is_wide && info != 0 && info < reserved;
        let state_at = if is_wide { 65 } else { 37 };
        Ok(Geometry {
            sector,
            cluster: sector * per_cluster,
            width,
            fats: kept,
            fat_len,
            root,
            data_at,
            clusters,
            info_at: info_is_there.then(|| info * u64::from(sector)),
            state_at,
            was_dirty: u8_at(boot, state_at) & 1 != 0,
            volume_id: u32_at(boot, if is_wide { 67 } else { 39 }),
        })
    }

    /// The number behind the last cluster's.
    pub(crate) fn end(&self) -> u32 {
        self.clusters.saturating_add(FIRST_CLUSTER)
    }

    /// Where a cluster is on the device.
    pub(crate) fn place(&self, cluster: u32) -> u64 {
        let index = u64::from(cluster.saturating_sub(FIRST_CLUSTER));
        self.data_at + index * u64::from(self.cluster)
    }
}

impl Width {
    /// How many entries fit into a FAT of `len` bytes.
    fn room(self, len: u64) -> u32 {
        let entries = match self {
            Width::Fat12 => len.saturating_mul(2) / 3,
            Width::Fat16 => len / 2,
            Width::Fat32 => len / 4,
        };
        entries.min(u64::from(u32::MAX)) as u32
    }

    fn most(self) -> u32 {
        match self {
            Width::Fat12 => MAX_FAT12,
            Width::Fat16 => MAX_FAT16,
            Width::Fat32 => MAX_FAT32,
        }
    }
}
