//! Short names for long ones (FAT specification 1.03, "The Basis-Name Generation Algorithm").

use crate::charset::{CodePage, lower, upper};
use crate::record::Raw;

/// Case of a part of a name: letters of one case only, or none at all, are both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Case {
    pub(crate) is_upper: bool,
    pub(crate) is_lower: bool,
}

impl Case {
    const NONE: Case = Case { is_upper: true, is_lower: true };

    fn add(&mut self, c: char) {
        self.is_upper &= upper(c) == c;
        self.is_lower &= lower(c) == c;
    }
}

/// What is left of a name in eight characters and three.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shortened {
    pub(crate) raw: Raw,
    /// The name cannot be had back from this: a number is to say so.
    pub(crate) is_lossy: bool,
    pub(crate) base: Case,
    pub(crate) extension: Case,
}

impl Shortened {
    /// A name that is a short one.
    pub(crate) fn plain(raw: Raw) -> Shortened {
        Shortened { raw, is_lossy: false, base: Case::NONE, extension: Case::NONE }
    }
}

/// The two parts of a short name, without blanks at their ends.
pub(crate) fn split(raw: &Raw) -> (&[u8], &[u8]) {
    let (base, extension) = raw.split_at(8);
    let trimmed = |part: &[u8]| part.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
    let (base_len, extension_len) = (trimmed(base), trimmed(extension));
    (base.get(..base_len).unwrap_or(&[]), extension.get(..extension_len).unwrap_or(&[]))
}

/// The byte of a character in a short name.
enum Byte {
    Kept(u8),
    /// Another stands for it.
    Replaced(u8),
    Skipped,
}

fn byte_of(c: char, page: CodePage) -> Byte {
    match c {
        ' ' | '.' => Byte::Skipped,
        '+' | ',' | ';' | '=' | '[' | ']' => Byte::Replaced(b'_'),
        _ => match page.encode(upper(c)).or_else(|| page.encode(c)) {
            Some(byte) => Byte::Kept(byte),
            None => Byte::Replaced(b'_'),
        },
    }
}

/// Cuts a part of a name to its room; tells its case, and whether something was lost.
fn cut(units: &[u16], page: CodePage, room: &mut [u8]) -> (Case, bool) {
    let mut case = Case::NONE;
    let mut is_lossy = false;
    let mut places = room.iter_mut();
    for c in char::decode_utf16(units.iter().copied()) {
        let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
        let byte = match byte_of(c, page) {
            Byte::Skipped => {
                is_lossy = true;
                continue;
            }
            Byte::Replaced(byte) => {
                is_lossy = true;
                byte
            }
            Byte::Kept(byte) => byte,
        };
        case.add(c);
        match places.next() {
            Some(place) => *place = byte,
            None => return (case, true),
        }
    }
    (case, is_lossy)
}

/// Shortens a long name.
pub(crate) fn shorten(units: &[u16], page: CodePage) -> Shortened {
    let dot = u16::from(b'.');
    // Dots at the start do not begin an extension.
    let start = units.iter().position(|unit| *unit != dot).unwrap_or(0);
    let last = units.iter().rposition(|unit| *unit == dot).filter(|at| *at > start);
    let (base, extension) = match last {
        Some(at) => (units.get(..at), units.get(at + 1..)),
        None => (Some(units), None),
    };
    let mut raw = [b' '; 11];
    let (base_room, extension_room) = raw.split_at_mut(8);
    let (base_case, base_lossy) = cut(base.unwrap_or(&[]), page, base_room);
    let (extension_case, extension_lossy) = cut(extension.unwrap_or(&[]), page, extension_room);
    let is_empty = base_room.first() == Some(&b' ');
    if is_empty && let Some(first) = base_room.first_mut() {
        *first = b'_';
    }
    Shortened {
        raw,
        is_lossy: base_lossy || extension_lossy || is_empty,
        base: base_case,
        extension: extension_case,
    }
}

/// With a tail that makes it another name: `~` and a digit, behind four hexadecimal digits if given.
fn with_tail(raw: &Raw, middle: Option<u16>, digit: u8) -> Raw {
    let mut name = *raw;
    let kept = split(raw).0.len().min(if middle.is_some() { 2 } else { 6 });
    let mut tail = [b' '; 8];
    let mut len = 0;
    let mut push = |byte| {
        crate::bytes::put(&mut tail, len, &[byte]);
        len += 1;
    };
    if let Some(middle) = middle {
        for shift in [12, 8, 4, 0] {
            let nibble = (middle >> shift & 15) as u8;
            push(if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 });
        }
    }
    push(b'~');
    push(b'0' + digit);
    name.iter_mut().take(8).skip(kept).zip(tail).for_each(|(place, byte)| *place = byte);
    name
}

/// The short name to use: `is_taken` says which are not free; `None` if none is.
pub(crate) fn choose(
    short: &Shortened,
    prefers_plain: bool,
    seed: u16,
    is_taken: impl Fn(&Raw) -> bool,
) -> Option<Raw> {
    if (!short.is_lossy || prefers_plain) && !is_taken(&short.raw) {
        return Some(short.raw);
    }
    let few = (1..10).map(|digit| with_tail(&short.raw, None, digit));
    // Many names that begin alike do not make each other slow: where to look first is theirs.
    let many = (0..=u16::MAX).flat_map(|step| {
        (1..10).map(move |digit| with_tail(&short.raw, Some(seed.wrapping_add(step)), digit))
    });
    few.chain(many).find(|name| !is_taken(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(name: &str) -> (String, bool) {
        let units: Vec<u16> = name.encode_utf16().collect();
        let short = shorten(&units, CodePage::new(437).unwrap());
        (String::from_utf8_lossy(&short.raw).into_owned(), short.is_lossy)
    }

    #[test]
    fn names_are_cut() {
        for (name, raw, is_lossy) in [
            ("readme.txt", "README  TXT", false),
            ("README", "README     ", false),
            ("The quick brown.fox", "THEQUICKFOX", true),
            ("a.b.c", "AB      C  ", true),
            (".profile", "PROFILE    ", true),
            ("index.html", "INDEX   HTM", true),
            ("a+b=c.d[e", "A_B_C   D_E", true),
            ("  .x", "_       X  ", true),
            ("日本", "__         ", true),
        ] {
            assert_eq!(short(name), (raw.into(), is_lossy), "{name}");
        }
    }

    #[test]
    fn aliases_are_free() {
        let units: Vec<u16> = "Long file name.txt".encode_utf16().collect();
        let short = shorten(&units, CodePage::new(437).unwrap());
        let mut taken: Vec<Raw> = Vec::new();
        for _ in 0..100 {
            let raw = choose(&short, false, 0xabcd, |raw| taken.contains(raw)).unwrap();
            assert!(!taken.contains(&raw));
            taken.push(raw);
        }
        assert_eq!(&taken[0], b"LONGFI~1TXT");
        assert_eq!(&taken[9], b"LOABCD~1TXT");
        assert_eq!(&taken[18], b"LOABCE~1TXT");
        assert_eq!(choose(&short, true, 0, |_| false), Some(*b"LONGFILETXT"));
    }
}
