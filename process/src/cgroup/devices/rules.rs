//! What a group says of device nodes: a default and exceptions from it.

use abi::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use vfs::dev::DeviceAccess;
use vfs::{DeviceNumber, FileKind};

/// The devices that an exception is of; `None` is any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Devices {
    /// Block devices, else character devices.
    pub is_block: bool,
    /// The major number.
    pub major: Option<u32>,
    /// The minor number.
    pub minor: Option<u32>,
}

impl Devices {
    /// Those of these numbers, and all sets of devices that they are in, the smallest first.
    fn around(self) -> [Devices; 4] {
        let Devices { major, minor, .. } = self;
        [(major, minor), (major, None), (None, minor), (None, None)].map(|(major, minor)| Devices {
            major,
            minor,
            ..self
        })
    }

    /// Whether a device is in both.
    fn meets(self, other: Devices) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.is_block == other.is_block
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
    }
}

/// An exception: devices, and what may (or may not) be done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// With which.
    pub devices: Devices,
    /// What.
    pub access: DeviceAccess,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    access: DeviceAccess,
    /// Its place in `devices.list`.
    number: u64,
}

/// A default and the exceptions from it. Looked up by the four sets that a device is in, however many there are.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    allows: bool,
    exceptions: BTreeMap<Devices, Entry>,
    last: u64,
}

impl Rules {
    /// Everything is allowed, or nothing.
    pub(super) fn new(allows: bool) -> Rules {
        Rules { allows, exceptions: BTreeMap::new(), last: 0 }
    }

    /// Whether what is no exception is allowed.
    pub(super) fn allows_by_default(&self) -> bool {
        self.allows
    }

    /// The exceptions in the order in which they came.
    pub(super) fn exceptions(&self) -> Vec<Rule> {
        let mut all: Vec<(u64, Rule)> = self
            .exceptions
            .iter()
            .map(|(devices, entry)| {
                (entry.number, Rule { devices: *devices, access: entry.access })
            })
            .collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, rule)| rule).collect()
    }

    /// Whether the device may be used so: an exception that allows must allow all of it, one that forbids forbids
    /// with any of it.
    pub(super) fn may(&self, kind: FileKind, dev: DeviceNumber, access: DeviceAccess) -> bool {
        let devices = Devices {
            is_block: kind == FileKind::BlockDevice,
            major: Some(dev.major()),
            minor: Some(dev.minor()),
        };
        let is_exception = self
            .around(devices)
            .any(|own| if self.allows { own.intersects(access) } else { own.contains(access) });
        is_exception != self.allows
    }

    /// What the exceptions say of all sets of devices that contain these.
    fn around(&self, devices: Devices) -> impl Iterator<Item = DeviceAccess> {
        let around = devices.around().into_iter();
        around.filter_map(|devices| self.exceptions.get(&devices)).map(|entry| entry.access)
    }

    /// Whether a group below may allow these.
    pub(super) fn may_pass_on(&self, rule: Rule) -> bool {
        if !self.allows {
            return self.around(rule.devices).any(|own| own.contains(rule.access));
        }
        let forbids = |(devices, own): (&Devices, &Entry)| {
            devices.meets(rule.devices) && own.access.intersects(rule.access)
        };
        !self.exceptions.iter().any(forbids)
    }

    /// Allows more.
    pub(super) fn allow(&mut self, rule: Rule) {
        if self.allows { self.remove(rule) } else { self.add(rule) }
    }

    /// Allows less.
    pub(super) fn deny(&mut self, rule: Rule) {
        if self.allows { self.add(rule) } else { self.remove(rule) }
    }

    fn add(&mut self, rule: Rule) {
        self.last += 1;
        let new = Entry { access: DeviceAccess::empty(), number: self.last };
        self.exceptions.entry(rule.devices).or_insert(new).access |= rule.access;
    }

    /// Takes back an exception of just these devices.
    fn remove(&mut self, rule: Rule) {
        if let Some(entry) = self.exceptions.get_mut(&rule.devices) {
            entry.access -= rule.access;
            if entry.access.is_empty() {
                self.exceptions.remove(&rule.devices);
            }
        }
    }

    /// Drops what `above` no longer lets it allow.
    pub(super) fn confine(&mut self, above: &Rules) {
        if self.allows {
            return;
        }
        self.exceptions.retain(|devices, entry| {
            above.may_pass_on(Rule { devices: *devices, access: entry.access })
        });
    }
}

/// What is written to `devices.allow` and `devices.deny`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// All devices: the default, and no exceptions.
    All,
    /// An exception.
    One(Rule),
}

impl Request {
    /// `a`, or type, numbers and access: `c 1:3 rw`, `b *:* m`. Errors: `EINVAL`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Request> {
        let is_block = match bytes.first() {
            Some(b'a') => return Ok(Request::All),
            Some(b'b') => true,
            Some(b'c') => false,
            _ => return Err(Errno::EINVAL),
        };
        let text = core::str::from_utf8(&bytes[1..]).map_err(|_| Errno::EINVAL)?;
        let rest = text.strip_prefix(is_space).ok_or(Errno::EINVAL)?;
        let (numbers, access) = rest.split_once(is_space).ok_or(Errno::EINVAL)?;
        let (major, minor) = numbers.split_once(':').ok_or(Errno::EINVAL)?;
        let devices = Devices { is_block, major: number(major)?, minor: number(minor)? };
        Ok(Request::One(Rule { devices, access: access_of(access)? }))
    }
}

fn is_space(letter: char) -> bool {
    letter.is_ascii_whitespace()
}

fn number(text: &str) -> Result<Option<u32>> {
    match text {
        "*" => Ok(None),
        _ if !text.bytes().all(|digit| digit.is_ascii_digit()) => Err(Errno::EINVAL),
        _ => text.parse().map(Some).map_err(|_| Errno::EINVAL),
    }
}

fn access_of(text: &str) -> Result<DeviceAccess> {
    let mut access = DeviceAccess::empty();
    if text.is_empty() {
        return Err(Errno::EINVAL);
    }
    // As on Linux, what follows the third letter is not looked at.
    for letter in text.bytes().take(3) {
        access |= match letter {
            b'r' => DeviceAccess::READ,
            b'w' => DeviceAccess::WRITE,
            b'm' => DeviceAccess::MAKE,
            _ => return Err(Errno::EINVAL),
        };
    }
    Ok(access)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NULL: DeviceNumber = DeviceNumber::new(1, 3);
    const ZERO: DeviceNumber = DeviceNumber::new(1, 5);

    fn rule(text: &str) -> Rule {
        match Request::parse(text.as_bytes()) {
            Ok(Request::One(rule)) => rule,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn may(rules: &Rules, dev: DeviceNumber, access: DeviceAccess) -> bool {
        rules.may(FileKind::CharDevice, dev, access)
    }

    #[test]
    fn what_is_written_is_read() {
        let of = |text: &str| Request::parse(text.as_bytes());
        assert_eq!(of("a"), Ok(Request::All));
        assert_eq!(of("a *:* rwm"), Ok(Request::All));
        let devices = Devices { is_block: false, major: Some(1), minor: None };
        let access = DeviceAccess::READ | DeviceAccess::MAKE;
        assert_eq!(of("c 1:* mr"), Ok(Request::One(Rule { devices, access })));
        for bad in
            ["", "d", "c", "c 1:3", "c 1:3 ", "c 1 r", "c :3 r", "c 1:3 x", "c 1:3 r x", "b -1:3 r"]
        {
            assert_eq!(of(bad), Err(Errno::EINVAL), "{bad}");
        }
        assert_eq!(of("b 4294967296:0 r"), Err(Errno::EINVAL));
        assert_eq!(of("c 1:* mrmx"), of("c 1:* mr"));
    }

    #[test]
    fn nothing_but_exceptions() {
        let mut rules = Rules::new(false);
        assert!(!may(&rules, NULL, DeviceAccess::READ));
        rules.allow(rule("c 1:3 r"));
        assert!(may(&rules, NULL, DeviceAccess::READ));
        assert!(!may(&rules, NULL, DeviceAccess::READ | DeviceAccess::WRITE));
        assert!(!rules.may(FileKind::BlockDevice, NULL, DeviceAccess::READ));
        rules.allow(rule("c *:3 w"));
        assert!(may(&rules, DeviceNumber::new(9, 3), DeviceAccess::WRITE));
        // Each exception counts alone.
        assert!(!may(&rules, NULL, DeviceAccess::READ | DeviceAccess::WRITE));
        rules.allow(rule("c 1:3 w"));
        assert!(may(&rules, NULL, DeviceAccess::READ | DeviceAccess::WRITE));
        rules.deny(rule("c 1:* rwm"));
        assert!(may(&rules, NULL, DeviceAccess::READ), "no exception is of all minors");
        rules.deny(rule("c 1:3 r"));
        assert_eq!(rules.exceptions(), [rule("c 1:3 w"), rule("c *:3 w")]);
    }

    #[test]
    fn everything_but_exceptions() {
        let mut rules = Rules::new(true);
        rules.deny(rule("c 1:3 w"));
        assert!(may(&rules, NULL, DeviceAccess::READ));
        assert!(!may(&rules, NULL, DeviceAccess::READ | DeviceAccess::WRITE));
        assert!(may(&rules, ZERO, DeviceAccess::WRITE));
        rules.allow(rule("c 1:3 w"));
        assert!(may(&rules, NULL, DeviceAccess::WRITE));
    }

    #[test]
    fn nothing_is_passed_on_that_one_lacks() {
        let mut above = Rules::new(true);
        above.deny(rule("c 1:3 w"));
        assert!(above.may_pass_on(rule("c 1:3 r")));
        assert!(!above.may_pass_on(rule("c 1:* rw")));
        let mut above = Rules::new(false);
        above.allow(rule("c 1:* rw"));
        assert!(above.may_pass_on(rule("c 1:3 r")));
        assert!(!above.may_pass_on(rule("c *:3 r")));
        let mut below = above.clone();
        below.allow(rule("c 1:3 r"));
        above.deny(rule("c 1:* w"));
        below.confine(&above);
        assert_eq!(below.exceptions(), [rule("c 1:3 r")]);
    }
}
