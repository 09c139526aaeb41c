//! Formats that programs register at run time (`binfmt_misc`): files known by their extension or by bytes
//! in their head, and the interpreter that runs them.
//!
//! What a file of `/proc/sys/fs/binfmt_misc` takes and shows is told by the admin guide of Linux,
//! "Kernel Support for miscellaneous Binary Formats", and binfmt.d(5). Rules are found by key: extensions by
//! name; bytes by where they are and which of their bits count, then by the bits. So an `execve(2)` costs a
//! look-up for each such place, however many rules there are. The newest rule that fits wins.

use super::script::HEAD_LEN;
use abi::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::lock::{LockClass, SpinLock};
use bitflags::bitflags;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use vfs::file::File;

static RULES_CLASS: LockClass = LockClass::new("process.binfmt", 653);
/// The longest registration (admin guide).
const MAX_TEXT: usize = 1920;
/// The longest path of an interpreter (admin guide).
const MAX_INTERPRETER: usize = 127;

bitflags! {
    /// How the interpreter is called.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// `P`: it gets the program's `argv[0]` too.
        const KEEPS_NAME = 1;
        /// `O`: it gets the program as an open file.
        const HANDS_OVER = 2;
        /// `C`: it runs with the program's privileges.
        const PROGRAM_RIGHTS = 4;
        /// `F`: it was opened when the rule was made.
        const IS_OPEN = 8;
    }
}

const LETTERS: [(u8, Flags); 4] = [
    (b'P', Flags::KEEPS_NAME),
    (b'O', Flags::HANDS_OVER),
    (b'C', Flags::PROGRAM_RIGHTS.union(Flags::HANDS_OVER)),
    (b'F', Flags::IS_OPEN),
];

/// How files are known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Extension(Vec<u8>),
    /// Bytes at an offset; without a mask all bits count.
    Magic {
        offset: usize,
        bytes: Vec<u8>,
        mask: Option<Vec<u8>>,
    },
}

/// A rule as it was registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    name: Vec<u8>,
    pattern: Pattern,
    interpreter: Vec<u8>,
    flags: Flags,
}

impl Form {
    /// Reads a registration: `:name:type:offset:magic:mask:interpreter:flags`, the first byte being what
    /// stands between the fields.
    ///
    /// # Errors
    /// `EINVAL` for what is none.
    pub fn parse(text: &[u8]) -> Result<Form> {
        let (&separator, rest) = text.split_first().ok_or(Errno::EINVAL)?;
        if text.len() > MAX_TEXT {
            return Err(Errno::EINVAL);
        }
        let fields: Vec<&[u8]> = rest.splitn(7, |&byte| byte == separator).collect();
        let [name, kind, offset, magic, mask, interpreter, flags] = *fields.as_slice() else {
            return Err(Errno::EINVAL);
        };
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(Errno::EINVAL);
        }
        let pattern = match kind {
            b"E" if !magic.is_empty() && !magic.contains(&b'/') => Pattern::Extension(magic.into()),
            b"M" => magic_pattern(offset, magic, mask)?,
            _ => return Err(Errno::EINVAL),
        };
        if interpreter.is_empty() || interpreter.len() > MAX_INTERPRETER {
            return Err(Errno::EINVAL);
        }
        let flags = parse_flags(flags)?;
        Ok(Form { name: name.into(), pattern, interpreter: interpreter.into(), flags })
    }

    /// The name of the rule, and of its file.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The interpreter's path, where it is to be opened now.
    pub fn opens_now(&self) -> Option<&[u8]> {
        self.flags.contains(Flags::IS_OPEN).then_some(&self.interpreter)
    }
}

fn parse_flags(text: &[u8]) -> Result<Flags> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut flags = Flags::empty();
    for byte in text {
        let known = LETTERS.iter().find(|(letter, _)| letter == byte);
        flags |= known.map(|&(_, flag)| flag).ok_or(Errno::EINVAL)?;
    }
    Ok(flags)
}

fn magic_pattern(offset: &[u8], magic: &[u8], mask: &[u8]) -> Result<Pattern> {
    let offset = match offset {
        b"" => 0,
        digits => core::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse::<usize>().ok())
            .ok_or(Errno::EINVAL)?,
    };
    let bytes = unescape(magic)?;
    let mask = if mask.is_empty() { None } else { Some(unescape(mask)?) };
    let end = offset.checked_add(bytes.len()).ok_or(Errno::EINVAL)?;
    let is_odd = mask.as_ref().is_some_and(|mask| mask.len() != bytes.len());
    if bytes.is_empty() || end > HEAD_LEN || is_odd {
        return Err(Errno::EINVAL);
    }
    Ok(Pattern::Magic { offset, bytes, mask })
}

/// Bytes with `\xHH` among them; what is no such number behind `\x` is refused.
fn unescape(text: &[u8]) -> Result<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        if let [b'\\', b'x', digits @ ..] = rest {
            let [high, low, after @ ..] = digits else { return Err(Errno::EINVAL) };
            let (high, low) = digit(*high).zip(digit(*low)).ok_or(Errno::EINVAL)?;
            bytes.push(high << 4 | low);
            rest = after;
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    Ok(bytes)
}

/// A rule in force.
pub struct Rule {
    form: Form,
    /// The interpreter, where it was opened at the registration.
    file: Option<Arc<File>>,
    is_enabled: AtomicBool,
    /// Later ones come first.
    number: u64,
}

impl Rule {
    /// Its name, which is its file's.
    pub fn name(&self) -> &[u8] {
        &self.form.name
    }

    /// What tells it from all that are and were.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The interpreter's path.
    pub fn interpreter(&self) -> &[u8] {
        &self.form.interpreter
    }

    /// How it is called.
    pub fn flags(&self) -> Flags {
        self.form.flags
    }

    /// The interpreter, if it is open.
    pub(crate) fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }

    /// Makes it count or not.
    pub fn enable(&self, is_enabled: bool) {
        // Relaxed: nothing else hangs on it.
        self.is_enabled.store(is_enabled, Ordering::Relaxed);
    }

    fn counts(&self) -> bool {
        self.is_enabled.load(Ordering::Relaxed)
    }

    /// What its file shows.
    pub fn show(&self, out: &mut Vec<u8>) {
        let state: &[u8] = if self.counts() { b"enabled" } else { b"disabled" };
        out.extend_from_slice(state);
        out.extend_from_slice(b"\ninterpreter ");
        out.extend_from_slice(self.interpreter());
        out.extend_from_slice(b"\nflags: ");
        // A letter each, in the order of the registration's manual; C implies O, and both are shown.
        let has = |letter: &u8| {
            LETTERS.iter().any(|(known, flag)| known == letter && self.flags().contains(*flag))
        };
        out.extend(LETTERS.iter().map(|(letter, _)| *letter).filter(has));
        match &self.form.pattern {
            Pattern::Extension(extension) => {
                out.extend_from_slice(b"\nextension .");
                out.extend_from_slice(extension);
            }
            Pattern::Magic { offset, bytes, mask } => {
                out.extend_from_slice(alloc::format!("\noffset {offset}\nmagic ").as_bytes());
                hexadecimal(bytes, out);
                if let Some(mask) = mask {
                    out.extend_from_slice(b"\nmask ");
                    hexadecimal(mask, out);
                }
            }
        }
        out.push(b'\n');
    }
}

fn hexadecimal(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.extend_from_slice(alloc::format!("{byte:02x}").as_bytes());
    }
}

/// Rules with one key, by age.
type Ages = BTreeMap<u64, Arc<Rule>>;

/// Where bytes are that are compared, and which of their bits count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    offset: usize,
    mask: Vec<u8>,
}

impl Place {
    fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.mask.len()
    }

    /// The bits of `bytes` that count.
    fn bits(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().zip(&self.mask).map(|(byte, mask)| byte & mask).collect()
    }
}

struct Rules {
    last: u64,
    by_name: BTreeMap<Vec<u8>, Arc<Rule>>,
    by_number: Ages,
    extensions: BTreeMap<Vec<u8>, Ages>,
    places: BTreeMap<Place, BTreeMap<Vec<u8>, Ages>>,
}

static RULES: SpinLock<Rules> = SpinLock::new(&RULES_CLASS, Rules::new());
/// How many there are: `execve(2)` looks no further while there are none.
static COUNT: AtomicUsize = AtomicUsize::new(0);
static IS_ON: AtomicBool = AtomicBool::new(true);

/// Whether rules count at all.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Makes rules count, or none.
pub fn switch(is_on: bool) {
    IS_ON.store(is_on, Ordering::Relaxed);
}

impl Rules {
    const fn new() -> Rules {
        Rules {
            last: 0,
            by_name: BTreeMap::new(),
            by_number: BTreeMap::new(),
            extensions: BTreeMap::new(),
            places: BTreeMap::new(),
        }
    }

    fn add(&mut self, form: Form, file: Option<Arc<File>>) -> Result<()> {
        if self.by_name.contains_key(&form.name) {
            return Err(Errno::EEXIST);
        }
        self.last += 1;
        let number = self.last;
        let rule = Arc::new(Rule { form, file, is_enabled: AtomicBool::new(true), number });
        self.ages(&rule.form.pattern).insert(number, rule.clone());
        self.by_number.insert(number, rule.clone());
        self.by_name.insert(rule.form.name.clone(), rule);
        Ok(())
    }

    fn ages(&mut self, pattern: &Pattern) -> &mut Ages {
        match pattern {
            Pattern::Extension(extension) => self.extensions.entry(extension.clone()).or_default(),
            Pattern::Magic { offset, bytes, mask } => {
                let mask = mask.clone().unwrap_or_else(|| alloc::vec![0xff; bytes.len()]);
                let place = Place { offset: *offset, mask };
                let bits = place.bits(bytes);
                self.places.entry(place).or_default().entry(bits).or_default()
            }
        }
    }

    /// Takes a rule out, and what would be left empty of its keys.
    fn take(&mut self, name: &[u8]) -> Option<Arc<Rule>> {
        let rule = self.by_name.remove(name)?;
        self.by_number.remove(&rule.number);
        let ages = self.ages(&rule.form.pattern);
        ages.remove(&rule.number);
        if ages.is_empty() {
            self.extensions.retain(|_, ages| !ages.is_empty());
            for keys in self.places.values_mut() {
                keys.retain(|_, ages| !ages.is_empty());
            }
            self.places.retain(|_, keys| !keys.is_empty());
        }
        Some(rule)
    }

    fn find(&self, name: &[u8], head: &[u8]) -> Option<&Arc<Rule>> {
        let dot = name.iter().rposition(|&byte| byte == b'.');
        let extension = dot.and_then(|dot| name.get(dot + 1..));
        let by_name = extension.and_then(|extension| self.extensions.get(extension));
        let by_bytes = self.places.iter().filter_map(|(place, keys)| {
            let bytes = head.get(place.range())?;
            keys.get(&place.bits(bytes))
        });
        by_name
            .into_iter()
            .chain(by_bytes)
            .filter_map(|ages| ages.values().rev().find(|rule| rule.counts()))
            .max_by_key(|rule| rule.number)
    }
}

/// The rule for a file of this name and with this head, which is `HEAD_LEN` bytes long, zeroes behind the
/// file's end.
pub(crate) fn find(name: &[u8], head: &[u8]) -> Option<Arc<Rule>> {
    // Relaxed: who registers a rule and then runs a program sees its own store.
    if COUNT.load(Ordering::Relaxed) == 0 || !is_on() {
        return None;
    }
    RULES.lock().find(name, head).cloned()
}

/// Registers a rule.
///
/// # Errors
/// `EEXIST` if there is one of this name.
pub fn register(form: Form, file: Option<Arc<File>>) -> Result<()> {
    let mut rules = RULES.lock();
    rules.add(form, file)?;
    COUNT.store(rules.by_name.len(), Ordering::Relaxed);
    Ok(())
}

/// Forgets a rule, if that has not happened.
pub fn forget(rule: &Rule) {
    let gone = {
        let mut rules = RULES.lock();
        // Its name may have become another's.
        let is_there = rules.by_number.contains_key(&rule.number);
        let gone = if is_there { rules.take(rule.name()) } else { None };
        COUNT.store(rules.by_name.len(), Ordering::Relaxed);
        gone
    };
    // Its file is closed outside of the lock.
    drop(gone);
}

/// Forgets all rules.
pub fn forget_all() {
    let gone = {
        let mut rules = RULES.lock();
        COUNT.store(0, Ordering::Relaxed);
        let last = rules.last;
        core::mem::replace(&mut *rules, Rules { last, ..Rules::new() })
    };
    drop(gone);
}

/// The rule of this name.
pub fn named(name: &[u8]) -> Option<Arc<Rule>> {
    RULES.lock().by_name.get(name).cloned()
}

/// The oldest rule whose number is at least `from`.
pub fn next(from: u64) -> Option<Arc<Rule>> {
    RULES.lock().by_number.range(from..).next().map(|(_, rule)| rule.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(texts: &[&str]) -> Rules {
        let mut rules = Rules::new();
        for text in texts {
            let form = Form::parse(text.as_bytes()).expect("a rule");
            rules.add(form, None).expect("another name");
        }
        rules
    }

    fn found(rules: &Rules, name: &str, head: &[u8]) -> Option<String> {
        let mut bytes = [0u8; HEAD_LEN];
        bytes[..head.len()].copy_from_slice(head);
        let rule = rules.find(name.as_bytes(), &bytes)?;
        Some(String::from_utf8_lossy(rule.name()).into_owned())
    }

    #[test]
    fn registrations_are_read() {
        let form = Form::parse(b":a:M:2:Z\\x5a:\\xff\\xdf:/bin/x:OC\n").expect("a rule");
        let pattern =
            Pattern::Magic { offset: 2, bytes: b"ZZ".into(), mask: Some(alloc::vec![0xff, 0xdf]) };
        assert_eq!(form.pattern, pattern);
        assert_eq!(form.flags, Flags::HANDS_OVER | Flags::PROGRAM_RIGHTS);
        assert!(Form::parse(b",a,E,,txt,,/bin/x,").is_ok());
        for wrong in [
            "",
            ":",
            ":a",
            ":a:E::x:",
            ":a:Q::x::/b:",
            "::E::x::/b:",
            ":a/b:E::x::/b:",
            ":..:E::x::/b:",
            ":a:E::x/y::/b:",
            ":a:E::::/b:",
            ":a:E::x:::",
            ":a:E::x::/b:Z",
            ":a:M:-1:x::/b:",
            ":a:M:256:x::/b:",
            ":a:M:::x:/b:",
            ":a:M:1:xy:z:/b:",
            ":a:M::\\x::/b:",
            ":a:M::\\x4g::/b:",
        ] {
            assert_eq!(Form::parse(wrong.as_bytes()).err(), Some(Errno::EINVAL), "{wrong}");
        }
    }

    #[test]
    fn the_newest_rule_that_counts_wins() {
        let rules = rules(&[
            ":text:E::txt::/bin/a:",
            ":magic:M:1:BC::/bin/b:",
            ":loose:M:1:BX:\\xff\\x00:/bin/c:",
            ":text2:E::txt::/bin/d:",
        ]);
        assert_eq!(found(&rules, "/a.b/x.txt", b"none").as_deref(), Some("text2"));
        assert_eq!(found(&rules, "x.txt2", b"ABCD").as_deref(), Some("loose"));
        assert_eq!(found(&rules, "x.txt", b"ABCD").as_deref(), Some("text2"));
        assert_eq!(found(&rules, "x", b"BBD").as_deref(), Some("loose"));
        assert_eq!(found(&rules, "x", b"BD"), None);
        rules.by_name[&b"text2"[..]].enable(false);
        assert_eq!(found(&rules, "x.txt", b"").as_deref(), Some("text"));
        assert_eq!(found(&rules, "x.txt", b"ABC").as_deref(), Some("loose"));
    }

    #[test]
    fn nothing_is_left_of_rules_that_are_gone() {
        let mut rules = rules(&[":a:E::x::/b:", ":b:M::AB::/b:", ":c:M::AB::/b:"]);
        assert!(rules.take(b"b").is_some());
        assert_eq!(found(&rules, "y", b"AB").as_deref(), Some("c"));
        assert!(rules.take(b"c").is_some() && rules.take(b"a").is_some());
        assert!(rules.take(b"a").is_none());
        assert!(rules.extensions.is_empty() && rules.places.is_empty());
    }

    #[test]
    fn rules_are_shown_as_on_linux() {
        let rules = rules(&[":a:M:1:AB:\\xff\\x0f:/bin/x:P", ":e:E::x::/bin/y:C"]);
        let text = |name: &[u8]| {
            let mut out = Vec::new();
            rules.by_name[name].show(&mut out);
            String::from_utf8(out).expect("text")
        };
        let magic = "enabled\ninterpreter /bin/x\nflags: P\noffset 1\nmagic 4142\nmask ff0f\n";
        assert_eq!(text(b"a"), magic);
        assert_eq!(text(b"e"), "enabled\ninterpreter /bin/y\nflags: OC\nextension .x\n");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(form) = Form::parse(&text) {
                prop_assert!(!form.name.is_empty() && !form.interpreter.is_empty());
            }
        }
    }
}
