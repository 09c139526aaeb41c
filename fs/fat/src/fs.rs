//! A mounted file system: what is written when, the marks it leaves, and what follows damage.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::mount::MS_RDONLY;
use abi::{Errno, Result};
use arch::addr::PAGE_SIZE;
use arch::lock::{LockClass, SpinLock};
use block::{Bio, BioFlags, Claim, Device, Op, SECTOR_SHIFT};
use pagecache::{ErrorCursor, Mapping, Periodic, Wait};
use sched::Mutex;
use vfs::superblock::SuperOps;
use vfs::{DeviceNumber, FsStat, Inode, InodeCache, InodeFlags, SuperBlock};

use crate::boot::Geometry;
use crate::bytes::{put, put32, u8_at, u32_at};
use crate::names::Rules;
use crate::node::{self, ROOT_INO, node};
use crate::options::{OnError, Options};
use crate::record::attr;
use crate::space::Run;
use crate::table::Table;
use crate::time::Zone;

static SYNC: LockClass = LockClass::new("fat.sync", 320);
static RECORDS: LockClass = LockClass::new("fat.records", 335);
static DIRTY: LockClass = LockClass::new("fat.dirty", 459);
static PREALLOCATED: LockClass = LockClass::new("fat.preallocated", 459);
static CLAIM: LockClass = LockClass::new("fat.claim", 459);

/// Magic number for statfs(2): `MSDOS_SUPER_MAGIC`.
pub(crate) const MAGIC: u64 = 0x4d44;
/// Bytes of the longest name: characters, of six bytes at most, of a short one and of a long one.
const NAME_MAX: [u32; 2] = [12 * 6, 255 * 6];
/// The information sector: its signatures, the number of free clusters, where to look first
/// (FAT specification 1.03, "FAT32 FSInfo Sector Structure").
const INFO_SIGNATURES: [(usize, u32); 2] = [(0, 0x4161_5252), (484, 0x6141_7272)];
const INFO_FREE: usize = 488;
const INFO_NEXT: usize = 492;

/// Free clusters, if they are known, and the cluster that was taken last.
type Summary = (Option<u32>, u32);

/// A mounted FAT.
pub(crate) struct Fat {
    pub(crate) geometry: Geometry,
    pub(crate) options: Options,
    pub(crate) rules: Rules,
    pub(crate) zone: Zone,
    pub(crate) device: Arc<Device>,
    pub(crate) table: Table,
    pub(crate) inodes: InodeCache,
    pub(crate) vfs: spin::Once<Weak<SuperBlock>>,
    /// Held by those who write records of files, or move them.
    pub(crate) records: Mutex<()>,
    /// Files whose records are to be written.
    dirty: SpinLock<Vec<Arc<Inode>>>,
    /// Files that may have clusters behind their end, which no volume has that is not mounted: by number.
    preallocated: SpinLock<BTreeMap<u64, Arc<Inode>>>,
    /// Held by who writes everything: what the information sector says, if it was written since the mount.
    syncing: Mutex<Option<Summary>>,
    read_only: AtomicBool,
    /// Damage made it read-only: pages may be left to write.
    has_stopped: AtomicBool,
    next_ino: AtomicU64,
    claim: SpinLock<Option<Claim>>,
    /// Errors in writing the FAT that somebody was told of.
    told: ErrorCursor,
}

/// The free clusters by the information sector, and where to look first.
pub(crate) fn read_info(device: &Device, geometry: &Geometry) -> Result<(Option<u32>, u32)> {
    let Some(at) = geometry.info_at else { return Ok((None, 0)) };
    let mut info = [0; 512];
    device.read_at(at, &mut info)?;
    if INFO_SIGNATURES.iter().any(|(at, signature)| u32_at(&info, *at) != *signature) {
        log::warn!("FAT-fs ({}): Invalid FSINFO signature", device.name());
        return Ok((None, 0));
    }
    let free = u32_at(&info, INFO_FREE);
    Ok(((free <= geometry.clusters).then_some(free), u32_at(&info, INFO_NEXT)))
}

/// Has the device have all of a mapping; an error that nobody was told of yet is told.
fn write_out(mapping: &Mapping) -> Result<()> {
    let told = mapping.error_cursor();
    mapping.sync()?;
    mapping.check_error(&told)
}

impl Fat {
    pub(crate) fn new(
        device: &Arc<Device>,
        geometry: Geometry,
        options: Options,
        claim: Claim,
        read_only: bool,
    ) -> Result<Arc<Fat>> {
        let (stated, hint) = read_info(device, &geometry)?;
        let table = Table::new(device, &geometry, stated, hint);
        if options.usefree {
            table.trust_stated();
        }
        let told = table.mapping().error_cursor();
        Ok(Arc::new(Fat {
            rules: Rules::new(&options),
            zone: options.zone(),
            geometry,
            options,
            device: device.clone(),
            table,
            inodes: InodeCache::new(),
            vfs: spin::Once::new(),
            records: Mutex::new(&RECORDS, ()),
            dirty: SpinLock::new(&DIRTY, Vec::new()),
            preallocated: SpinLock::new(&PREALLOCATED, BTreeMap::new()),
            syncing: Mutex::new(&SYNC, None),
            read_only: AtomicBool::new(read_only),
            has_stopped: AtomicBool::new(false),
            next_ino: AtomicU64::new(ROOT_INO + 1),
            claim: SpinLock::new(&CLAIM, Some(claim)),
            told,
        }))
    }

    /// Nothing may be written.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// A number for a file that has none: they have none on the disk.
    pub(crate) fn next_ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Ordering::Relaxed)
    }

    /// The permission bits that go with attributes.
    pub(crate) fn mode(&self, attributes: u8, is_dir: bool, is_program: bool) -> u32 {
        let options = &self.options;
        let is_frozen = attributes & attr::READ_ONLY != 0 && (!is_dir || options.rodir);
        let all = match is_dir {
            false if options.showexec && !is_program => 0o666,
            _ => 0o777,
        };
        let mask = if is_dir { options.dmask } else { options.fmask };
        all & !mask & if is_frozen { !0o222 } else { !0 }
    }

    /// The flags that go with attributes.
    pub(crate) fn flags(&self, attributes: u8, is_dir: bool) -> InodeFlags {
        node::flags(attributes, is_dir, self.options.is_vfat, self.options.sys_immutable)
    }

    /// Remembers a file whose record is to be written.
    pub(crate) fn queue(&self, inode: Arc<Inode>) {
        self.dirty.lock().push(inode);
    }

    /// Remembers a file with clusters behind its end.
    pub(crate) fn keep(&self, inode: Option<Arc<Inode>>) {
        self.preallocated.lock().extend(inode.map(|inode| (inode.ino, inode)));
    }

    /// The file is no more.
    pub(crate) fn forget(&self, ino: u64) {
        // Dropped without the lock.
        let _kept = self.preallocated.lock().remove(&ino);
    }

    /// Frees what is behind the ends of files.
    fn trim(&self) -> Result<()> {
        let files = core::mem::take(&mut *self.preallocated.lock());
        for inode in files.values().filter(|inode| inode.nlink() > 0) {
            let _held = inode.lock().write();
            let node = node(inode)?;
            node.kept_end.store(0, Ordering::Relaxed);
            node.trim(inode)?;
        }
        Ok(())
    }

    /// Writes records into the pages of their directories. Who comes second waits for who came first: the
    /// records that are in no list any more have been written.
    fn store_records(&self) -> Result<()> {
        let records = self.records.lock();
        let dirty = core::mem::take(&mut *self.dirty.lock());
        let mut result = Ok(());
        for inode in &dirty {
            let stored = node(inode).and_then(|node| node.store_changes(inode));
            if let Err(error) = stored {
                log::error!("FAT-fs ({}): cannot write a record: {error}", self.device.name());
                result = Err(error);
            }
        }
        drop(records);
        result
    }

    /// Everything to the device; `wait` until it has it.
    pub(crate) fn sync(&self, wait: bool) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        let mut told = self.syncing.lock();
        let stored = self.store_records();
        self.device.flusher().write_all(if wait { Wait::ForDevice } else { Wait::No });
        if !wait {
            return stored;
        }
        self.write_info(&mut told)?;
        self.table.mapping().check_error(&self.told)?;
        self.device.flush()?;
        stored
    }

    /// What a file needs to be found again: the records of its directories, and the FAT.
    pub(crate) fn sync_way_to(&self, inode: &Arc<Inode>) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        let mut at = inode.clone();
        loop {
            node(&at)?.store(&at)?;
            let Some(dir) = node(&at)?.parent() else { break };
            if let Some(mapping) = dir.mapping() {
                write_out(mapping)?;
            }
            at = dir;
        }
        write_out(self.table.mapping())?;
        self.device.flush()
    }

    /// After a change of names, where mount(8) says `sync` or `dirsync`.
    pub(crate) fn after_change(&self, dirs: &[&Arc<Inode>]) -> Result<()> {
        use abi::mount::{MS_DIRSYNC, MS_SYNCHRONOUS};
        let flags = self.vfs.get().and_then(Weak::upgrade).map_or(0, |sb| sb.flags());
        if flags & (MS_SYNCHRONOUS | MS_DIRSYNC) == 0 {
            return Ok(());
        }
        for dir in dirs {
            if let Some(mapping) = dir.mapping() {
                write_out(mapping)?;
            }
            self.sync_way_to(dir)?;
        }
        Ok(())
    }

    /// Changes a sector on the device, past the cache of the bare device.
    fn change_sector(&self, at: u64, change: impl FnOnce(&mut [u8])) -> Result<()> {
        let len = self.geometry.sector as usize;
        let page = frames::alloc_page(frames::Flags::RESERVE)?;
        let bio = |op| {
            let mut bio = Bio::new(op, at >> SECTOR_SHIFT, |_| {});
            bio.push(page.clone(), 0, len as u32);
            bio.with_flags(BioFlags::META)
        };
        self.device.submit_and_wait(bio(Op::Read))?;
        let mut bytes = [0; PAGE_SIZE];
        let bytes = bytes.get_mut(..len).ok_or(Errno::EINVAL)?;
        page.copy_out(0, bytes);
        change(bytes);
        page.copy_in(0, bytes);
        self.device.submit_and_wait(bio(Op::Write))
    }

    /// Tells the information sector of the free clusters, if that is something new.
    fn write_info(&self, told: &mut Option<Summary>) -> Result<()> {
        let Some(at) = self.geometry.info_at else { return Ok(()) };
        let summary = self.table.summary();
        if *told == Some(summary) {
            return Ok(());
        }
        let (free, next) = summary;
        self.change_sector(at, |info| {
            if INFO_SIGNATURES.iter().any(|(at, signature)| u32_at(info, *at) != *signature) {
                return;
            }
            if let Some(free) = free {
                put32(info, INFO_FREE, free);
            }
            put32(info, INFO_NEXT, next);
        })?;
        *told = Some(summary);
        Ok(())
    }

    /// Marks the file system as in use, or as whole. One that was found in use stays so until somebody
    /// has checked it.
    pub(crate) fn mark(&self, is_dirty: bool) -> Result<()> {
        if self.geometry.was_dirty {
            return Ok(());
        }
        let at = self.geometry.state_at;
        self.change_sector(0, |boot| {
            let state = u8_at(boot, at) & !1;
            put(boot, at, &[state | u8::from(is_dirty)]);
        })
    }

    /// Readies a file system that may be written from now on.
    pub(crate) fn begin_writing(&self) -> Result<()> {
        if self.geometry.was_dirty {
            log::warn!(
                "FAT-fs ({}): Volume was not properly unmounted. Some data may be corrupt. Please run fsck.",
                self.device.name()
            );
        }
        self.mark(true)
    }

    /// Leaves everything on the device, marked as whole, and writes nothing more.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        self.trim()?;
        self.sync(true)?;
        self.read_only.store(true, Ordering::Release);
        self.mark(false)?;
        self.device.flush()
    }

    /// Tells the device of clusters that are free, if that is asked for. Nobody can take them meanwhile.
    pub(crate) fn discard(&self, run: Run) {
        if !self.options.discard {
            return;
        }
        let bytes = u64::from(run.len) * u64::from(self.geometry.cluster);
        let first = self.geometry.place(run.first) >> SECTOR_SHIFT;
        // A device that cannot goes without.
        let _ = self.device.discard(first, bytes >> SECTOR_SHIFT);
    }

    /// What was read cannot be: `errors=` says what follows. `EIO`.
    #[cold]
    pub(crate) fn corrupt(&self, what: &str) -> Errno {
        let name = self.device.name();
        log::error!("FAT-fs ({name}): error, {what}");
        match self.options.errors {
            OnError::Continue => {}
            OnError::Panic => panic!("FAT-fs ({name}): fs panic from previous error"),
            OnError::RemountReadOnly => self.go_read_only(),
        }
        Errno::EIO
    }

    fn go_read_only(&self) {
        let Some(sb) = self.vfs.get().and_then(Weak::upgrade) else { return };
        if self.read_only.swap(true, Ordering::AcqRel) {
            return;
        }
        self.has_stopped.store(true, Ordering::Release);
        sb.set_flags(sb.flags() | MS_RDONLY);
        log::error!("FAT-fs ({}): Filesystem has been set read-only", self.device.name());
    }

    /// Passes an error of the FAT on; `EIO` has consequences.
    pub(crate) fn judge(&self, error: Errno, what: &str) -> Errno {
        if error == Errno::EIO { self.corrupt(what) } else { error }
    }

    fn remount(&self, sb: &SuperBlock, flags: u64) -> Result<()> {
        let read_only = flags & MS_RDONLY != 0;
        if read_only {
            self.finish()?;
        } else if self.is_read_only() {
            if self.device.is_read_only() {
                return Err(Errno::EACCES);
            }
            self.begin_writing()?;
            self.read_only.store(false, Ordering::Release);
        }
        sb.set_flags(sb.flags() & !MS_RDONLY | flags & MS_RDONLY);
        Ok(())
    }
}

impl Periodic for Fat {
    fn write_old(&self, _older_than_ns: u64) {
        if self.is_read_only() {
            return;
        }
        // The pages of the directories have their own age.
        let _ = self.store_records();
    }
}

pub(crate) struct SuperPart(pub(crate) Arc<Fat>);

impl SuperOps for SuperPart {
    fn statfs(&self, sb: &SuperBlock) -> Result<FsStat> {
        let fs = &self.0;
        let free = u64::from(fs.table.free_count()?);
        let id = fs.device.id();
        Ok(FsStat {
            magic: MAGIC,
            block_size: fs.geometry.cluster.into(),
            fragment_size: fs.geometry.cluster.into(),
            blocks: fs.geometry.clusters.into(),
            free,
            available: free,
            files: 0,
            files_free: 0,
            fsid: DeviceNumber::new(id.major, id.minor).encode(),
            name_max: sb.name_max.into(),
        })
    }

    fn sync(&self, _sb: &SuperBlock, wait: bool) -> Result<()> {
        self.0.sync(wait)
    }

    fn remount(&self, sb: &Arc<SuperBlock>, flags: u64, _data: &[u8]) -> Result<()> {
        self.0.remount(sb, flags)
    }

    fn is_for_reading(&self) -> bool {
        self.0.options.is_for_reading()
    }

    fn put_super(&self, _sb: &SuperBlock) {
        let fs = &self.0;
        if let Err(error) = fs.finish() {
            log::error!("FAT-fs ({}): cannot unmount cleanly: {error}", fs.device.name());
        }
        if fs.has_stopped.load(Ordering::Acquire) {
            // What is written later would be written over what others have repaired meanwhile.
            fs.device.flusher().write_all(Wait::ForDevice);
        }
        // The flusher may be here still: the device is no longer ours.
        let one = fs.syncing.lock();
        fs.read_only.store(true, Ordering::Release);
        let left = core::mem::take(&mut *fs.dirty.lock());
        // Damage leaves them; what refers to the file system would keep it for ever.
        let kept = core::mem::take(&mut *fs.preallocated.lock());
        drop(one);
        drop((left, kept));
        let claim = fs.claim.lock().take();
        if let Some(claim) = claim {
            claim.release();
        }
    }

    fn show_options(&self, _sb: &SuperBlock, out: &mut dyn Write) -> fmt::Result {
        self.0.options.show(out)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Bytes of the longest name of a type.
pub(crate) fn name_max(is_vfat: bool) -> u32 {
    let [short, long] = NAME_MAX;
    if is_vfat { long } else { short }
}
