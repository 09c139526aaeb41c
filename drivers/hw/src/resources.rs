//! Who uses which ports and which physical addresses: exclusive claims, and what
//! `/proc/ioports` and `/proc/iomem` show.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};

static RESOURCES: LockClass = LockClass::new("hw.resources", 596);

/// One claimed range, both ends inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// First port or address.
    pub first: u64,
    /// Last port or address.
    pub last: u64,
    /// Who has it.
    pub name: String,
}

type Table = SpinLock<BTreeMap<u64, (u64, String)>>;

static PORTS: Table = SpinLock::new(&RESOURCES, BTreeMap::new());
static MEMORY: Table = SpinLock::new(&RESOURCES, BTreeMap::new());

/// Ports that belong to the kernel's own devices; no driver gets them.
const SYSTEM_PORTS: [(u64, u64, &str); 7] = [
    (0x00, 0x1f, "dma1"),
    (0x20, 0x21, "pic1"),
    (0x40, 0x43, "timer0"),
    (0x61, 0x61, "timer0"),
    (0x80, 0x8f, "dma page reg"),
    (0xa0, 0xa1, "pic2"),
    (0xc0, 0xdf, "dma2"),
];

fn claim(table: &Table, first: u64, len: u64, name: &str) -> Result<()> {
    let last = len.checked_sub(1).and_then(|n| first.checked_add(n)).ok_or(Errno::EINVAL)?;
    let name = String::from(name);
    let mut table = table.lock();
    if table.range(..=last).next_back().is_some_and(|(_, (end, _))| *end >= first) {
        return Err(Errno::EBUSY);
    }
    table.insert(first, (last, name));
    Ok(())
}

pub(crate) fn claim_ports(first: u16, len: u16, name: &str) -> Result<()> {
    let (start, end) = (u64::from(first), u64::from(first) + u64::from(len));
    let is_system = |(a, b, _): &(u64, u64, &str)| start <= *b && end > *a;
    if end > 0x1_0000 || SYSTEM_PORTS.iter().any(is_system) {
        return Err(Errno::EBUSY);
    }
    claim(&PORTS, start, u64::from(len), name)
}

pub(crate) fn release_ports(first: u16) {
    PORTS.lock().remove(&u64::from(first));
}

#[cfg(target_os = "none")]
pub(crate) fn claim_memory(first: u64, len: u64, name: &str) -> Result<()> {
    claim(&MEMORY, first, len, name)
}

pub(crate) fn release_memory(first: u64) {
    MEMORY.lock().remove(&first);
}

fn list(table: &Table) -> Vec<Claim> {
    let table = table.lock();
    table
        .iter()
        .map(|(first, (last, name))| Claim { first: *first, last: *last, name: name.clone() })
        .collect()
}

/// Claimed ports, in order.
pub fn ports() -> Vec<Claim> {
    let mut all = list(&PORTS);
    all.extend(SYSTEM_PORTS.iter().map(|(first, last, name)| Claim {
        first: *first,
        last: *last,
        name: String::from(*name),
    }));
    all.sort_by_key(|claim| claim.first);
    all
}

/// Claimed device memory, in order.
pub fn memory() -> Vec<Claim> {
    list(&MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_exclusive() {
        claim_ports(0x3f8, 8, "serial").unwrap();
        assert_eq!(claim_ports(0x3ff, 1, "x"), Err(Errno::EBUSY));
        assert_eq!(claim_ports(0x3f0, 9, "x"), Err(Errno::EBUSY));
        claim_ports(0x400, 1, "x").unwrap();
        release_ports(0x3f8);
        claim_ports(0x3f0, 9, "x").unwrap();
        assert_eq!(claim_ports(0x18, 0x10, "x"), Err(Errno::EBUSY));
        assert_eq!(claim_ports(0xfff0, 0x20, "x"), Err(Errno::EBUSY));
    }
}
