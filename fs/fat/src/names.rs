//! Names of programs and names of the disk.

use alloc::vec::Vec;

use abi::{Errno, Result};

use crate::alias::{self, Shortened};
use crate::charset::{Charset, CodePage, lower};
use crate::options::{Check, Options, ShortNames};
use crate::record::{LOWER_BASE, LOWER_EXTENSION, Raw, Record, attr};

/// Most units of a long name.
const MAX_UNITS: usize = 255;

/// What a new name is on the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NewName {
    /// The long name; none where the short one says all.
    pub(crate) units: Vec<u16>,
    pub(crate) short: Shortened,
    /// Which parts of the short name are in lower case.
    pub(crate) case: u8,
    /// `HIDDEN`, or nothing.
    pub(crate) attr: u8,
}

/// The rules for names of a mounted file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    is_vfat: bool,
    charset: Charset,
    page: CodePage,
    shortname: ShortNames,
    check: Check,
    escapes: bool,
    no_tail: bool,
    dots: bool,
    nocase: bool,
}

/// Without the dots at its end, which do not count.
fn without_tail(name: &[u8]) -> &[u8] {
    let len = name.iter().rposition(|byte| *byte != b'.').map_or(0, |at| at + 1);
    name.get(..len).unwrap_or(&[])
}

/// What no long name has (FAT specification 1.03, "Long File Names").
fn is_forbidden(unit: u16) -> bool {
    const SIGNS: &[u8] = b"\"*/:<>?\\|";
    unit < 0x20 || u8::try_from(unit).is_ok_and(|byte| SIGNS.contains(&byte))
}

impl Rules {
    pub(crate) fn new(options: &Options) -> Rules {
        Rules {
            is_vfat: options.is_vfat,
            charset: options.names(),
            page: options.page,
            shortname: options.shortname,
            check: options.check,
            escapes: options.escapes,
            no_tail: options.no_tail,
            dots: options.dots,
            nocase: options.nocase,
        }
    }

    /// Whether an alias needs no number where it is free without.
    pub(crate) fn prefers_plain_alias(&self) -> bool {
        self.no_tail
    }

    /// Whether long names count.
    pub(crate) fn has_long_names(&self) -> bool {
        self.is_vfat
    }

    /// What all spellings of a name have in common; `None`: nothing has such a name.
    pub(crate) fn key(&self, name: &[u8]) -> Option<Vec<u8>> {
        if !self.is_vfat {
            let new = self.new_msdos(name).ok()?;
            return Some(self.show_msdos(&new.short.raw, new.attr));
        }
        let name = without_tail(name);
        if name.is_empty() {
            return None;
        }
        Some(match self.check {
            Check::Strict => name.to_vec(),
            _ => name.iter().map(|byte| self.charset.fold(*byte)).collect(),
        })
    }

    /// A long name as programs see it; `None` if it cannot be one.
    pub(crate) fn show_long(&self, units: &[u16]) -> Option<Vec<u8>> {
        let name = self.charset.show_units(units, self.escapes);
        let is_sound = !name.is_empty() && !name.contains(&b'/') && !name.contains(&0);
        (is_sound && name != b"." && name != b"..").then_some(name)
    }

    /// A short name as programs see it.
    pub(crate) fn show_short(&self, record: &Record) -> Vec<u8> {
        if !self.is_vfat {
            return self.show_msdos(&record.raw, record.attr);
        }
        let (base, extension) = alias::split(&record.raw);
        let is_lower = |flag| match self.shortname {
            ShortNames::Lower => true,
            ShortNames::Win95 => false,
            ShortNames::WinNt | ShortNames::Mixed => record.case & flag != 0,
        };
        let mut units = self.decode(base, is_lower(LOWER_BASE));
        if !extension.is_empty() {
            units.push(b'.'.into());
            units.extend(self.decode(extension, is_lower(LOWER_EXTENSION)));
        }
        self.charset.show_units(&units, self.escapes)
    }

    fn decode(&self, bytes: &[u8], is_lower: bool) -> Vec<u16> {
        let shown = |byte: &u8| {
            let c = self.page.decode(*byte).unwrap_or('?');
            let c = if is_lower { lower(c) } else { c };
            // What would not be a name.
            if matches!(c, '/' | '\0') { '?' as u16 } else { c as u16 }
        };
        bytes.iter().map(shown).collect()
    }

    /// What a new file of this name gets.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a name that cannot be, `ENAMETOOLONG`, `ENOENT` for dots alone.
    pub(crate) fn new_name(&self, name: &[u8]) -> Result<NewName> {
        if !self.is_vfat {
            return self.new_msdos(name);
        }
        let name = without_tail(name);
        if name.is_empty() {
            return Err(Errno::ENOENT);
        }
        let units = self.charset.units_of(name)?;
        if units.len() > MAX_UNITS {
            return Err(Errno::ENAMETOOLONG);
        }
        let ends_blank = units.last() == Some(&b' '.into());
        if ends_blank || units.iter().any(|unit| is_forbidden(*unit)) {
            return Err(Errno::EINVAL);
        }
        let short = alias::shorten(&units, self.page);
        let case = self.case_of(&short);
        let units = if case.is_some() { Vec::new() } else { units };
        Ok(NewName { units, short, case: case.unwrap_or(0), attr: 0 })
    }

    /// The case flags with which the short name says all; `None`: a long name is needed.
    fn case_of(&self, short: &Shortened) -> Option<u8> {
        if short.is_lossy {
            return None;
        }
        let is_upper = short.base.is_upper && short.extension.is_upper;
        if is_upper {
            return Some(0);
        }
        if self.shortname != ShortNames::WinNt {
            return None;
        }
        let mut case = 0;
        for (part, flag) in [(&short.base, LOWER_BASE), (&short.extension, LOWER_EXTENSION)] {
            match (part.is_upper, part.is_lower) {
                (true, _) => {}
                (false, true) => case |= flag,
                (false, false) => return None,
            }
        }
        Some(case)
    }

    /// A short name of `msdos`.
    fn new_msdos(&self, name: &[u8]) -> Result<NewName> {
        const ALWAYS: &[u8] = b"*?<>|\":\\";
        const IF_STRICT: &[u8] = b"+=,; ";
        let (name, is_hidden) = match name.strip_prefix(b".") {
            Some(rest) if self.dots && !rest.is_empty() => (rest, true),
            _ => (name, false),
        };
        let name = without_tail(name);
        let mut raw = [b' '; 11];
        let (base, extension) = match name.iter().position(|byte| *byte == b'.') {
            Some(dot) => (name.get(..dot), name.get(dot + 1..)),
            None => (Some(name), None),
        };
        let (base, extension) = (base.unwrap_or(&[]), extension.unwrap_or(&[]));
        let is_strict = self.check == Check::Strict;
        let is_long = base.len() > 8 || extension.len() > 3;
        if base.is_empty() || is_long && is_strict {
            return Err(Errno::EINVAL);
        }
        // What another dot begins does not count.
        let extension = extension.split(|byte| *byte == b'.').next().unwrap_or(&[]);
        for (part, start, room) in [(base, 0, 8), (extension, 8, 3)] {
            for (at, &byte) in part.iter().take(room).enumerate() {
                let is_refused = ALWAYS.contains(&byte)
                    || byte < 0x20
                    || is_strict && (IF_STRICT.contains(&byte) || byte.is_ascii_uppercase());
                if is_refused || (start + at == 0 && byte == b' ') {
                    return Err(Errno::EINVAL);
                }
                let byte = if self.nocase { byte } else { byte.to_ascii_uppercase() };
                crate::bytes::put(&mut raw, start + at, &[byte]);
            }
        }
        let attr = if is_hidden { attr::HIDDEN } else { 0 };
        Ok(NewName { units: Vec::new(), short: Shortened::plain(raw), case: 0, attr })
    }

    fn show_msdos(&self, raw: &Raw, attributes: u8) -> Vec<u8> {
        let (base, extension) = alias::split(raw);
        let shown = |&byte: &u8| match byte {
            b'/' | 0 => b'?',
            _ if self.nocase => byte,
            _ => byte.to_ascii_lowercase(),
        };
        let is_hidden = self.dots && attributes & attr::HIDDEN != 0;
        let mut name: Vec<u8> = if is_hidden { [b'.'].to_vec() } else { Vec::new() };
        name.extend(base.iter().map(shown));
        if !extension.is_empty() {
            name.push(b'.');
            name.extend(extension.iter().map(shown));
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Mounter;

    fn rules(is_vfat: bool, options: &str) -> Rules {
        let mounter = Mounter { uid: 0, gid: 0, umask: 0 };
        Rules::new(&Options::parse(is_vfat, options.as_bytes(), mounter).unwrap())
    }

    #[test]
    fn only_what_a_short_name_says_goes_without_a_long_one() {
        let has_long = |options: &str, name: &str| {
            !rules(true, options).new_name(name.as_bytes()).unwrap().units.is_empty()
        };
        assert!(!has_long("", "README.TXT"));
        assert!(has_long("", "readme.txt"));
        assert!(has_long("", "READ ME.TXT"));
        assert!(has_long("", "A.B.C"));
        assert!(!has_long("shortname=winnt", "readme.TXT"));
        assert!(has_long("shortname=winnt", "Readme.txt"));
        assert!(!has_long("", "README."));
    }

    #[test]
    fn wrong_names_are_refused() {
        let long = "x".repeat(256);
        for (name, error) in [
            ("a:b", Errno::EINVAL),
            ("a?", Errno::EINVAL),
            ("a ", Errno::EINVAL),
            ("a\u{1}", Errno::EINVAL),
            ("...", Errno::ENOENT),
            (&long, Errno::ENAMETOOLONG),
        ] {
            assert_eq!(rules(true, "").new_name(name.as_bytes()).err(), Some(error), "{name}");
        }
        for name in ["a:b", ".x", "a*"] {
            let result = rules(false, "").new_name(name.as_bytes());
            assert_eq!(result.err(), Some(Errno::EINVAL), "{name}");
        }
        for name in ["a b", "A", "longerthan8", "x+y"] {
            let result = rules(false, "check=s").new_name(name.as_bytes());
            assert_eq!(result.err(), Some(Errno::EINVAL), "{name}");
        }
    }

    #[test]
    fn spellings_have_one_key() {
        let vfat = rules(true, "");
        assert_eq!(vfat.key(b"Read Me.TXT.."), vfat.key(b"read me.txt"));
        assert_ne!(rules(true, "check=s").key(b"A"), rules(true, "check=s").key(b"a"));
        let msdos = rules(false, "");
        assert_eq!(msdos.key(b"VERYLONGNAME.TEXT"), Some(b"verylong.tex".to_vec()));
        assert_eq!(vfat.key(b".."), None);
    }

    #[test]
    fn short_names_are_shown_as_asked() {
        let record = Record {
            raw: *b"README  TXT",
            case: LOWER_BASE,
            attr: attr::ARCHIVE,
            ..Record::default()
        };
        let shown = |options| String::from_utf8(rules(true, options).show_short(&record)).unwrap();
        assert_eq!(shown("shortname=lower"), "readme.txt");
        assert_eq!(shown("shortname=win95"), "README.TXT");
        assert_eq!(shown("shortname=winnt"), "readme.TXT");
        assert_eq!(shown("shortname=mixed"), "readme.TXT");
    }
}
