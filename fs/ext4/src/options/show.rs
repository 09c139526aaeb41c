//! How `/proc/mounts` shows the options.

use core::fmt::{self, Write};

use super::{DataMode, Flags, OnError, Options, TOGGLES};

impl Options {
    /// Writes what differs from `base`, each with a comma before it.
    pub(crate) fn show(
        &self,
        base: &Options,
        has_journal: bool,
        out: &mut dyn Write,
    ) -> fmt::Result {
        if self.sb_kib != 1 {
            write!(out, ",sb={}", self.sb_kib)?;
        }
        if self.flags.contains(Flags::NOLOAD) {
            out.write_str(",norecovery")?;
        }
        for (on, off, flag) in TOGGLES {
            let (is, was) = (self.flags.contains(flag), base.flags.contains(flag));
            if is != was {
                write!(out, ",{}", if is { on } else { off })?;
            }
        }
        if !self.flags.contains(Flags::INIT_ITABLE) {
            out.write_str(",noinit_itable")?;
        }
        if self.resuid != base.resuid {
            write!(out, ",resuid={}", self.resuid)?;
        }
        if self.resgid != base.resgid {
            write!(out, ",resgid={}", self.resgid)?;
        }
        if self.errors != base.errors {
            let name = match self.errors {
                OnError::Continue => "continue",
                OnError::RemountReadOnly => "remount-ro",
                OnError::Panic => "panic",
            };
            write!(out, ",errors={name}")?;
        }
        let numbers = [
            ("commit", self.commit_s, base.commit_s),
            ("min_batch_time", self.min_batch_us, base.min_batch_us),
            ("max_batch_time", self.max_batch_us, base.max_batch_us),
            ("stripe", self.stripe, base.stripe),
        ];
        for (name, is, was) in numbers {
            if is != was {
                write!(out, ",{name}={is}")?;
            }
        }
        if has_journal && (self.is_data_given || self.data != base.data) {
            let name = match self.data {
                DataMode::Journal => "journal",
                DataMode::Ordered => "ordered",
                DataMode::Writeback => "writeback",
            };
            write!(out, ",data={name}")?;
        }
        if self.inode_readahead != base.inode_readahead {
            write!(out, ",inode_readahead_blks={}", self.inode_readahead)?;
        }
        if self.flags.contains(Flags::INIT_ITABLE) && self.init_itable != base.init_itable {
            write!(out, ",init_itable={}", self.init_itable)?;
        }
        if self.max_dir_kb != base.max_dir_kb {
            write!(out, ",max_dir_size_kb={}", self.max_dir_kb)?;
        }
        if self.flags.contains(Flags::DATA_ERR_ABORT) {
            out.write_str(",data_err=abort")?;
        }
        Ok(())
    }
}
