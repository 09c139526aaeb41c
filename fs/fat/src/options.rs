//! Mount options: mount(8), "Mount options for fat" and "for vfat".

use alloc::string::String;
use core::fmt::{self, Write};

use abi::{Errno, Result};

use crate::charset::{Charset, CodePage};
use crate::time::Zone;

/// `errors=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnError {
    Continue,
    Panic,
    RemountReadOnly,
}

/// `shortname=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ShortNames {
    Lower,
    Win95,
    WinNt,
    Mixed,
}

/// `check=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Check {
    Relaxed,
    Normal,
    Strict,
}

/// What was asked for at the mount.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Long names.
    pub(crate) is_vfat: bool,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) fmask: u32,
    pub(crate) dmask: u32,
    /// Bits of those who may set times of what is not theirs.
    pub(crate) allow_utime: u32,
    pub(crate) page: CodePage,
    pub(crate) charset: Charset,
    charset_name: String,
    /// Names are UTF-8, whatever `iocharset` says.
    pub(crate) utf8: bool,
    pub(crate) shortname: ShortNames,
    pub(crate) check: Check,
    pub(crate) quiet: bool,
    pub(crate) showexec: bool,
    pub(crate) sys_immutable: bool,
    pub(crate) flush: bool,
    /// Minutes, if given.
    time_offset: Option<i32>,
    is_utc: bool,
    pub(crate) errors: OnError,
    pub(crate) discard: bool,
    pub(crate) escapes: bool,
    pub(crate) no_tail: bool,
    pub(crate) rodir: bool,
    pub(crate) usefree: bool,
    /// Hidden files of `msdos` begin with a dot.
    pub(crate) dots: bool,
    /// Short names of `msdos` are shown as they are stored.
    pub(crate) nocase: bool,
    nfs: Option<&'static str>,
}

/// Who mounts: what is meant where nothing is said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mounter {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) umask: u32,
}

impl Options {
    /// Where nothing is said.
    fn new(is_vfat: bool, mounter: Mounter) -> Option<Options> {
        Some(Options {
            is_vfat,
            uid: mounter.uid,
            gid: mounter.gid,
            fmask: mounter.umask,
            dmask: mounter.umask,
            allow_utime: 0,
            page: CodePage::new(437)?,
            charset: Charset::Ascii,
            charset_name: String::from("ascii"),
            utf8: is_vfat,
            shortname: ShortNames::Mixed,
            check: Check::Normal,
            quiet: false,
            showexec: false,
            sys_immutable: false,
            flush: false,
            time_offset: None,
            is_utc: false,
            errors: OnError::RemountReadOnly,
            discard: false,
            escapes: false,
            no_tail: false,
            rodir: false,
            usefree: false,
            dots: false,
            nocase: false,
            nfs: None,
        })
    }

    /// Reads the list that mount(2) gets; `EINVAL` for what is unknown or has a wrong value.
    pub(crate) fn parse(is_vfat: bool, data: &[u8], mounter: Mounter) -> Result<Options> {
        let mut options = Options::new(is_vfat, mounter).ok_or(Errno::EINVAL)?;
        let mut allow_utime = None;
        let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (word, None),
            };
            let taken = match (key, value) {
                ("allow_utime", Some(value)) => {
                    octal(value).map(|mode| allow_utime = Some(mode & 0o022))
                }
                _ => options.take_common(key, value),
            };
            let taken = match (taken, is_vfat) {
                (Some(()), _) => Some(()),
                (None, true) => options.take_vfat(key, value),
                (None, false) => options.take_msdos(key, value),
            };
            taken.ok_or_else(|| {
                log::error!("FAT-fs: option \"{word}\" is unknown or has a wrong value");
                Errno::EINVAL
            })?;
        }
        options.allow_utime = allow_utime.unwrap_or(!options.dmask & 0o022);
        Ok(options)
    }

    /// What both types take. `None`: not so.
    fn take_common(&mut self, key: &str, value: Option<&str>) -> Option<()> {
        match (key, value) {
            ("check", Some("r" | "relaxed")) => self.check = Check::Relaxed,
            ("check", Some("n" | "normal")) => self.check = Check::Normal,
            ("check", Some("s" | "strict")) => self.check = Check::Strict,
            ("uid", Some(value)) => self.uid = value.parse().ok()?,
            ("gid", Some(value)) => self.gid = value.parse().ok()?,
            ("umask", Some(value)) => {
                self.fmask = octal(value)?;
                self.dmask = self.fmask;
            }
            ("fmask", Some(value)) => self.fmask = octal(value)?,
            ("dmask", Some(value)) => self.dmask = octal(value)?,
            ("codepage", Some(value)) => self.page = CodePage::new(value.parse().ok()?)?,
            ("usefree", None) => self.usefree = true,
            ("quiet", None) => self.quiet = true,
            ("showexec", None) => self.showexec = true,
            ("sys_immutable", None) => self.sys_immutable = true,
            ("flush", None) => self.flush = true,
            ("tz", Some("UTC")) => (self.time_offset, self.is_utc) = (Some(0), true),
            ("time_offset", Some(value)) => {
                let minutes = value.parse().ok().filter(|m| (-1440..=1440).contains(m))?;
                (self.time_offset, self.is_utc) = (Some(minutes), false);
            }
            ("errors", Some("continue")) => self.errors = OnError::Continue,
            ("errors", Some("panic")) => self.errors = OnError::Panic,
            ("errors", Some("remount-ro")) => self.errors = OnError::RemountReadOnly,
            ("discard", None) => self.discard = true,
            ("nfs", None | Some("stale_rw")) => self.nfs = Some("stale_rw"),
            ("nfs", Some("nostale_ro")) => self.nfs = Some("nostale_ro"),
            // Nothing hangs on these any more.
            ("debug" | "dos1xfloppy" | "posix", None) => {}
            ("conv" | "fat" | "blocksize", Some(_)) => {}
            _ => return None,
        }
        Some(())
    }

    fn take_vfat(&mut self, key: &str, value: Option<&str>) -> Option<()> {
        match (key, value) {
            ("iocharset", Some(value)) => {
                self.charset = Charset::named(value)?;
                self.charset_name = String::from(value);
            }
            ("shortname", Some("lower")) => self.shortname = ShortNames::Lower,
            ("shortname", Some("win95")) => self.shortname = ShortNames::Win95,
            ("shortname", Some("winnt")) => self.shortname = ShortNames::WinNt,
            ("shortname", Some("mixed")) => self.shortname = ShortNames::Mixed,
            ("utf8", value) => self.utf8 = boolean(value)?,
            ("uni_xlate", value) => {
                self.escapes = boolean(value)?;
                // Escapes stand for what the character set has not, and UTF-8 has everything.
                self.utf8 &= !self.escapes;
            }
            ("nonumtail", value) => self.no_tail = boolean(value)?,
            ("rodir", None) => self.rodir = true,
            _ => return None,
        }
        Some(())
    }

    fn take_msdos(&mut self, key: &str, value: Option<&str>) -> Option<()> {
        match (key, value) {
            ("nodots", None) | ("dotsOK", Some("no")) => self.dots = false,
            ("dots", None) | ("dotsOK", Some("yes")) => self.dots = true,
            ("nocase", None) => self.nocase = true,
            _ => return None,
        }
        Some(())
    }

    /// The character set that names really have.
    pub(crate) fn names(&self) -> Charset {
        if self.utf8 { Charset::Utf8 } else { self.charset }
    }

    /// Whether nothing may be written, whatever the mount says: handles of files are their places.
    pub(crate) fn is_for_reading(&self) -> bool {
        self.nfs == Some("nostale_ro")
    }

    /// The zone of the stamps on the disk.
    pub(crate) fn zone(&self) -> Zone {
        Zone { offset_min: self.time_offset.unwrap_or(0) }
    }

    /// The options of `/proc/mounts`, each behind a comma.
    pub(crate) fn show(&self, out: &mut dyn Write) -> fmt::Result {
        for (key, id) in [("uid", self.uid), ("gid", self.gid)] {
            if id != 0 {
                write!(out, ",{key}={id}")?;
            }
        }
        write!(out, ",fmask={:04o},dmask={:04o}", self.fmask, self.dmask)?;
        if self.allow_utime != 0 {
            write!(out, ",allow_utime={:04o}", self.allow_utime)?;
        }
        write!(out, ",codepage={}", self.page.number())?;
        if self.is_vfat {
            write!(out, ",iocharset={}", self.charset_name)?;
            out.write_str(match self.shortname {
                ShortNames::Lower => ",shortname=lower",
                ShortNames::Win95 => ",shortname=win95",
                ShortNames::WinNt => ",shortname=winnt",
                ShortNames::Mixed => ",shortname=mixed",
            })?;
        }
        match self.check {
            Check::Normal => {}
            Check::Relaxed => out.write_str(",check=r")?,
            Check::Strict => out.write_str(",check=s")?,
        }
        for (is_set, word) in [
            (self.usefree, ",usefree"),
            (self.quiet, ",quiet"),
            (self.showexec, ",showexec"),
            (self.sys_immutable, ",sys_immutable"),
            (self.utf8, ",utf8"),
            (self.escapes, ",uni_xlate"),
            (self.no_tail, ",nonumtail"),
            (self.rodir, ",rodir"),
            (self.dots, ",dotsOK=yes"),
            (self.nocase, ",nocase"),
            (self.flush, ",flush"),
        ] {
            if is_set {
                out.write_str(word)?;
            }
        }
        match self.time_offset {
            Some(_) if self.is_utc => out.write_str(",tz=UTC")?,
            Some(minutes) => write!(out, ",time_offset={minutes}")?,
            None => {}
        }
        out.write_str(match self.errors {
            OnError::Continue => ",errors=continue",
            OnError::Panic => ",errors=panic",
            OnError::RemountReadOnly => ",errors=remount-ro",
        })?;
        if let Some(nfs) = self.nfs {
            write!(out, ",nfs={nfs}")?;
        }
        if self.discard {
            out.write_str(",discard")?;
        }
        Ok(())
    }
}

fn octal(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().map(|mode| mode & 0o777)
}

fn boolean(value: Option<&str>) -> Option<bool> {
    match value {
        None | Some("1" | "yes" | "true") => Some(true),
        Some("0" | "no" | "false") => Some(false),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Mounter = Mounter { uid: 0, gid: 0, umask: 0o022 };

    fn shown(is_vfat: bool, data: &str) -> String {
        let mut text = String::new();
        Options::parse(is_vfat, data.as_bytes(), ROOT).unwrap().show(&mut text).unwrap();
        text
    }

    #[test]
    fn options_are_shown() {
        assert_eq!(
            shown(true, ""),
            ",fmask=0022,dmask=0022,codepage=437,iocharset=ascii,shortname=mixed,utf8,errors=remount-ro"
        );
        assert_eq!(
            shown(true, "umask=0,uid=5,utf8=0,iocharset=iso8859-1,shortname=winnt,tz=UTC,quiet"),
            ",uid=5,fmask=0000,dmask=0000,allow_utime=0022,codepage=437,iocharset=iso8859-1,\
             shortname=winnt,quiet,tz=UTC,errors=remount-ro"
        );
        assert_eq!(
            shown(false, "check=s,errors=continue,dots"),
            ",fmask=0022,dmask=0022,codepage=437,check=s,dotsOK=yes,errors=continue"
        );
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for wrong in [
            "nosuch",
            "uid=x",
            "umask=9",
            "codepage=1",
            "shortname=x",
            "errors=x",
            "utf8=2",
            "quiet=1",
        ] {
            let parsed = Options::parse(true, wrong.as_bytes(), ROOT);
            assert_eq!(parsed.err(), Some(Errno::EINVAL), "{wrong}");
        }
        assert!(Options::parse(false, b"utf8", ROOT).is_err());
        assert!(Options::parse(true, b"dots", ROOT).is_err());
    }
}
