//! What the firmware says of the machine itself, its maker and model: the SMBIOS tables (DMTF DSP0134).
//!
//! On a BIOS the entry point is searched for where the specification has it. Bytes are the firmware's and
//! are checked: what is no table yields less text, not an error.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Where a BIOS has the entry point, at a multiple of 16.
const AREA: (u64, usize) = (0xf_0000, 0x1_0000);
const STEP: usize = 16;
/// A table longer than this is none.
const MAX_TABLE: usize = 1 << 20;

/// What an entry point says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    address: u64,
    len: usize,
    major: u8,
    minor: u8,
}

/// One structure of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Structure<'a> {
    kind: u8,
    /// From the header on.
    bytes: &'a [u8],
    strings: Vec<&'a [u8]>,
}

impl Structure<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    /// The string whose number is at `at`; empty if the number is 0.
    fn text(&self, at: usize) -> Option<String> {
        let number = usize::from(self.byte(at)?);
        let Some(index) = number.checked_sub(1) else { return Some(String::new()) };
        let bytes = self.strings.get(index)?;
        let plain = |&byte: &u8| if (b' '..0x7f).contains(&byte) { char::from(byte) } else { '.' };
        Some(bytes.iter().map(plain).collect::<String>().trim_end().to_string())
    }
}

/// A fact by the name that Linux shows it under, and whether only root may read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The name: `sys_vendor`.
    pub name: &'static str,
    /// What it is.
    pub text: String,
    /// Whether it tells this machine from others of its kind.
    pub is_secret: bool,
}

/// Texts by structure and place in it.
const TEXTS: &[(u8, usize, &str)] = &[
    (0, 0x04, "bios_vendor"),
    (0, 0x05, "bios_version"),
    (0, 0x08, "bios_date"),
    (1, 0x04, "sys_vendor"),
    (1, 0x05, "product_name"),
    (1, 0x06, "product_version"),
    (1, 0x07, "product_serial"),
    (1, 0x19, "product_sku"),
    (1, 0x1a, "product_family"),
    (2, 0x04, "board_vendor"),
    (2, 0x05, "board_name"),
    (2, 0x06, "board_version"),
    (2, 0x07, "board_serial"),
    (2, 0x08, "board_asset_tag"),
    (3, 0x04, "chassis_vendor"),
    (3, 0x06, "chassis_version"),
    (3, 0x07, "chassis_serial"),
    (3, 0x08, "chassis_asset_tag"),
];

#[cfg(target_os = "none")]
fn bytes_at(address: u64, len: usize) -> Option<&'static [u8]> {
    machine::firmware::bytes_at(machine::addr::PhysAddr(address), len)
}

/// The simulated machine has no firmware.
#[cfg(not(target_os = "none"))]
fn bytes_at(_: u64, _: usize) -> Option<&'static [u8]> {
    None
}

/// All that the firmware says.
pub fn facts() -> Vec<Fact> {
    let entry = bytes_at(AREA.0, AREA.1).and_then(find);
    let table = entry.and_then(|entry| Some((bytes_at(entry.address, entry.len)?, entry)));
    table.map_or_else(Vec::new, |(table, entry)| facts_of(table, entry))
}

/// The entry point in an area of the firmware's: the one of version 3 if there are both.
fn find(area: &[u8]) -> Option<Entry> {
    let places = || (0..area.len()).step_by(STEP).filter_map(|at| area.get(at..));
    places().find_map(entry_3).or_else(|| places().find_map(entry_2))
}

/// Bytes that sum up to zero.
fn is_sound(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)) == 0
}

fn entry_2(bytes: &[u8]) -> Option<Entry> {
    let len = usize::from(*bytes.get(5)?);
    let sound = bytes.starts_with(b"_SM_") && len >= 0x1e && is_sound(bytes.get(..len)?);
    let inner = bytes.get(0x10..0x1f)?;
    if !sound || !inner.starts_with(b"_DMI_") || !is_sound(inner) {
        return None;
    }
    let len = u16::from_le_bytes(bytes.get(0x16..0x18)?.try_into().ok()?);
    let address = u32::from_le_bytes(bytes.get(0x18..0x1c)?.try_into().ok()?);
    Entry::new(address.into(), len.into(), *bytes.get(6)?, *bytes.get(7)?)
}

fn entry_3(bytes: &[u8]) -> Option<Entry> {
    let len = usize::from(*bytes.get(6)?);
    if !bytes.starts_with(b"_SM3_") || len < 0x18 || !is_sound(bytes.get(..len)?) {
        return None;
    }
    let len = u32::from_le_bytes(bytes.get(0x0c..0x10)?.try_into().ok()?);
    let address = u64::from_le_bytes(bytes.get(0x10..0x18)?.try_into().ok()?);
    Entry::new(address, usize::try_from(len).ok()?, *bytes.get(7)?, *bytes.get(8)?)
}

impl Entry {
    fn new(address: u64, len: usize, major: u8, minor: u8) -> Option<Entry> {
        let is_there = address != 0 && (1..=MAX_TABLE).contains(&len);
        is_there.then_some(Entry { address, len, major, minor })
    }
}

/// The structures of a table, up to the first that is not whole.
fn structures(mut table: &[u8]) -> Vec<Structure<'_>> {
    const END: u8 = 127;
    let mut list = Vec::new();
    while let Some(&[kind, len, ..]) = table.get(..4) {
        let len = usize::from(len);
        let (Some(bytes), Some(rest)) = (table.get(..len), table.get(len..)) else { break };
        if len < 4 || kind == END {
            break;
        }
        // Strings end in a zero each, and their list in one more.
        let Some(end) = rest.windows(2).position(|pair| pair == [0, 0]) else { break };
        let texts = rest.get(..end).unwrap_or_default();
        let strings = texts.split(|&byte| byte == 0).collect();
        list.push(Structure { kind, bytes, strings });
        table = rest.get(end + 2..).unwrap_or_default();
    }
    list
}

fn facts_of(table: &[u8], entry: Entry) -> Vec<Fact> {
    let structures = structures(table);
    let first = |kind: u8| structures.iter().find(|structure| structure.kind == kind);
    let mut facts: Vec<Fact> = Vec::new();
    let mut add = |name: &'static str, text: Option<String>, is_secret: bool| {
        facts.extend(text.map(|text| Fact { name, text, is_secret }));
    };
    for &(kind, at, name) in TEXTS {
        let text = first(kind).and_then(|structure| structure.text(at));
        add(name, text, name.ends_with("_serial"));
    }
    if let Some(bios) = first(0) {
        let release = |at: usize| bios.byte(at).filter(|&part| part != 0xff);
        let pair = release(0x14).zip(release(0x15));
        add("bios_release", pair.map(|(major, minor)| alloc::format!("{major}.{minor}")), false);
    }
    if let Some(chassis) = first(3) {
        let kind = chassis.byte(0x05).map(|kind| (kind & 0x7f).to_string());
        add("chassis_type", kind, false);
    }
    let uuid = first(1).and_then(|system| system.bytes.get(0x08..0x18));
    add("product_uuid", uuid.and_then(|bytes| uuid_text(bytes, entry)), true);
    facts
}

/// From version 2.6 on the first three fields are little endian.
fn uuid_text(bytes: &[u8], entry: Entry) -> Option<String> {
    let mut bytes: [u8; 16] = bytes.try_into().ok()?;
    if bytes.iter().all(|&byte| byte == 0) || bytes.iter().all(|&byte| byte == 0xff) {
        return None;
    }
    if (entry.major, entry.minor) >= (2, 6) {
        for field in [0..4, 4..6, 6..8] {
            bytes.get_mut(field)?.reverse();
        }
    }
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&alloc::format!("{byte:02x}"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VERSION_2_8: Entry = Entry { address: 1, len: 1, major: 2, minor: 8 };

    fn table() -> Vec<u8> {
        let mut system = alloc::vec![1u8, 0x1b, 0, 1, 1, 2, 0, 3];
        system.extend(0..16);
        system.extend([6, 0, 0]);
        system.extend(b"QEMU\0Standard PC\0s-1\0\0");
        let mut chassis = alloc::vec![3u8, 9, 0, 3, 1, 0x81, 0, 0, 0];
        chassis.extend(b"QEMU\0\0");
        let mut all = system;
        all.extend(chassis);
        all.extend([127, 4, 0, 127, 0, 0]);
        all
    }

    fn text(name: &str) -> Option<String> {
        let facts = facts_of(&table(), VERSION_2_8);
        facts.into_iter().find(|fact| fact.name == name).map(|fact| fact.text)
    }

    #[test]
    fn facts_have_names() {
        assert_eq!(text("sys_vendor").as_deref(), Some("QEMU"));
        assert_eq!(text("product_name").as_deref(), Some("Standard PC"));
        assert_eq!(text("product_version").as_deref(), Some(""));
        assert_eq!(text("chassis_type").as_deref(), Some("1"));
        assert_eq!(text("board_vendor"), None);
        let uuid = text("product_uuid");
        assert_eq!(uuid.as_deref(), Some("03020100-0504-0706-0809-0a0b0c0d0e0f"));
    }

    #[test]
    fn entry_points_are_found_and_checked() {
        let mut area = alloc::vec![0u8; 256];
        let mut entry = alloc::vec![0u8; 24];
        entry[..5].copy_from_slice(b"_SM3_");
        (entry[6], entry[7], entry[12], entry[17]) = (24, 3, 200, 0x10);
        let sum = entry.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        entry[5] = 0u8.wrapping_sub(sum);
        area[32..56].copy_from_slice(&entry);
        let wanted = Entry { address: 0x1000, len: 200, major: 3, minor: 0 };
        assert_eq!(find(&area), Some(wanted));
        area[40] ^= 1;
        assert_eq!(find(&area), None);
    }

    proptest! {
        #[test]
        fn damaged_tables_yield_less(at in 0usize..80, value: u8, cut in 0usize..100) {
            let mut bytes = table();
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            bytes.truncate(cut);
            prop_assert!(facts_of(&bytes, VERSION_2_8).len() <= TEXTS.len() + 3);
        }
    }
}
