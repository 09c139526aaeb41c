//! Packets that came in parts (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! A hash table by what the parts have in common, and a queue in the order in which the first of each came.
//! What waits is counted in pages, since a part of eight bytes keeps one.

use alloc::collections::{BTreeMap, VecDeque};

use arch::lock::{LockClass, SpinLock};
use hashbrown::HashMap;
use netdevice::{Chunk, Ip};
use smallvec::SmallVec;

use crate::ipin::{Incoming, len_of};
use crate::table::Keyed;

static FRAGMENTS: LockClass = LockClass::new("inet.fragments", 534);

/// What fragments of one packet have in common.
pub(crate) type Key = (Ip, Ip, u32, u8);

struct Assembly {
    id: u64,
    since_ns: u64,
    /// By offset; no two overlap.
    parts: BTreeMap<usize, SmallVec<[Chunk; 4]>>,
    /// Known with the last fragment.
    total: Option<usize>,
    bytes: usize,
    weight: usize,
    first: Option<Incoming>,
}

/// `ipfrag_high_thresh`: memory of what waits.
const MOST: usize = 4 << 20;
/// `ipfrag_time`.
const LIFE_NS: u64 = 30_000_000_000;
const PAGE: usize = 4096;

struct Waiting {
    assemblies: HashMap<Key, Assembly, Keyed>,
    /// In the order they began; some are gone from the table.
    order: VecDeque<(Key, u64)>,
    next_id: u64,
    weight: usize,
}

impl Waiting {
    fn forget(&mut self, key: &Key) -> Option<Assembly> {
        let gone = self.assemblies.remove(key)?;
        self.weight -= gone.weight;
        if self.order.len() > 2 * self.assemblies.len() + 64 {
            let Waiting { order, assemblies, .. } = self;
            order.retain(|(key, id)| assemblies.get(key).is_some_and(|other| other.id == *id));
        }
        Some(gone)
    }

    /// Makes room: the oldest go first.
    fn expire(&mut self, now: u64, weight: usize) {
        while let Some((key, id)) = self.order.front().copied() {
            let is_it = |other: &&Assembly| other.id == id;
            if let Some(oldest) = self.assemblies.get(&key).filter(is_it) {
                if self.weight + weight <= MOST && now.saturating_sub(oldest.since_ns) < LIFE_NS {
                    return;
                }
                self.forget(&key);
            }
            // It may have gone from the queue with others that were forgotten.
            if self.order.front() == Some(&(key, id)) {
                self.order.pop_front();
            }
        }
    }
}

/// Packets of which some fragments came. The oldest go when there are too many, or after half a minute.
pub(crate) struct Fragments(SpinLock<Waiting>);

impl Default for Fragments {
    fn default() -> Self {
        let assemblies = HashMap::with_hasher(Keyed::new(crate::random()));
        let waiting = Waiting { assemblies, order: VecDeque::new(), next_id: 0, weight: 0 };
        Fragments(SpinLock::new(&FRAGMENTS, waiting))
    }
}

impl Fragments {
    /// Adds a fragment; the packet, if it is complete.
    pub(crate) fn add(
        &self,
        key: Key,
        (offset, more): (usize, bool),
        fragment: Incoming,
    ) -> Option<Incoming> {
        self.add_at(arch::time::now_ns(), key, (offset, more), fragment)
    }

    fn add_at(
        &self,
        now: u64,
        key: Key,
        (offset, more): (usize, bool),
        fragment: Incoming,
    ) -> Option<Incoming> {
        let len = len_of(&fragment.payload);
        let end = offset + len;
        // All but the last are multiples of eight, and nothing reaches past the longest packet.
        if len == 0 || (more && !len.is_multiple_of(8)) || end > 65535 {
            return None;
        }
        let weight = (fragment.payload.len() * PAGE).max(len);
        let mut waiting = self.0.lock();
        waiting.expire(now, weight);
        if !waiting.assemblies.contains_key(&key) {
            let id = waiting.next_id;
            waiting.next_id += 1;
            waiting.order.push_back((key, id));
            let assembly = Assembly {
                id,
                since_ns: now,
                parts: BTreeMap::new(),
                total: None,
                bytes: 0,
                weight: 0,
                first: None,
            };
            waiting.assemblies.insert(key, assembly);
        }
        let assembly = waiting.assemblies.get_mut(&key)?;
        let before = assembly.parts.range(..=offset).next_back();
        if before.is_some_and(|(other, data)| *other == offset && len_of(data) == len) {
            // The same once more (RFC 8200 §4.5).
            return None;
        }
        let overlaps_before = before.is_some_and(|(other, data)| other + len_of(data) > offset);
        let overlaps_after =
            assembly.parts.range(offset..).next().is_some_and(|(other, _)| *other < end);
        let last = assembly.parts.last_key_value().map_or(0, |(other, data)| other + len_of(data));
        // Whoever says where the end is says the same, and nothing lies behind it.
        let contradicts = match assembly.total {
            Some(total) => end > total || (!more && end != total),
            None => !more && last > end,
        };
        // RFC 5722: fragments that overlap are an attack; the packet is dropped.
        if overlaps_before || overlaps_after || contradicts {
            let gone = waiting.forget(&key);
            drop(waiting);
            drop(gone);
            return None;
        }
        if !more {
            assembly.total = Some(end);
        }
        assembly.parts.insert(offset, fragment.payload.clone());
        assembly.bytes += len;
        assembly.weight += weight;
        if offset == 0 {
            assembly.first = Some(fragment);
        }
        let is_complete = assembly.total == Some(assembly.bytes) && assembly.first.is_some();
        waiting.weight += weight;
        if !is_complete {
            return None;
        }
        let assembly = waiting.forget(&key)?;
        drop(waiting);
        let mut whole = assembly.first?;
        whole.payload = assembly.parts.into_values().flatten().collect();
        // The sum was of the whole and nobody has looked at it.
        whole.is_sum_good = false;
        Some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(len: usize) -> Incoming {
        frames::init_host(256 << 20);
        let payload = match len {
            0 => SmallVec::new(),
            len => smallvec::smallvec![Chunk::from_bytes(&alloc::vec![7; len]).unwrap()],
        };
        let (from, to) = (Ip::v4([10, 0, 0, 1]), Ip::v4([10, 0, 0, 2]));
        let header = SmallVec::new();
        Incoming { from, to, protocol: 17, hops: 1, tos: 0, is_sum_good: true, header, payload }
    }

    fn key(ident: u32) -> Key {
        (Ip::ANY4, Ip::ANY4, ident, 17)
    }

    #[test]
    fn parts_in_any_order_make_the_whole() {
        let all = Fragments::default();
        let add = |place, len| all.add_at(0, key(1), place, fragment(len));
        assert!(add((16, false), 5).is_none());
        assert!(add((8, true), 8).is_none());
        assert!(add((8, true), 8).is_none(), "the same again");
        let whole = add((0, true), 8).unwrap();
        assert_eq!(len_of(&whole.payload), 21);
        let waiting = all.0.lock();
        assert_eq!((waiting.assemblies.len(), waiting.weight), (0, 0));
    }

    #[test]
    fn contradictions_drop_the_packet() {
        for second in [((4usize, true), 8usize), ((0, true), 24), ((40, false), 0), ((8, false), 1)]
        {
            let all = Fragments::default();
            assert!(all.add_at(0, key(1), (0, true), fragment(8)).is_none());
            assert!(all.add_at(0, key(1), (16, false), fragment(8)).is_none());
            assert!(all.add_at(0, key(1), second.0, fragment(second.1)).is_none());
            let is_left = all.add_at(0, key(1), (8, true), fragment(8)).is_some();
            assert_eq!(is_left, second.1 == 0, "{second:?}");
        }
    }

    #[test]
    fn what_waits_is_bounded_and_grows_old() {
        let all = Fragments::default();
        for ident in 0..5000 {
            assert!(all.add_at(0, key(ident), (8, true), fragment(8)).is_none());
            assert!(all.add_at(0, key(ident), (8, false), fragment(0)).is_none());
        }
        let (count, weight) = {
            let waiting = all.0.lock();
            (waiting.assemblies.len(), waiting.weight)
        };
        assert_eq!((count, weight), (MOST / PAGE, MOST));
        assert!(all.0.lock().order.len() <= 2 * count + 64);
        assert!(all.add_at(LIFE_NS, key(1), (8, true), fragment(8)).is_none());
        assert_eq!(all.0.lock().assemblies.len(), 1);
    }
}
