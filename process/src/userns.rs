//! The maps of user namespaces: `/proc/PID/uid_map`, `gid_map` and `setgroups`
//! (user_namespaces(7)).

use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use vfs::cred::{Cap, Creds, IdRange, UserNamespace};

/// Lines a map may have (4.15 and later).
const LINES_MAX: usize = 340;
/// Bytes one write may have: less than a page.
const BYTES_MAX: usize = 4096;

/// Which of the two maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// `uid_map`.
    Uid,
    /// `gid_map`.
    Gid,
}

/// What a line of the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// First number in the namespace.
    pub inside: u32,
    /// First number in the namespace of the reader or, for its own, in the parent.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Reads `inside outside count` lines.
///
/// # Errors
/// `EINVAL` for what is no such line, an empty or too long text, empty or overlapping ranges.
fn parse(text: &[u8]) -> Result<Vec<Line>> {
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let mut lines: Vec<Line> = Vec::new();
    for row in text.trim_end_matches(['\n', '\0']).split('\n') {
        let mut words = row.split_ascii_whitespace().map(|w| w.parse::<u32>());
        let mut number = || words.next().ok_or(Errno::EINVAL)?.map_err(|_| Errno::EINVAL);
        let line = Line { inside: number()?, outside: number()?, count: number()? };
        let has_room = |first: u32| first.checked_add(line.count).is_some();
        if words.next().is_some()
            || line.count == 0
            || !has_room(line.inside)
            || !has_room(line.outside)
            || lines.len() == LINES_MAX
        {
            return Err(Errno::EINVAL);
        }
        let overlaps = |a: u32, b: u32, other: &Line| a < b + other.count && b < a + line.count;
        let is_taken = |other: &Line| {
            overlaps(line.inside, other.inside, other)
                || overlaps(line.outside, other.outside, other)
        };
        if lines.iter().any(is_taken) {
            return Err(Errno::EINVAL);
        }
        lines.push(line);
    }
    Ok(lines)
}

/// Whether a writer with `creds` may give `ns` these lines.
fn check(ns: &Arc<UserNamespace>, map: Map, creds: &Creds, lines: &[Line]) -> Result<()> {
    let parent = ns.parent.as_ref().ok_or(Errno::EPERM)?;
    let is_related = Arc::ptr_eq(&creds.user_ns, ns) || Arc::ptr_eq(&creds.user_ns, parent);
    let cap = if map == Map::Uid { Cap::SETUID } else { Cap::SETGID };
    if !is_related || !creds.ns_capable(ns, Cap::SYS_ADMIN) || !creds.ns_capable(ns, cap) {
        return Err(Errno::EPERM);
    }
    if creds.ns_capable(parent, cap) {
        return Ok(());
    }
    // Without privilege around the namespace: one line, for the writer, who made it.
    let [line] = lines else { return Err(Errno::EPERM) };
    let may = line.count == 1
        && creds.euid == ns.owner
        && match map {
            Map::Uid => parent.uid_range_out(line.outside, 1) == Some(creds.euid),
            // Relaxed: a lone flag.
            Map::Gid => {
                ns.setgroups_denied.load(Ordering::Relaxed)
                    && parent.gid_range_out(line.outside, 1) == Some(creds.egid)
            }
        };
    if may { Ok(()) } else { Err(Errno::EPERM) }
}

/// A write to `uid_map` or `gid_map`. Both who opened the file and who writes must have the right:
/// a privileged program may be made to write to a descriptor that somebody else opened.
///
/// # Errors
/// `EPERM` when the map is written already, the writer may not, or a number is not mapped in the
/// parent; `EINVAL` for a malformed text.
pub fn write_map(
    ns: &Arc<UserNamespace>,
    map: Map,
    opener: &Creds,
    writer: &Creds,
    text: &[u8],
) -> Result<()> {
    let cell = if map == Map::Uid { &ns.uid_map } else { &ns.gid_map };
    if text.len() >= BYTES_MAX {
        return Err(Errno::EINVAL);
    }
    if cell.get().is_some() {
        return Err(Errno::EPERM);
    }
    let lines = parse(text)?;
    check(ns, map, opener, &lines)?;
    check(ns, map, writer, &lines)?;
    let parent = ns.parent.as_ref().ok_or(Errno::EPERM)?;
    let mut ranges = Vec::with_capacity(lines.len());
    for line in &lines {
        let outside = match map {
            Map::Uid => parent.uid_range_out(line.outside, line.count),
            Map::Gid => parent.gid_range_out(line.outside, line.count),
        };
        let outside = outside.ok_or(Errno::EPERM)?;
        ranges.push(IdRange { inside: line.inside, outside, count: line.count });
    }
    let mut is_ours = false;
    cell.call_once(|| {
        is_ours = true;
        ranges
    });
    if is_ours { Ok(()) } else { Err(Errno::EPERM) }
}

/// The lines of a map as a reader in `reader` sees them.
pub fn read_map(ns: &Arc<UserNamespace>, map: Map, reader: &Arc<UserNamespace>) -> Vec<Line> {
    let cell = if map == Map::Uid { &ns.uid_map } else { &ns.gid_map };
    let viewer = if Arc::ptr_eq(ns, reader) { ns.parent.as_ref().unwrap_or(ns) } else { reader };
    let ranges = cell.get().map(Vec::as_slice).unwrap_or_default();
    let seen = |outside: u32| match map {
        _ if viewer.is_initial() => outside,
        Map::Uid => viewer.uid_seen(outside).unwrap_or(u32::MAX),
        Map::Gid => viewer.gid_seen(outside).unwrap_or(u32::MAX),
    };
    ranges
        .iter()
        .map(|r| Line { inside: r.inside, outside: seen(r.outside), count: r.count })
        .collect()
}

/// A write to `/proc/PID/setgroups`.
///
/// # Errors
/// `EINVAL` for another word than `allow` and `deny`; `EPERM` for `deny` once `gid_map` is
/// written, for `allow` once it is denied, or without `CAP_SYS_ADMIN` in the namespace.
pub fn write_setgroups(ns: &Arc<UserNamespace>, creds: &Creds, text: &[u8]) -> Result<()> {
    let denies = match text.trim_ascii_end() {
        b"allow" => false,
        b"deny" => true,
        _ => return Err(Errno::EINVAL),
    };
    if !creds.ns_capable(ns, Cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    // Relaxed: a lone flag, read by who may write it.
    let is_denied = ns.setgroups_denied.load(Ordering::Relaxed);
    match denies {
        true if ns.gid_map.get().is_some() && !is_denied => Err(Errno::EPERM),
        true => {
            ns.setgroups_denied.store(true, Ordering::Relaxed);
            Ok(())
        }
        false if is_denied => Err(Errno::EPERM),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_lines() {
        let line = Line { inside: 0, outside: 1000, count: 1 };
        assert_eq!(parse(b"0 1000 1\n"), Ok([line].to_vec()));
        assert_eq!(parse(b"  0   1000\t1"), Ok([line].to_vec()));
        assert_eq!(parse(b"0 1000 1\n5 2000 10\n").map(|l| l.len()), Ok(2));
    }

    #[test]
    fn refuses_bad_lines() {
        for text in ["", "\n", "0 1", "0 1 0", "0 1 2 3", "x 1 1", "0 0 5\n4 9 1", "0 0 5\n9 4 1"] {
            assert_eq!(parse(text.as_bytes()), Err(Errno::EINVAL), "{text:?}");
        }
        assert_eq!(parse(b"4294967295 0 1"), Err(Errno::EINVAL));
    }

    #[test]
    fn an_unprivileged_maker_maps_itself() {
        let initial = UserNamespace::initial();
        let mut maker = Creds::root(initial);
        (maker.uid, maker.euid, maker.gid, maker.egid) = (1000, 1000, 1000, 1000);
        maker.permitted = vfs::cred::CapSet::EMPTY;
        maker.effective = vfs::cred::CapSet::EMPTY;
        let inside = crate::nsproxy::new_user_namespace(&maker).expect("a namespace");
        let ns = inside.user_ns.clone();
        let write = |map, text: &str| write_map(&ns, map, &inside, &inside, text.as_bytes());
        assert_eq!(write(Map::Uid, "0 0 1"), Err(Errno::EPERM));
        assert_eq!(write(Map::Uid, "0 1000 2"), Err(Errno::EPERM));
        // Opened by the maker, written by a privileged program.
        let root = Creds::root(ns.parent.clone().expect("a parent"));
        let text = b"0 0 1";
        assert_eq!(write_map(&ns, Map::Uid, &inside, &root, text), Err(Errno::EPERM));
        assert_eq!(write(Map::Uid, "0 1000 1"), Ok(()));
        assert_eq!(write(Map::Uid, "0 1000 1"), Err(Errno::EPERM));
        assert_eq!(write(Map::Gid, "0 1000 1"), Err(Errno::EPERM));
        assert_eq!(write_setgroups(&ns, &inside, b"deny\n"), Ok(()));
        assert_eq!(write(Map::Gid, "0 1000 1"), Ok(()));
        assert_eq!(write_setgroups(&ns, &inside, b"allow"), Err(Errno::EPERM));
        assert!(!ns.may_setgroups());
        assert_eq!(read_map(&ns, Map::Uid, &ns), [Line { inside: 0, outside: 1000, count: 1 }]);
    }
}
