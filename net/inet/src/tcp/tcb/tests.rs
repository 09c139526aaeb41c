//! Two connections over links that lose, reorder, double and damage, in virtual time.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A link's bad habits, in thousandths.
#[derive(Clone, Copy, Debug)]
struct Habits {
    lost: u32,
    doubled: u32,
    late: u32,
}

struct World {
    now: u64,
    random: u64,
    habits: Habits,
    on_the_way: BTreeMap<(u64, u64), (usize, Segment)>,
    count: u64,
    ends: [Tcb; 2],
    received: [Vec<u8>; 2],
    /// Bytes a program has not read.
    unread: [usize; 2],
    is_reading: [bool; 2],
}

const LINK_NS: u64 = 10_000_000;

fn bytes_of(chunks: &[Chunk]) -> Vec<u8> {
    let mut all = Vec::new();
    for chunk in chunks {
        let mut bytes = vec![0; chunk.len()];
        chunk.copy_out(&mut bytes);
        all.extend(bytes);
    }
    all
}

impl World {
    fn new(habits: Habits, seed: u64, config: Config) -> World {
        frames::init_host(256 << 20);
        let first = Tcb::connect(Config { iss: u32::MAX - 5000, ..config.clone() }, 1);
        // The second end is made when the SYN arrives.
        let second = Tcb::new(Config { iss: 77, ..config }, State::Listen, 1);
        World {
            now: 1,
            random: seed | 1,
            habits,
            on_the_way: BTreeMap::new(),
            count: 0,
            ends: [first, second],
            received: [Vec::new(), Vec::new()],
            unread: [0; 2],
            is_reading: [true; 2],
        }
    }

    fn chance(&mut self, of_thousand: u32) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 20) % 1000 < u64::from(of_thousand)
    }

    fn collect(&mut self) {
        for from in 0..2 {
            while let Some(segment) = self.ends[from].out.pop_front() {
                // The wire takes segments one by one.
                for part in split(&segment, self.ends[from].mss) {
                    let copies = if self.chance(self.habits.doubled) { 2 } else { 1 };
                    for _ in 0..copies {
                        if self.chance(self.habits.lost) {
                            continue;
                        }
                        let late = if self.chance(self.habits.late) { 3 * LINK_NS } else { 0 };
                        self.count += 1;
                        let key = (self.now + LINK_NS + late, self.count);
                        self.on_the_way.insert(key, (1 - from, part.clone()));
                    }
                }
            }
            let arrived = core::mem::take(&mut self.ends[from].arrived);
            let bytes = bytes_of(&arrived);
            if self.is_reading[from] {
                self.received[from].extend(&bytes);
            } else {
                self.unread[from] += bytes.len();
                self.received[from].extend(&bytes);
            }
        }
    }

    /// One event; `false` when nothing will happen any more.
    fn step(&mut self) -> bool {
        self.collect();
        let next_segment = self.on_the_way.keys().next().copied();
        let next_timer = self.ends.iter().filter_map(Tcb::deadline).min();
        match (next_segment, next_timer) {
            (Some(key), timer) if timer.is_none_or(|at| key.0 <= at) => {
                self.now = self.now.max(key.0);
                let Some((to, segment)) = self.on_the_way.remove(&key) else { return false };
                if self.ends[to].state == State::Listen {
                    if segment.has(flag::SYN) {
                        let config = self.ends[to].config.clone();
                        self.ends[to] = Tcb::answer(config, &segment, self.now);
                    }
                } else {
                    let unread = self.unread[to];
                    self.ends[to].receive(segment, self.now, unread);
                }
            }
            (_, Some(at)) => {
                self.now = self.now.max(at);
                for end in 0..2 {
                    let unread = self.unread[end];
                    let now = self.now;
                    self.ends[end].tick(now, unread);
                }
            }
            _ => return false,
        }
        self.collect();
        true
    }

    fn write(&mut self, end: usize, data: &[u8]) -> usize {
        let len = data.len().min(self.ends[end].room());
        let pieces: Vec<Chunk> =
            data[..len].chunks(4096).map(|part| Chunk::from_bytes(part).unwrap()).collect();
        let (now, unread) = (self.now, self.unread[end]);
        self.ends[end].write(pieces, now, unread);
        len
    }

    fn establish(&mut self) {
        for _ in 0..10_000 {
            if self.ends.iter().all(|end| end.state == State::Established) {
                return;
            }
            assert!(self.step(), "no connection");
        }
        panic!("no connection: {:?} {:?}", self.ends[0].state, self.ends[1].state);
    }
}

/// Cuts what a device would cut.
fn split(segment: &Segment, mss: usize) -> Vec<Segment> {
    let total = segment.payload_len();
    if total <= mss {
        return vec![segment.clone()];
    }
    let mut parts = Vec::new();
    let all = bytes_of(&segment.payload);
    for (index, part) in all.chunks(mss).enumerate() {
        let at = index * mss;
        let is_last = at + part.len() == total;
        let mut cut = segment.clone();
        cut.seq = segment.seq.wrapping_add(at as u32);
        cut.payload = part.chunks(4096).map(|c| Chunk::from_bytes(c).unwrap()).collect();
        if !is_last {
            cut.flags &= !(flag::FIN | flag::PSH);
        }
        parts.push(cut);
    }
    parts
}

fn transfer(habits: Habits, seed: u64, len: usize, config: Config) -> u64 {
    let mut world = World::new(habits, seed, config);
    world.establish();
    let data: Vec<u8> = (0..len).map(|i| (i * 31 / 7) as u8).collect();
    let mut sent = [0, 0];
    let mut is_closed = [false; 2];
    for _ in 0..2_000_000 {
        for end in 0..2 {
            if sent[end] < len {
                sent[end] += world.write(end, &data[sent[end]..]);
            } else if !is_closed[end] {
                is_closed[end] = true;
                let now = world.now;
                world.ends[end].finish(now, 0);
            }
        }
        let is_over = world.ends.iter().all(|e| matches!(e.state, State::TimeWait | State::Closed));
        if is_over || !world.step() {
            break;
        }
    }
    for end in 0..2 {
        assert_eq!(world.ends[end].error, None, "end {end} {:?}", world.ends[end].state);
        assert_eq!(world.received[end].len(), len, "end {end} in {:?}", world.ends[end].state);
        assert!(world.received[end] == data, "wrong bytes");
    }
    world.now
}

const PERFECT: Habits = Habits { lost: 0, doubled: 0, late: 0 };

#[test]
fn a_perfect_link_carries_everything_quickly() {
    let end = transfer(PERFECT, 1, 1_000_000, Config::default());
    assert!(end < 2_000_000_000, "{end}");
}

#[test]
fn bad_links_carry_everything() {
    let bad = Habits { lost: 50, doubled: 20, late: 50 };
    for seed in 1..12 {
        transfer(bad, seed * 7919, 300_000, Config::default());
        let plain = Config { has_sack: false, has_stamps: false, scale: None, ..Config::default() };
        transfer(bad, seed * 104_729, 100_000, plain);
        transfer(bad, seed * 31, 100_000, Config { is_reno: true, ..Config::default() });
    }
}

#[test]
fn a_closed_window_is_probed_and_opens() {
    let config = Config { rcvbuf: 20_000, ..Config::default() };
    let mut world = World::new(PERFECT, 3, config);
    world.establish();
    world.is_reading[1] = false;
    let data = vec![7u8; 60_000];
    assert_eq!(world.write(0, &data), 60_000);
    while world.now < 20_000_000_000 && world.step() {}
    let stuck = world.received[1].len();
    assert!((15_000..=20_000).contains(&stuck), "{stuck}");
    world.is_reading[1] = true;
    world.unread[1] = 0;
    let now = world.now;
    world.ends[1].has_read(now, 0);
    while world.received[1].len() < 60_000 && world.step() {}
    assert_eq!(world.received[1].len(), 60_000);
}

#[test]
fn a_silent_peer_times_out() {
    let mut world = World::new(PERFECT, 3, Config { retries: 5, ..Config::default() });
    world.establish();
    world.habits.lost = 1000;
    world.write(0, b"hello");
    while world.ends[0].state != State::Closed && world.step() {}
    assert_eq!(world.ends[0].error, Some(Errno::ETIMEDOUT));
    let mut world = World::new(Habits { lost: 1000, ..PERFECT }, 3, Config::default());
    while world.ends[0].state != State::Closed && world.step() {}
    assert_eq!(world.ends[0].error, Some(Errno::ETIMEDOUT));
    // 1 + 2 + 4 + … of seven SYNs.
    assert_eq!(world.now / 1_000_000_000, 127);
}

#[test]
fn resets_are_believed_only_where_expected() {
    let mut world = World::new(PERFECT, 5, Config::default());
    world.establish();
    while world.step() {}
    let mut reset = world.ends[0].segment(world.ends[0].nxt + 100, flag::RST);
    let now = world.now;
    world.ends[1].receive(reset.clone(), now, 0);
    assert_eq!(world.ends[1].state, State::Established);
    assert_eq!(world.ends[1].out.len(), 1, "a challenge");
    reset.seq = reset.seq.wrapping_sub(100);
    world.ends[1].receive(reset, now, 0);
    assert_eq!(world.ends[1].state, State::Closed);
    assert_eq!(world.ends[1].error, Some(Errno::ECONNRESET));
}

#[test]
fn what_icmp_quotes_is_believed_only_of_what_is_on_its_way() {
    let mut world = World::new(PERFECT, 5, Config::default());
    world.establish();
    while world.step() {}
    let next = world.ends[0].segment(world.ends[0].nxt, flag::ACK).seq;
    assert!(!world.ends[0].is_in_flight(next));
    world.write(0, &[1; 3000]);
    assert!(world.ends[0].is_in_flight(next) && world.ends[0].is_in_flight(next + 2999));
    assert!(!world.ends[0].is_in_flight(next + 3000) && !world.ends[0].is_in_flight(next - 1));
}

#[test]
fn an_old_call_does_not_end_time_wait() {
    let mut world = World::new(PERFECT, 5, Config::default());
    world.establish();
    while world.step() {}
    let next = world.ends[1].segment(world.ends[1].nxt, flag::SYN);
    let stamp = world.ends[0].recent_stamp;
    let call = |seq: u32, stamp: Option<u32>| {
        let mut call = next.clone();
        call.seq = seq;
        call.options.stamps = stamp.map(|stamp| (stamp, 0));
        call
    };
    assert!(!world.ends[0].gives_way(&call(next.seq + 9, Some(stamp + 1))), "it is not over");
    world.ends[0].state = State::TimeWait;
    assert!(world.ends[0].gives_way(&call(next.seq - 9, Some(stamp + 1))));
    assert!(!world.ends[0].gives_way(&call(next.seq + 9, Some(stamp.wrapping_sub(1)))));
    assert!(world.ends[0].gives_way(&call(next.seq + 9, Some(stamp))));
    assert!(!world.ends[0].gives_way(&call(next.seq - 9, Some(stamp))));
    assert!(world.ends[0].gives_way(&call(next.seq + 9, None)));
    assert!(!world.ends[0].gives_way(&call(next.seq - 9, None)));
}

/// A segment of one's at an offset from what the other end expects.
fn stray(world: &World, ahead: u64, len: usize) -> Segment {
    let mut segment = world.ends[1].segment(world.ends[1].nxt + ahead, flag::ACK);
    segment.options.stamps = world.ends[0].config.has_stamps.then_some((u32::MAX / 4, 0));
    segment.payload.push(Chunk::from_bytes(&vec![3; len]).unwrap());
    segment
}

#[test]
fn segments_that_overlap_hold_no_more_than_the_buffer_allows() {
    let mut world = World::new(PERFECT, 5, Config::default());
    world.establish();
    while world.step() {}
    for step in 0..20_000 {
        let segment = stray(&world, 40_000 - step, 1400);
        let now = world.now;
        world.ends[0].receive(segment, now, 0);
        world.ends[0].out.clear();
    }
    let end = &world.ends[0];
    assert!(end.held_weight <= 2 * end.config.rcvbuf as u64);
    let bytes: usize = end.held.values().map(|(_, p)| bytes_of(p).len()).sum();
    assert!(bytes <= 2 * end.config.rcvbuf && !end.held.is_empty(), "{bytes}");
}

#[test]
fn short_segments_share_pages() {
    let mut world = World::new(PERFECT, 5, Config::default());
    world.establish();
    while world.step() {}
    for at in 0..1000 {
        let now = world.now;
        let mut segment = stray(&world, 0, 1);
        segment.seq = segment.seq.wrapping_add(at);
        world.ends[0].receive(segment, now, at as usize);
    }
    let end = &world.ends[0];
    assert_eq!(bytes_of(&end.arrived), vec![3; 1000]);
    assert!(end.arrived.windows(2).all(|two| two[0].page.is_same(&two[1].page)));
}

#[test]
fn what_lies_beyond_the_window_is_not_reported_as_here() {
    let mut world = World::new(PERFECT, 5, Config::default());
    world.establish();
    while world.step() {}
    let segment = stray(&world, 1_000_000, 100);
    let now = world.now;
    world.ends[0].receive(segment, now, 0);
    assert!(world.ends[0].out.back().unwrap().options.sacks.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_link_carries_everything(
        lost in 0u32..120, doubled in 0u32..80, late in 0u32..200, seed in any::<u64>(),
        len in 1usize..60_000, has_sack in any::<bool>(), has_stamps in any::<bool>(),
        mss in 200u16..9000,
    ) {
        let config = Config { has_sack, has_stamps, mss, ..Config::default() };
        transfer(Habits { lost, doubled, late }, seed, len, config);
    }

    #[test]
    fn wild_segments_break_nothing(
        segments in proptest::collection::vec(
            (any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>(), 0usize..3000, any::<bool>()), 1..60),
    ) {
        let mut world = World::new(PERFECT, 9, Config::default());
        world.establish();
        world.write(0, &[1; 5000]);
        for (seq, ack, flags, window, len, is_near) in segments {
            let base = world.ends[1].segment(world.ends[1].nxt, flag::ACK);
            let (seq, ack) = if is_near {
                (base.seq.wrapping_add(seq % 70_000), base.ack.wrapping_sub(ack % 6000))
            } else {
                (seq, ack)
            };
            let payload = if len == 0 { SmallVec::new() } else {
                smallvec::smallvec![Chunk::from_bytes(&vec![3; len]).unwrap()]
            };
            let options = Options { stamps: base.options.stamps, ..Options::default() };
            let segment = Segment { seq, ack, flags, window, urgent: 7, options, payload };
            let now = world.now;
            world.ends[0].receive(segment, now, 0);
            world.ends[0].arrived.clear();
            world.ends[0].out.clear();
        }
    }
}
