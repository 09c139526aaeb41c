//! The mount options in force: at hand for hot paths, and how a remount changes them.

use alloc::sync::Arc;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use abi::mount::MS_RDONLY;
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use arch::time::now_ns;
use vfs::SuperBlock;

use crate::fs::Ext4;
use crate::journal::Manner;
use crate::layout::{Super, ro_compat};
use crate::node::Node;
use crate::options::{DataMode, Flags, Given, OnError, Options};

static CLASS: LockClass = LockClass::new("ext4.options", 459);

const SECOND_NS: u64 = 1_000_000_000;

/// The options of a mounted file system.
pub(crate) struct Config {
    options: SpinLock<Options>,
    /// What the super block chose.
    base: Options,
    /// Never changes.
    data: DataMode,
    flags: AtomicU64,
    errors: AtomicU8,
    commit_s: AtomicU32,
    min_batch_us: AtomicU32,
    stripe: AtomicU32,
    max_dir_kb: AtomicU32,
    resuid: AtomicU32,
    resgid: AtomicU32,
    /// When the last commit ended, and whether the next is wanted before its time.
    last_commit_ns: AtomicU64,
    wants_commit: AtomicBool,
}

impl Config {
    pub(crate) fn new(sb: &Super, given: Given) -> Config {
        let options = given.options;
        let config = Config {
            base: Options::shown_base(sb),
            data: options.data,
            flags: AtomicU64::new(0),
            errors: AtomicU8::new(0),
            commit_s: AtomicU32::new(0),
            min_batch_us: AtomicU32::new(0),
            stripe: AtomicU32::new(0),
            max_dir_kb: AtomicU32::new(0),
            resuid: AtomicU32::new(0),
            resgid: AtomicU32::new(0),
            last_commit_ns: AtomicU64::new(now_ns()),
            wants_commit: AtomicBool::new(false),
            options: SpinLock::new(&CLASS, options.clone()),
        };
        config.apply(options);
        config
    }

    /// Puts options in force.
    fn apply(&self, options: Options) {
        // Relaxed: each stands for itself.
        self.flags.store(options.flags.bits(), Ordering::Relaxed);
        self.errors.store(options.errors as u8, Ordering::Relaxed);
        self.commit_s.store(options.commit_s, Ordering::Relaxed);
        self.min_batch_us.store(options.min_batch_us.min(options.max_batch_us), Ordering::Relaxed);
        self.stripe.store(options.stripe, Ordering::Relaxed);
        self.max_dir_kb.store(options.max_dir_kb, Ordering::Relaxed);
        self.resuid.store(options.resuid, Ordering::Relaxed);
        self.resgid.store(options.resgid, Ordering::Relaxed);
        *self.options.lock() = options;
    }

    pub(crate) fn show(&self, has_journal: bool, out: &mut dyn Write) -> fmt::Result {
        let options = self.options.lock().clone();
        options.show(&self.base, has_journal, out)
    }

    /// How often a commit may be due.
    pub(crate) fn commit_interval_ns(&self) -> u64 {
        u64::from(self.commit_s.load(Ordering::Relaxed)) * SECOND_NS
    }

    pub(crate) fn on_error(&self) -> OnError {
        match self.errors.load(Ordering::Relaxed) {
            0 => OnError::Continue,
            1 => OnError::RemountReadOnly,
            _ => OnError::Panic,
        }
    }

    /// How long a commit for somebody waits for others to join it, in nanoseconds.
    pub(crate) fn batch_ns(&self) -> u64 {
        u64::from(self.min_batch_us.load(Ordering::Relaxed)) * 1000
    }

    /// Blocks that are best allocated together; 0: it does not matter.
    pub(crate) fn stripe(&self) -> u32 {
        self.stripe.load(Ordering::Relaxed)
    }

    /// The user and the group who may take the last blocks.
    pub(crate) fn privileged(&self) -> (u32, u32) {
        (self.resuid.load(Ordering::Relaxed), self.resgid.load(Ordering::Relaxed))
    }

    /// Whether a directory of `bytes` is longer than is allowed.
    pub(crate) fn is_dir_too_long(&self, bytes: u64) -> bool {
        let limit = u64::from(self.max_dir_kb.load(Ordering::Relaxed));
        limit != 0 && bytes > limit << 10
    }

    pub(crate) fn note_commit(&self) {
        self.last_commit_ns.store(now_ns(), Ordering::Relaxed);
    }
}

impl Ext4 {
    /// Whether a toggle is on.
    #[inline]
    pub(crate) fn has(&self, flag: Flags) -> bool {
        self.config.flags.load(Ordering::Relaxed) & flag.bits() != 0
    }

    /// Where file data goes first.
    pub(crate) fn data_mode(&self) -> DataMode {
        self.config.data
    }

    /// Whether all file data goes through the journal.
    pub(crate) fn journals_all_data(&self) -> bool {
        self.config.data == DataMode::Journal
    }

    /// Whether transactions wait for the data of the blocks that they hand to files.
    pub(crate) fn orders_data(&self) -> bool {
        self.config.data == DataMode::Ordered
    }

    /// Whether blocks are allocated when data is written back, not when programs write it.
    #[inline]
    pub(crate) fn delays(&self) -> bool {
        self.has(Flags::DELALLOC)
    }

    /// The next commit is wanted soon.
    pub(crate) fn want_commit(&self) {
        self.config.wants_commit.store(true, Ordering::Release);
        self.device.flusher().kick();
    }

    /// Whether the background has to commit now.
    pub(crate) fn is_commit_due(&self) -> bool {
        let config = &self.config;
        if self.journal.is_none() || config.wants_commit.swap(false, Ordering::AcqRel) {
            return true;
        }
        let passed = now_ns().saturating_sub(config.last_commit_ns.load(Ordering::Relaxed));
        // Timers are not exact.
        passed >= config.commit_interval_ns() / 16 * 15
    }

    /// How the journal is to be kept.
    pub(crate) fn manner(&self) -> Manner {
        let checksums = self.has(Flags::JOURNAL_CHECKSUM) || self.has(Flags::ASYNC_COMMIT);
        Manner { barriers: self.has(Flags::BARRIER), checksums: checksums.then_some(true) }
    }

    /// Tells the parts that keep a copy of what the options say.
    pub(crate) fn configure(&self) {
        self.alloc.set_stripe(self.config.stripe());
    }

    /// `mount -o remount`: other options, other flags.
    pub(crate) fn remount(
        self: &Arc<Self>,
        sb: &Arc<SuperBlock>,
        flags: u64,
        data: &[u8],
    ) -> Result<()> {
        let old = self.config.options.lock().clone();
        let mut given = Given::on(old.clone());
        given.parse(data)?;
        given.check_remount(&old, self)?;
        let read_only = flags & MS_RDONLY != 0;
        if given.options.flags.contains(Flags::ABORT) {
            given.options.flags -= Flags::ABORT;
            self.abort_by_user();
        }
        if !read_only && self.is_aborted() {
            log::error!("EXT4-fs ({}): Abort forced by user", self.device.name());
            return Err(Errno::EROFS);
        }
        self.change_mode(read_only)?;
        let had_acl = self.has(Flags::ACL);
        self.config.apply(given.options);
        self.configure();
        if let Some(journal) = &self.journal {
            journal.ring.lock().set_barriers(self.has(Flags::BARRIER));
        }
        if had_acl != self.has(Flags::ACL) {
            self.show_acls();
        }
        let kept = sb.flags() & !MS_RDONLY;
        sb.set_flags(kept | flags & MS_RDONLY);
        Ok(())
    }

    /// Whether nothing will ever be written again.
    pub(crate) fn is_aborted(&self) -> bool {
        let journal = self.journal.as_ref();
        journal.is_some_and(|journal| journal.state() == crate::journal::State::Aborted)
    }

    fn change_mode(self: &Arc<Self>, read_only: bool) -> Result<()> {
        if read_only && !self.read_only.load(Ordering::Relaxed) {
            // Files that only wait for their last user could not be deleted any more.
            if !self.orphans.is_empty() {
                return Err(Errno::EBUSY);
            }
            self.finish()?;
        }
        if !read_only && (self.sb.ro_compat & !ro_compat::KNOWN != 0 || self.device.is_read_only())
        {
            return Err(Errno::EROFS);
        }
        let was = self.read_only.swap(read_only, Ordering::AcqRel);
        if was && !read_only {
            self.sealed.store(false, Ordering::SeqCst);
            if let Err(error) = self.begin_writing() {
                self.read_only.store(true, Ordering::Release);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Lets permission checks see the lists of the inodes in memory, or not any more.
    fn show_acls(&self) {
        for inode in self.inodes.all() {
            if let Some(node) = inode.private::<Node>()
                && let Err(error) = node.reload_acls(&inode)
            {
                log::error!("ext4: inode {}: cannot read its ACLs: {error}", node.ino);
            }
        }
    }
}
