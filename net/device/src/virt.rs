//! Devices that are no hardware: dummies, which take what is sent and do nothing, and pairs, each of which
//! delivers what the other sends (veth(4)).
//!
//! What is sent on a pair waits in the queue of the processor it was sent on, whose thread delivers it: a
//! sender may hold locks that a receiver takes. Payloads pass as the pages they are; headers are put beside each
//! other into pages of the queue.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::sync::{Arc, Weak};

use abi::{Errno, Result};
use arch::cpu;
use arch::lock::{LockClass, RwSpinLock, SpinLock};
use frames::PageRef;
use sched::WaitQueue;
use spin::Once;

use crate::frame::{Frame, HEADER_ROOM, NetDevice, Offloads, Received};
use crate::interface::{Interface, flag};
use crate::{Chunk, Devices};

static BACKLOG: LockClass = LockClass::new("netdevice.backlog", 543);
static PAIR: LockClass = LockClass::new("netdevice.pair", 542);

/// `netdev_max_backlog`: frames that wait on one processor.
const BACKLOG_MAX: usize = 1000;
/// Frames that are delivered between two looks at the queue.
const BUDGET: usize = 64;
/// The longest packet of a pair.
const LONGEST: u32 = 65535;

/// A device that loses everything.
pub struct Dummy {
    mac: [u8; 6],
}

impl Dummy {
    /// A dummy with this address.
    pub fn new(mac: [u8; 6]) -> Arc<Dummy> {
        Arc::new(Dummy { mac })
    }
}

impl NetDevice for Dummy {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }
    fn offloads(&self) -> Offloads {
        Offloads::CHECKSUM | Offloads::SEGMENT4 | Offloads::SEGMENT6
    }
    fn transmit(&self, _: Frame) -> Result<()> {
        Ok(())
    }
    fn driver(&self) -> &'static str {
        "dummy"
    }
    fn max_mtu(&self) -> u32 {
        u32::MAX >> 1
    }
    fn first_mtu(&self) -> u32 {
        1500
    }
    fn first_flags(&self) -> u32 {
        flag::BROADCAST | flag::NOARP
    }
    fn kind(&self) -> Option<&'static str> {
        Some("dummy")
    }
    fn knows_link(&self) -> bool {
        false
    }
}

/// The interfaces of both ends, as far as they are there.
struct Pair {
    ends: [RwSpinLock<Weak<Interface>>; 2],
}

impl Pair {
    fn end(&self, is_second: bool) -> &RwSpinLock<Weak<Interface>> {
        let [first, second] = &self.ends;
        if is_second { second } else { first }
    }
}

/// One end of a pair.
struct Veth {
    mac: [u8; 6],
    is_second: bool,
    pair: Arc<Pair>,
}

/// The two ends of a new pair, with these addresses.
pub fn veth_pair(macs: [[u8; 6]; 2]) -> [Arc<dyn NetDevice>; 2] {
    start_lanes();
    let end = || RwSpinLock::new(&PAIR, Weak::new());
    let pair = Arc::new(Pair { ends: [end(), end()] });
    let [first, second] = macs;
    [(first, false), (second, true)].map(|(mac, is_second)| {
        let end: Arc<dyn NetDevice> = Arc::new(Veth { mac, is_second, pair: pair.clone() });
        end
    })
}

impl NetDevice for Veth {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }
    fn offloads(&self) -> Offloads {
        Offloads::CHECKSUM | Offloads::SEGMENT4 | Offloads::SEGMENT6 | Offloads::RX_CHECKSUM
    }
    fn transmit(&self, frame: Frame) -> Result<()> {
        let to = self.peer().filter(|peer| peer.is_up()).ok_or(Errno::ENOBUFS)?;
        let lanes = LANES.get().ok_or(Errno::ENOBUFS)?;
        let lane = lanes.get(cpu::id().index() % lanes.len().max(1)).ok_or(Errno::ENOBUFS)?;
        lane.push(to, frame)
    }
    fn has_carrier(&self) -> bool {
        self.peer().is_some_and(|peer| peer.is_up())
    }
    fn driver(&self) -> &'static str {
        "veth"
    }
    fn max_mtu(&self) -> u32 {
        LONGEST
    }
    fn first_mtu(&self) -> u32 {
        1500
    }
    fn speed_mbps(&self) -> Option<u32> {
        Some(10_000)
    }
    fn kind(&self) -> Option<&'static str> {
        Some("veth")
    }
    fn peer(&self) -> Option<Arc<Interface>> {
        self.pair.end(!self.is_second).read().upgrade()
    }
    fn attach(&self, interface: &Arc<Interface>) {
        *self.pair.end(self.is_second).write() = Arc::downgrade(interface);
    }
    fn changed(&self) {
        // The other end has a carrier or lost it.
        if let Some(peer) = self.peer().filter(|peer| peer.is_up())
            && let Some(devices) = devices_of(&peer)
        {
            devices.carrier_changed(&peer);
        }
    }
    fn removed(&self) {
        *self.pair.end(self.is_second).write() = Weak::new();
        let peer = core::mem::take(&mut *self.pair.end(!self.is_second).write()).upgrade();
        if let Some(peer) = peer
            && let Some(devices) = devices_of(&peer)
        {
            // Whoever was faster has done it.
            let _ = devices.remove(peer.index);
        }
    }
}

fn devices_of(interface: &Interface) -> Option<Arc<Devices>> {
    interface.namespace()?.part_arc::<Devices>()
}

/// Frames sent on one processor.
struct Lane {
    inner: SpinLock<Backlog>,
    wakeup: WaitQueue,
}

#[derive(Default)]
struct Backlog {
    frames: VecDeque<(Arc<Interface>, Received)>,
    /// The page that headers are put into, and how much of it is taken.
    page: Option<(PageRef, usize)>,
}

static LANES: Once<Box<[Lane]>> = Once::new();

fn start_lanes() {
    LANES.call_once(|| {
        let lane = |_| Lane {
            inner: SpinLock::new(&BACKLOG, Backlog::default()),
            wakeup: WaitQueue::new(),
        };
        (0..cpu::possible_count()).map(lane).collect()
    });
    static THREADS: Once<()> = Once::new();
    THREADS.call_once(|| {
        for index in 0..cpu::possible_count() {
            sched::spawn_kernel(&format!("veth/{index}"), move || {
                if let Some(lane) = LANES.get().and_then(|lanes| lanes.get(index)) {
                    lane.serve();
                }
            });
        }
    });
}

impl Lane {
    /// Room for the header of a frame.
    fn header_room(&self) -> Option<(PageRef, usize)> {
        let take = |backlog: &mut Backlog| {
            let (page, used) = backlog.page.as_mut()?;
            let at = *used;
            *used += HEADER_ROOM;
            if *used <= page.size() { Some((page.clone(), at)) } else { None }
        };
        if let Some(room) = take(&mut self.inner.lock()) {
            return Some(room);
        }
        let fresh = frames::alloc_page(frames::Flags::empty()).ok()?;
        let mut backlog = self.inner.lock();
        let old = backlog.page.replace((fresh, 0));
        let room = take(&mut backlog);
        drop(backlog);
        drop(old);
        room
    }

    fn push(&self, to: Arc<Interface>, frame: Frame) -> Result<()> {
        let Frame { header, payload, checksum, segmentation, protocol } = frame;
        let (page, offset) = self.header_room().ok_or(Errno::ENOBUFS)?;
        page.copy_in(offset, header.bytes());
        let header = Chunk { page, offset: offset as u32, len: header.len() as u32 };
        let data = core::iter::once(header).chain(payload).collect();
        // It never left this machine's memory, so that its sums need no look.
        let received = Received { data, is_sum_good: true, checksum, segmentation, protocol };
        let is_first = {
            let mut backlog = self.inner.lock();
            if backlog.frames.len() >= BACKLOG_MAX {
                return Err(Errno::ENOBUFS);
            }
            backlog.frames.push_back((to, received));
            backlog.frames.len() == 1
        };
        if is_first {
            self.wakeup.wake_one();
        }
        Ok(())
    }

    fn serve(&self) {
        let mut batch: VecDeque<(Arc<Interface>, Received)> = VecDeque::new();
        loop {
            self.wakeup.wait(|| {
                let frames = &mut self.inner.lock().frames;
                if frames.is_empty() {
                    return None;
                }
                core::mem::swap(frames, &mut batch);
                Some(())
            });
            while let Some((to, first)) = batch.pop_front() {
                let mut frames = core::iter::once(first)
                    .chain(core::iter::from_fn(|| {
                        let is_same = |(next, _): &(Arc<Interface>, _)| Arc::ptr_eq(next, &to);
                        if !batch.front().is_some_and(is_same) {
                            return None;
                        }
                        batch.pop_front().map(|(_, frame)| frame)
                    }))
                    .take(BUDGET);
                to.receive(&mut frames);
            }
        }
    }
}
