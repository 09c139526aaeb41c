//! NUMA nodes: which memory and which processors belong together (SRAT), and how far the nodes
//! are from each other (SLIT). ACPI 5.2.16 and 5.2.17.

use crate::addr::PhysAddr;
use alloc::vec::Vec;

/// Distance of a node to itself, and to others where no SLIT tells.
const LOCAL: u8 = 10;
const REMOTE: u8 = 20;
#[cfg(any(target_os = "none", test))]
/// The most nodes; memory of others counts as the first's.
const NODES_MAX: usize = 64;

/// A range of memory and its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryNode {
    /// The first byte.
    pub start: PhysAddr,
    /// One past the last byte.
    pub end: PhysAddr,
    /// The node.
    pub node: usize,
}

/// The machine's nodes, numbered from zero in the order the table first names them.
#[derive(Clone, Debug, Default)]
pub struct Affinity {
    domains: Vec<u32>,
    /// Memory ranges, ascending.
    pub memory: Vec<MemoryNode>,
    /// APIC ids and their nodes.
    pub processors: Vec<(u32, usize)>,
    distances: Vec<u8>,
}

impl Affinity {
    /// One node with everything.
    pub(super) const NONE: Affinity = Affinity {
        domains: Vec::new(),
        memory: Vec::new(),
        processors: Vec::new(),
        distances: Vec::new(),
    };

    /// How many nodes there are; at least one.
    pub fn node_count(&self) -> usize {
        self.domains.len().max(1)
    }

    /// The node of a processor.
    pub fn node_of_apic(&self, apic_id: u32) -> usize {
        self.processors.iter().find(|(id, _)| *id == apic_id).map_or(0, |(_, node)| *node)
    }

    /// The node of an address.
    pub fn node_of(&self, address: PhysAddr) -> usize {
        let after = self.memory.partition_point(|range| range.start <= address);
        let range = after.checked_sub(1).and_then(|at| self.memory.get(at));
        range.filter(|range| address < range.end).map_or(0, |range| range.node)
    }

    /// The distance between two nodes: 10 is local, 20 twice as far.
    pub fn distance(&self, from: usize, to: usize) -> u8 {
        let default = if from == to { LOCAL } else { REMOTE };
        let listed = self.distances.get(from * self.node_count() + to).copied();
        listed.filter(|distance| *distance >= LOCAL).unwrap_or(default)
    }
}

#[cfg(any(target_os = "none", test))]
impl Affinity {
    fn node(&mut self, domain: u32) -> Option<usize> {
        if let Some(node) = self.domains.iter().position(|known| *known == domain) {
            return Some(node);
        }
        if self.domains.len() == NODES_MAX {
            return None;
        }
        self.domains.push(domain);
        Some(self.domains.len() - 1)
    }

    /// Reads the entries of an SRAT, which follow its 48 bytes of headers.
    pub(super) fn read_srat(&mut self, table: &[u8]) {
        const ENABLED: u32 = 1;
        let mut rest = table.get(48..).unwrap_or_default();
        while let [kind, len, ..] = *rest {
            let len = usize::from(len);
            let Some(entry) = rest.get(..len).filter(|_| len >= 2) else { break };
            match kind {
                0 if len >= 16 && word(entry, 4) & ENABLED != 0 => {
                    let high = word(entry, 8) & 0xffff_ff00;
                    let domain = u32::from(byte(entry, 2)) | high;
                    self.add_processor(u32::from(byte(entry, 3)), domain);
                }
                1 if len >= 40 && word(entry, 28) & ENABLED != 0 => {
                    let start = long(entry, 8);
                    self.add_memory(start, long(entry, 16), word(entry, 2));
                }
                2 if len >= 24 && word(entry, 12) & ENABLED != 0 => {
                    self.add_processor(word(entry, 8), word(entry, 4));
                }
                _ => {}
            }
            rest = rest.get(len..).unwrap_or_default();
        }
        self.memory.sort_unstable_by_key(|range| range.start);
    }

    fn add_processor(&mut self, apic_id: u32, domain: u32) {
        if let Some(node) = self.node(domain) {
            self.processors.push((apic_id, node));
        }
    }

    fn add_memory(&mut self, start: u64, len: u64, domain: u32) {
        if len == 0 {
            return;
        }
        if let Some(node) = self.node(domain) {
            let end = PhysAddr(start.saturating_add(len));
            self.memory.push(MemoryNode { start: PhysAddr(start), end, node });
        }
    }

    /// Reads an SLIT: after 36 bytes of header the number of domains and a square of distances.
    pub(super) fn read_slit(&mut self, table: &[u8]) {
        let count = long(table, 36);
        let Ok(count) = usize::try_from(count) else { return };
        let cells = table.get(44..).unwrap_or_default();
        if count > 1024 || cells.len() < count * count {
            return;
        }
        let cell = |from: u32, to: u32| {
            let (from, to) = (from as usize, to as usize);
            let at = (from < count && to < count).then_some(from * count + to);
            at.and_then(|at| cells.get(at)).copied().unwrap_or(0)
        };
        let domains = &self.domains;
        self.distances = domains
            .iter()
            .flat_map(|from| domains.iter().map(move |to| (*from, *to)))
            .map(|(from, to)| cell(from, to))
            .collect();
    }
}

#[cfg(any(target_os = "none", test))]
fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

#[cfg(any(target_os = "none", test))]
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

#[cfg(any(target_os = "none", test))]
fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory_entry(domain: u32, start: u64, len: u64) -> Vec<u8> {
        let mut entry = vec![1, 40];
        entry.extend(domain.to_le_bytes());
        entry.extend([0, 0]);
        entry.extend(start.to_le_bytes());
        entry.extend(len.to_le_bytes());
        entry.extend([0; 4]);
        entry.extend(1u32.to_le_bytes());
        entry.extend([0; 8]);
        entry
    }

    #[test]
    fn nodes_come_from_srat_and_slit() {
        let mut srat = vec![0; 48];
        srat.extend([0, 16, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        srat.extend([2, 24, 0, 0, 7, 0, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0]);
        srat.extend([0; 8]);
        srat.extend(memory_entry(7, 0x4000_0000, 0x1000));
        srat.extend(memory_entry(0, 0, 0x4000_0000));
        let mut affinity = Affinity::default();
        affinity.read_srat(&srat);
        assert_eq!(affinity.node_count(), 2);
        assert_eq!(affinity.node_of_apic(3), 0);
        assert_eq!(affinity.node_of_apic(300), 1);
        assert_eq!(affinity.node_of(PhysAddr(0x3fff_ffff)), 0);
        assert_eq!(affinity.node_of(PhysAddr(0x4000_0fff)), 1);
        assert_eq!(affinity.node_of(PhysAddr(0x4000_1000)), 0);
        assert_eq!(affinity.distance(0, 1), 20);

        let mut slit = vec![0; 36];
        slit.extend(8u64.to_le_bytes());
        let mut cells = vec![10u8; 64];
        cells[7] = 31;
        slit.extend(cells);
        affinity.read_slit(&slit);
        assert_eq!(affinity.distance(0, 1), 31);
        assert_eq!(affinity.distance(0, 0), 10);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let mut affinity = Affinity::default();
            affinity.read_srat(&bytes);
            affinity.read_slit(&bytes);
            let _ = affinity.distance(0, 1);
        }
    }
}
