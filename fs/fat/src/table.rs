//! The FAT: the cluster that follows each (FAT specification 1.03, "FAT Data Structure").

use alloc::sync::Arc;

use abi::{Errno, Result};
use arch::lock::LockClass;
use block::Device;
use pagecache::Mapping;
use sched::Mutex;

use crate::boot::{FIRST_CLUSTER, Geometry, Width};
use crate::bytes::{u16_at, u32_at};
use crate::data::{TableBacking, peek, poke};
use crate::space::{Run, Space};

static SPACE: LockClass = LockClass::new("fat.space", 457);

/// What an entry of the FAT says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Free,
    /// The number of the cluster that follows; nobody has looked whether there is one.
    Next(u32),
    /// The last cluster of a file.
    End,
    Bad,
}

/// What is known of the free clusters.
struct Free {
    space: Space,
    /// How many, if they have been counted.
    count: Option<u32>,
    /// How many by the sector that tells it, with what has changed since.
    stated: Option<u32>,
}

/// The FAT of a mounted file system.
pub(crate) struct Table {
    mapping: Arc<Mapping>,
    width: Width,
    /// How many clusters there are, and the number behind the last.
    clusters: u32,
    end: u32,
    free: Mutex<Free>,
}

impl Table {
    /// The FAT of a file system; `stated` (free clusters) and `last` (the one taken last) are what the
    /// information sector says.
    pub(crate) fn new(
        device: &Arc<Device>,
        geometry: &Geometry,
        stated: Option<u32>,
        last: u32,
    ) -> Table {
        let backing = TableBacking {
            device: device.clone(),
            copies: geometry.fats.clone(),
            len: geometry.fat_len,
        };
        let space = Space::new(geometry.end(), last);
        Table {
            mapping: Mapping::new(Arc::new(backing), geometry.fat_len),
            width: geometry.width,
            clusters: geometry.clusters,
            end: geometry.end(),
            free: Mutex::new(&SPACE, Free { space, count: None, stated }),
        }
    }

    /// The pages of the FAT.
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Takes the number of free clusters from the information sector (`usefree`).
    pub(crate) fn trust_stated(&self) {
        let mut free = self.free.lock();
        free.count = free.stated.filter(|count| *count <= self.clusters);
    }

    /// Where the entry of a cluster is.
    fn place(&self, cluster: u32) -> u64 {
        let cluster = u64::from(cluster);
        match self.width {
            Width::Fat12 => cluster + cluster / 2,
            Width::Fat16 => cluster * 2,
            Width::Fat32 => cluster * 4,
        }
    }

    /// Reads an entry.
    pub(crate) fn get(&self, cluster: u32) -> Result<Entry> {
        if cluster >= self.end {
            return Err(Errno::EIO);
        }
        let mut bytes = [0; 4];
        let len = if self.width == Width::Fat32 { 4 } else { 2 };
        peek(&self.mapping, self.place(cluster), bytes.get_mut(..len).unwrap_or_default())?;
        let word = u16_at(&bytes, 0);
        let (value, bad) = match self.width {
            Width::Fat12 if cluster & 1 == 0 => (u32::from(word & 0xfff), 0xff7),
            Width::Fat12 => (u32::from(word >> 4), 0xff7),
            Width::Fat16 => (u32::from(word), 0xfff7),
            Width::Fat32 => (u32_at(&bytes, 0) & 0x0fff_ffff, 0x0fff_fff7),
        };
        Ok(match value {
            0 => Entry::Free,
            _ if value == bad => Entry::Bad,
            _ if value > bad => Entry::End,
            _ => Entry::Next(value),
        })
    }

    /// Writes an entry. The caller holds what its file's chain or the free clusters are guarded by.
    fn put(&self, cluster: u32, entry: Entry) -> Result<()> {
        let value = match entry {
            Entry::Free => 0,
            Entry::Next(next) => next,
            Entry::Bad => 0x0fff_fff7,
            Entry::End => 0x0fff_ffff,
        };
        let place = self.place(cluster);
        match self.width {
            Width::Fat12 => {
                // The neighbour has the other half of a byte: all writers hold `free`.
                let mut bytes = [0; 2];
                peek(&self.mapping, place, &mut bytes)?;
                let word = u16_at(&bytes, 0);
                let value = (value & 0xfff) as u16;
                let word =
                    if cluster & 1 == 0 { word & 0xf000 | value } else { word & 15 | value << 4 };
                poke(&self.mapping, place, &word.to_le_bytes())
            }
            Width::Fat16 => poke(&self.mapping, place, &(value as u16).to_le_bytes()),
            Width::Fat32 => {
                // The upper four bits are not ours.
                let mut bytes = [0; 4];
                peek(&self.mapping, place, &mut bytes)?;
                let word = u32_at(&bytes, 0) & 0xf000_0000 | value;
                poke(&self.mapping, place, &word.to_le_bytes())
            }
        }
    }

    /// Makes `cluster`, the last of a file, the last or followed by another.
    pub(crate) fn link(&self, cluster: u32, entry: Entry) -> Result<()> {
        let _held = self.free.lock();
        self.put(cluster, entry)
    }

    /// Takes clusters that follow each other, at most `want`, near `goal`, and makes a chain of them.
    /// `ENOSPC` if none is free.
    pub(crate) fn take(&self, goal: Option<u32>, want: u32) -> Result<Run> {
        let mut free = self.free.lock();
        let mut is_free = |cluster| Ok(self.get(cluster)? == Entry::Free);
        let run = free.space.take(goal, want.max(1), &mut is_free)?.ok_or(Errno::ENOSPC)?;
        let last = run.first + run.len - 1;
        for cluster in run.first..last {
            self.put(cluster, Entry::Next(cluster + 1))?;
        }
        self.put(last, Entry::End)?;
        free.count = free.count.map(|count| count.saturating_sub(run.len));
        free.stated = free.stated.map(|count| count.saturating_sub(run.len));
        Ok(run)
    }

    /// Frees a chain from its cluster `first` on; `discard` gets its runs while nobody can take them again.
    /// `EIO` where it is damaged: what came before is free then.
    pub(crate) fn give_chain(&self, first: u32, discard: &dyn Fn(Run)) -> Result<()> {
        let mut free = self.free.lock();
        let mut run = Run { first, len: 0 };
        let mut cluster = first;
        let result = loop {
            let next = match self.free_one(&mut free, cluster) {
                Ok(next) => next,
                Err(error) => break Err(error),
            };
            if run.first + run.len != cluster {
                discard(run);
                run = Run { first: cluster, len: 0 };
            }
            run.len += 1;
            match next {
                Some(next) => cluster = next,
                None => break Ok(()),
            }
        };
        if run.len > 0 {
            discard(run);
        }
        result
    }

    /// Frees a cluster of a chain; the one that follows it.
    fn free_one(&self, free: &mut Free, cluster: u32) -> Result<Option<u32>> {
        let entry = self.get(cluster)?;
        if matches!(entry, Entry::Free | Entry::Bad) || cluster < FIRST_CLUSTER {
            return Err(Errno::EIO);
        }
        self.put(cluster, Entry::Free)?;
        free.space.give(cluster);
        free.count = free.count.map(|count| count.saturating_add(1).min(self.clusters));
        free.stated = free.stated.map(|count| count.saturating_add(1).min(self.clusters));
        Ok(if let Entry::Next(next) = entry { Some(next) } else { None })
    }

    /// How many clusters are free: reads the whole FAT once.
    pub(crate) fn free_count(&self) -> Result<u32> {
        let mut free = self.free.lock();
        if let Some(count) = free.count {
            return Ok(count);
        }
        let mut is_free = |cluster| Ok(self.get(cluster)? == Entry::Free);
        let count = free.space.count(&mut is_free)?;
        free.count = Some(count);
        Ok(count)
    }

    /// What the information sector is to say: free clusters, if that is known, and the last one taken.
    pub(crate) fn summary(&self) -> (Option<u32>, u32) {
        let free = self.free.lock();
        (free.count.or(free.stated), free.space.last())
    }
}
