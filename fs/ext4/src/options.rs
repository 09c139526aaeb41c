//! Mount options (ext4(5)): what a file system is mounted with, and how `/proc/mounts` shows it.
//!
//! Names, rules and messages are Linux's. Defaults come from the super block; what differs from them is
//! shown, in Linux's order.

mod show;

use alloc::string::String;

use abi::{Errno, Result};
use vfs::superblock::OptionError;

use crate::bytes::{u16_at, u32_at};
use crate::layout::Super;

bitflags::bitflags! {
    /// Options that are on or off.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct Flags: u64 {
        const MINIX_DF = 1 << 0;
        const GRPID = 1 << 1;
        const BLOCK_VALIDITY = 1 << 2;
        const DIOREAD_NOLOCK = 1 << 3;
        const DISCARD = 1 << 4;
        const DELALLOC = 1 << 5;
        const WARN_ON_ERROR = 1 << 6;
        const JOURNAL_CHECKSUM = 1 << 7;
        const ASYNC_COMMIT = 1 << 8;
        const BARRIER = 1 << 9;
        const AUTO_DA_ALLOC = 1 << 10;
        const USER_XATTR = 1 << 11;
        const ACL = 1 << 12;
        const NO_UID32 = 1 << 13;
        const DEBUG = 1 << 14;
        const NOLOAD = 1 << 15;
        const DATA_ERR_ABORT = 1 << 16;
        const INIT_ITABLE = 1 << 17;
        const NO_MBCACHE = 1 << 18;
        const PREFETCH_BITMAPS = 1 << 19;
        const USRQUOTA = 1 << 20;
        const GRPQUOTA = 1 << 21;
        const PRJQUOTA = 1 << 22;
        const ABORT = 1 << 23;
        const I_VERSION = 1 << 24;
    }
}

/// Where file data goes before it is in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DataMode {
    Journal,
    Ordered,
    Writeback,
}

/// What happens when the file system turns out to be damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnError {
    Continue,
    RemountReadOnly,
    Panic,
}

/// What a file system is mounted with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Options {
    pub(crate) flags: Flags,
    pub(crate) data: DataMode,
    pub(crate) errors: OnError,
    pub(crate) commit_s: u32,
    pub(crate) min_batch_us: u32,
    pub(crate) max_batch_us: u32,
    pub(crate) stripe: u32,
    pub(crate) inode_readahead: u32,
    pub(crate) init_itable: u32,
    pub(crate) max_dir_kb: u32,
    pub(crate) journal_ioprio: u32,
    pub(crate) resuid: u32,
    pub(crate) resgid: u32,
    /// Where the super block is, in KiB.
    pub(crate) sb_kib: u32,
    /// `data=` was given: it is shown, whatever it says.
    pub(crate) is_data_given: bool,
}

/// Options, and which of those with rules of their own were named.
pub(crate) struct Given {
    pub(crate) options: Options,
    pub(crate) data: Option<DataMode>,
    /// Toggles that were turned on, and off.
    pub(crate) on: Flags,
    pub(crate) off: Flags,
    pub(crate) journal_device: bool,
    pub(crate) sb: bool,
    pub(crate) read_only: bool,
    /// The log has a message about what is wrong.
    is_told: bool,
}

const COMMIT_S: u32 = 5;
/// As many seconds as Linux's timers take.
const MOST_COMMIT_S: u32 = (i32::MAX / 250) as u32;
const MAX_BATCH_US: u32 = 15_000;
const INODE_READAHEAD: u32 = 32;
const INIT_ITABLE: u32 = 10;
const IOPRIO: u32 = 3;

/// Toggles: the name that turns a flag on, and the one that turns it off; in the order of `/proc/mounts`.
const TOGGLES: [(&str, &str, Flags); 16] = [
    ("minixdf", "bsddf", Flags::MINIX_DF),
    ("grpid", "nogrpid", Flags::GRPID),
    ("block_validity", "noblock_validity", Flags::BLOCK_VALIDITY),
    ("dioread_nolock", "dioread_lock", Flags::DIOREAD_NOLOCK),
    ("discard", "nodiscard", Flags::DISCARD),
    ("delalloc", "nodelalloc", Flags::DELALLOC),
    ("warn_on_error", "nowarn_on_error", Flags::WARN_ON_ERROR),
    ("journal_checksum", "nojournal_checksum", Flags::JOURNAL_CHECKSUM),
    ("journal_async_commit", "", Flags::ASYNC_COMMIT),
    ("barrier", "nobarrier", Flags::BARRIER),
    ("auto_da_alloc", "noauto_da_alloc", Flags::AUTO_DA_ALLOC),
    ("user_xattr", "nouser_xattr", Flags::USER_XATTR),
    ("acl", "noacl", Flags::ACL),
    ("nouid32", "", Flags::NO_UID32),
    ("debug", "", Flags::DEBUG),
    ("no_mbcache", "", Flags::NO_MBCACHE),
];

/// Other names of toggles, and those that are not shown as such.
const ALIASES: [(&str, Flags, bool); 14] = [
    ("bsdgroups", Flags::GRPID, true),
    ("sysvgroups", Flags::GRPID, false),
    ("noload", Flags::NOLOAD, true),
    ("norecovery", Flags::NOLOAD, true),
    ("abort", Flags::ABORT, true),
    ("noinit_itable", Flags::INIT_ITABLE, false),
    ("nombcache", Flags::NO_MBCACHE, true),
    ("quota", Flags::USRQUOTA, true),
    ("usrquota", Flags::USRQUOTA, true),
    ("grpquota", Flags::GRPQUOTA, true),
    ("prjquota", Flags::PRJQUOTA, true),
    ("i_version", Flags::I_VERSION, true),
    ("prefetch_block_bitmaps", Flags::PREFETCH_BITMAPS, true),
    ("no_prefetch_block_bitmaps", Flags::PREFETCH_BITMAPS, false),
];

/// Names that once meant something, and mean nothing any more.
const IGNORED: [&str; 10] = [
    "oldalloc",
    "orlov",
    "nocheck",
    "reservation",
    "noreservation",
    "bh",
    "nobh",
    "mblk_io_submit",
    "nomblk_io_submit",
    "journal",
];

/// A number as Linux reads it: decimal, `0x…` or `0…`.
fn number(text: Option<&str>) -> Result<u32, OptionError> {
    let text = text.ok_or(OptionError::BadValue)?;
    let parsed = if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        u32::from_str_radix(hex, 16)
    } else if text.len() > 1 && text.starts_with('0') {
        u32::from_str_radix(text, 8)
    } else {
        text.strip_prefix('+').unwrap_or(text).parse()
    };
    parsed.map_err(|_| OptionError::BadValue)
}

fn data_mode(text: &str) -> Option<DataMode> {
    match text {
        "journal" => Some(DataMode::Journal),
        "ordered" => Some(DataMode::Ordered),
        "writeback" => Some(DataMode::Writeback),
        _ => None,
    }
}

fn on_error(text: &str) -> Option<OnError> {
    match text {
        "continue" => Some(OnError::Continue),
        "remount-ro" => Some(OnError::RemountReadOnly),
        "panic" => Some(OnError::Panic),
        _ => None,
    }
}

impl Options {
    /// What holds where no super block says anything.
    fn plain() -> Options {
        Options {
            flags: Flags::USER_XATTR
                | Flags::ACL
                | Flags::BARRIER
                | Flags::DELALLOC
                | Flags::AUTO_DA_ALLOC
                | Flags::BLOCK_VALIDITY
                | Flags::DIOREAD_NOLOCK
                | Flags::INIT_ITABLE
                | Flags::PREFETCH_BITMAPS,
            data: DataMode::Ordered,
            errors: OnError::Continue,
            commit_s: COMMIT_S,
            min_batch_us: 0,
            max_batch_us: MAX_BATCH_US,
            stripe: 0,
            inode_readahead: INODE_READAHEAD,
            init_itable: INIT_ITABLE,
            max_dir_kb: 0,
            journal_ioprio: IOPRIO,
            resuid: 0,
            resgid: 0,
            sb_kib: 1,
            is_data_given: false,
        }
    }

    /// What `/proc/mounts` does not mention.
    pub(crate) fn shown_base(sb: &Super) -> Options {
        Options { stripe: 0, ..Options::defaults(sb) }
    }

    /// What holds before a list of options is looked at: the super block's choice.
    pub(crate) fn defaults(sb: &Super) -> Options {
        let raw = &sb.raw;
        let chosen = u32_at(raw, 0x100);
        let has = |bit: u32| chosen & bit != 0;
        let mut flags = Options::plain().flags;
        flags.set(Flags::DEBUG, has(0x1));
        flags.set(Flags::GRPID, has(0x2));
        flags.set(Flags::NO_UID32, has(0x10));
        flags.set(Flags::BARRIER, !has(0x200));
        flags.set(Flags::DISCARD, has(0x400));
        flags.set(Flags::DELALLOC, !has(0x800));
        flags.set(Flags::DIOREAD_NOLOCK, sb.block_size == 4096);
        flags.set(Flags::JOURNAL_CHECKSUM, sb.has_csum());
        let data = match chosen & 0x60 {
            0x20 => DataMode::Journal,
            0x60 => DataMode::Writeback,
            _ => DataMode::Ordered,
        };
        let errors = match u16_at(raw, 0x3c) {
            2 => OnError::RemountReadOnly,
            3 => OnError::Panic,
            _ => OnError::Continue,
        };
        Options {
            flags,
            data,
            errors,
            stripe: u32_at(raw, 0x170),
            resuid: u16_at(raw, 0x50).into(),
            resgid: u16_at(raw, 0x52).into(),
            ..Options::plain()
        }
    }
}

impl Given {
    /// Nothing yet, on top of `base`.
    pub(crate) fn on(base: Options) -> Given {
        let none = Flags::empty();
        let (journal_device, sb, read_only, is_told) = (false, false, false, false);
        Given {
            options: base,
            data: None,
            on: none,
            off: none,
            journal_device,
            sb,
            read_only,
            is_told,
        }
    }

    /// Whether an option is one, with a value that it takes.
    pub(crate) fn check(key: &[u8], value: Option<&[u8]>) -> Result<(), OptionError> {
        let key = String::from_utf8_lossy(key);
        let value = value.map(String::from_utf8_lossy);
        Given::on(Options::plain()).apply(&key, value.as_deref())
    }

    /// Checks a list, and returns where it says that the super block is, in KiB.
    pub(crate) fn place_of(list: &[u8]) -> Result<u32> {
        let mut given = Given::on(Options::plain());
        given.parse(list)?;
        Ok(given.options.sb_kib)
    }

    /// Takes the list that the super block keeps. A wrong one is told of, and does not count.
    pub(crate) fn parse_kept(&mut self, list: &[u8]) {
        let mut kept = Given::on(self.options.clone());
        if kept.parse(list).is_ok() {
            self.options = kept.options;
        } else {
            log::error!("EXT4-fs: failed to parse options in superblock");
        }
    }

    /// The rules that a new mount has to keep.
    pub(crate) fn check_mount(&mut self, sb: &Super, name: &str) -> Result<()> {
        let refuse = |why: &str| {
            log::error!("EXT4-fs ({name}): {why}");
            Err(Errno::EINVAL)
        };
        if self.journal_device && sb.has_journal() && u32_at(&sb.raw, 0xe0) != 0 {
            return refuse("filesystem has both journal inode and journal device!");
        }
        let noload = self.options.flags.contains(Flags::NOLOAD);
        let recovers = sb.incompat & crate::layout::incompat::RECOVER != 0;
        if noload && recovers && !self.read_only {
            return refuse("required journal recovery suppressed and not mounted read-only");
        }
        if !sb.has_journal() || noload {
            if self.options.flags.contains(Flags::ASYNC_COMMIT) {
                return refuse("can't mount with journal_async_commit, fs mounted w/o journal");
            }
            if self.on.contains(Flags::JOURNAL_CHECKSUM) {
                return refuse("can't mount with journal_checksum, fs mounted w/o journal");
            }
            if self.options.commit_s != COMMIT_S {
                return refuse("can't mount with commit=, fs mounted w/o journal");
            }
            if self.data.is_some() {
                return refuse("can't mount with data=, fs mounted w/o journal");
            }
        } else if self.options.data == DataMode::Journal {
            log::warn!(
                "EXT4-fs: Warning: mounting with data=journal disables delayed allocation, \
                 dioread_nolock, O_DIRECT and fast_commit support!"
            );
            if self.on.contains(Flags::DELALLOC) {
                return refuse("can't mount with both data=journal and delalloc");
            }
            if self.on.contains(Flags::DIOREAD_NOLOCK) {
                return refuse("can't mount with both data=journal and dioread_nolock");
            }
            self.options.flags -= Flags::DELALLOC | Flags::DIOREAD_NOLOCK;
        }
        if sb.has_journal()
            && self.options.data == DataMode::Ordered
            && self.options.flags.contains(Flags::ASYNC_COMMIT)
        {
            return refuse("can't mount with journal_async_commit in data=ordered mode");
        }
        Ok(())
    }

    /// The rules that a remount has to keep.
    pub(crate) fn check_remount(&mut self, old: &Options, fs: &crate::fs::Ext4) -> Result<()> {
        let name = fs.device.name();
        let refuse = |why: &str| {
            log::error!("EXT4-fs ({name}): {why}");
            Err(Errno::EINVAL)
        };
        if self.data.is_some_and(|data| fs.journal.is_some() && data != old.data) {
            return refuse("Cannot change data mode on remount");
        }
        if self.sb && self.options.sb_kib != old.sb_kib {
            return refuse("Cannot change sb on remount");
        }
        if old.data == DataMode::Journal && fs.journal.is_some() {
            if self.on.contains(Flags::DELALLOC) {
                return refuse("can't mount with both data=journal and delalloc");
            }
            if self.on.contains(Flags::DIOREAD_NOLOCK) {
                return refuse("can't mount with both data=journal and dioread_nolock");
            }
        }
        // How the log is written is decided when it is opened.
        let fixed = Flags::NOLOAD | Flags::JOURNAL_CHECKSUM | Flags::ASYNC_COMMIT;
        let kept = old.flags & fixed;
        self.options.flags = (self.options.flags - fixed) | kept;
        Ok(())
    }

    /// Takes a list as `mount(2)` gets it. `EINVAL`, with a message, at the first that is wrong.
    pub(crate) fn parse(&mut self, list: &[u8]) -> Result<()> {
        let end = list.iter().position(|&byte| byte == 0).unwrap_or(list.len());
        for word in list.get(..end).unwrap_or(list).split(|&byte| byte == b',') {
            if word.is_empty() {
                continue;
            }
            let text = String::from_utf8_lossy(word);
            let (key, value) = match text.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (&*text, None),
            };
            match self.apply(key, value) {
                Ok(()) => {}
                Err(OptionError::Unknown) => {
                    log::error!("ext4: Unknown parameter '{key}'");
                    return Err(Errno::EINVAL);
                }
                Err(OptionError::BadValue) => {
                    if !self.is_told {
                        log::error!("ext4: Bad value for '{key}'");
                    }
                    return Err(Errno::EINVAL);
                }
            }
        }
        Ok(())
    }

    fn toggle(&mut self, flag: Flags, on: bool) {
        self.options.flags.set(flag, on);
        self.on.set(flag, on);
        self.off.set(flag, !on);
    }

    /// Takes one.
    pub(crate) fn apply(&mut self, key: &str, value: Option<&str>) -> Result<(), OptionError> {
        // These two take a number as well.
        if matches!(key, "barrier" | "auto_da_alloc") && value.is_some() {
            let flag = if key == "barrier" { Flags::BARRIER } else { Flags::AUTO_DA_ALLOC };
            self.toggle(flag, number(value)? != 0);
            return Ok(());
        }
        if self.apply_word(key, value)? {
            return Ok(());
        }
        self.apply_value(key, value)
    }

    /// Takes what has no value; whether it was such a one.
    fn apply_word(&mut self, key: &str, value: Option<&str>) -> Result<bool, OptionError> {
        let toggle = TOGGLES.iter().find_map(|(on, off, flag)| match key {
            _ if key == *on => Some((*flag, true)),
            _ if key == *off => Some((*flag, false)),
            _ => None,
        });
        let alias = ALIASES.iter().find(|(name, ..)| *name == key).map(|(_, f, on)| (*f, *on));
        let is_word = toggle.or(alias).is_some()
            || matches!(key, "noquota" | "init_itable")
            || IGNORED.contains(&key);
        if !is_word || key == "init_itable" && value.is_some() {
            return Ok(false);
        }
        if value.is_some() {
            self.is_told = true;
            log::error!("ext4: Unexpected value for '{key}'");
            return Err(OptionError::BadValue);
        }
        match toggle.or(alias) {
            Some((flag, on)) => self.toggle(flag, on),
            None if key == "noquota" => {
                self.toggle(Flags::USRQUOTA | Flags::GRPQUOTA | Flags::PRJQUOTA, false);
            }
            None if key == "init_itable" => {
                self.toggle(Flags::INIT_ITABLE, true);
                self.options.init_itable = INIT_ITABLE;
            }
            None => log::warn!("EXT4-fs: Ignoring removed {key} option"),
        }
        Ok(true)
    }

    fn apply_value(&mut self, key: &str, value: Option<&str>) -> Result<(), OptionError> {
        let options = &mut self.options;
        match key {
            "data" => {
                let mode = value.and_then(data_mode).ok_or(OptionError::BadValue)?;
                options.data = mode;
                options.is_data_given = true;
                self.data = Some(mode);
            }
            "errors" => options.errors = value.and_then(on_error).ok_or(OptionError::BadValue)?,
            "data_err" => match value {
                Some("abort") => options.flags |= Flags::DATA_ERR_ABORT,
                Some("ignore") => options.flags -= Flags::DATA_ERR_ABORT,
                _ => return Err(OptionError::BadValue),
            },
            "commit" => {
                let seconds = number(value)?;
                if seconds > i32::MAX as u32 {
                    return Err(OptionError::BadValue);
                }
                if seconds > MOST_COMMIT_S {
                    self.is_told = true;
                    log::error!(
                        "EXT4-fs: Invalid commit interval {seconds}, must be smaller than {MOST_COMMIT_S}"
                    );
                    return Err(OptionError::BadValue);
                }
                options.commit_s = if seconds == 0 { COMMIT_S } else { seconds };
            }
            "min_batch_time" => options.min_batch_us = number(value)?,
            "max_batch_time" => options.max_batch_us = number(value)?,
            "stripe" => options.stripe = number(value)?,
            "inode_readahead_blks" => {
                let blocks = number(value)?;
                if blocks != 0 && (blocks > 1 << 30 || !blocks.is_power_of_two()) {
                    self.is_told = true;
                    log::error!(
                        "EXT4-fs: EXT4-fs: inode_readahead_blks must be 0 or a power of 2 smaller than 2^31"
                    );
                    return Err(OptionError::BadValue);
                }
                options.inode_readahead = blocks;
            }
            "init_itable" => {
                options.init_itable = number(value)?;
                self.toggle(Flags::INIT_ITABLE, true);
            }
            "max_dir_size_kb" => options.max_dir_kb = number(value)?,
            "journal_ioprio" => {
                let priority = number(value)?;
                if priority > 7 {
                    self.is_told = true;
                    log::error!("EXT4-fs: Invalid journal IO priority (must be 0-7)");
                    return Err(OptionError::BadValue);
                }
                options.journal_ioprio = priority;
            }
            "resuid" => options.resuid = number(value)?,
            "resgid" => options.resgid = number(value)?,
            "sb" => {
                options.sb_kib = number(value)?;
                self.sb = true;
            }
            "journal_dev" => {
                number(value)?;
                self.journal_device = true;
            }
            "journal_path" => {
                value.ok_or(OptionError::BadValue)?;
                self.journal_device = true;
            }
            _ => return Err(OptionError::Unknown),
        }
        Ok(())
    }
}
