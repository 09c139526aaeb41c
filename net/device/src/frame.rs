//! What devices send and deliver.

use crate::{Chunk, Interface, flag};
use alloc::sync::Arc;
use smallvec::SmallVec;

/// Room for the headers of a frame: Ethernet with a tag, IPv6, TCP with all options.
pub const HEADER_ROOM: usize = 128;

/// Headers, which are written from the last to the first.
#[derive(Clone)]
pub struct Header {
    bytes: [u8; HEADER_ROOM],
    start: u8,
}

impl Default for Header {
    fn default() -> Self {
        Self::new()
    }
}

impl Header {
    /// No header yet.
    pub const fn new() -> Header {
        Header { bytes: [0; HEADER_ROOM], start: HEADER_ROOM as u8 }
    }

    /// Puts `len` zeroed bytes before what is there; `None` when there is no room.
    pub fn push(&mut self, len: usize) -> Option<&mut [u8]> {
        let end = usize::from(self.start);
        let start = end.checked_sub(len)?;
        let room = self.bytes.get_mut(start..end)?;
        room.fill(0);
        self.start = start as u8;
        Some(room)
    }

    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(usize::from(self.start)..).unwrap_or(&[])
    }

    /// How much is there.
    pub fn len(&self) -> usize {
        HEADER_ROOM - usize::from(self.start)
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a device is to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumRequest {
    /// Where the sum begins, from the start of the frame.
    pub start: u16,
    /// Where it is stored, from there.
    pub offset: u16,
}

/// How a device is to cut a frame into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// TCP over IPv6 and not over IPv4.
    pub is_v6: bool,
    /// The payload of a segment.
    pub size: u16,
}

/// A frame to be sent.
#[derive(Clone)]
pub struct Frame {
    /// The headers, the link's included.
    pub header: Header,
    /// The rest.
    pub payload: SmallVec<[Chunk; 4]>,
    /// The sum the device is to compute.
    pub checksum: Option<ChecksumRequest>,
    /// How the device is to cut it.
    pub segmentation: Option<Segmentation>,
}

impl Frame {
    /// Its length.
    pub fn len(&self) -> usize {
        self.header.len() + self.payload.iter().map(Chunk::len).sum::<usize>()
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A frame that came.
#[derive(Debug)]
pub struct Received {
    /// The bytes, the link's header first.
    pub data: SmallVec<[Chunk; 2]>,
    /// The device vouches for the sums of TCP and UDP.
    pub is_sum_good: bool,
}

/// What takes the frames of all devices.
pub trait Receiver: Send + Sync {
    /// Frames came, in order. Called in a thread.
    fn receive(&self, interface: &Arc<Interface>, frames: &mut dyn Iterator<Item = Received>);
}

bitflags::bitflags! {
    /// What a device can do by itself.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Offloads: u32 {
        /// Compute the sum of TCP and UDP.
        const CHECKSUM = 1;
        /// Cut TCP over IPv4.
        const SEGMENT4 = 2;
        /// Cut TCP over IPv6.
        const SEGMENT6 = 4;
        /// Verify sums.
        const RX_CHECKSUM = 8;
        /// Join segments.
        const RX_JOIN = 16;
    }
}

/// A device's driver.
pub trait NetDevice: Send + Sync {
    /// Its address.
    fn mac(&self) -> [u8; 6];
    /// What it can do.
    fn offloads(&self) -> Offloads;
    /// Sends a frame, or says that its queue is full (`ENOBUFS`). Not to be called in interrupts.
    fn transmit(&self, frame: Frame) -> abi::Result<()>;
    /// Tells the device of frames it was given and not told of.
    fn flush(&self) {}
    /// Whether the link is there.
    fn has_carrier(&self) -> bool {
        true
    }
    /// The name of the driver, for `ethtool`.
    fn driver(&self) -> &'static str;
    /// Where the device is on its bus.
    fn bus(&self) -> alloc::string::String {
        alloc::string::String::new()
    }
    /// The largest MTU it takes.
    fn max_mtu(&self) -> u32 {
        1500
    }
    /// The MTU that an interface has at first.
    fn first_mtu(&self) -> u32 {
        self.max_mtu()
    }
    /// The flags that an interface has at first.
    fn first_flags(&self) -> u32 {
        flag::BROADCAST | flag::MULTICAST
    }
    /// The kind of a device that is no hardware (`IFLA_INFO_KIND`).
    fn kind(&self) -> Option<&'static str> {
        None
    }
    /// Whether it is no hardware: it can be taken away, moves between namespaces and ends with its namespace.
    fn is_virtual(&self) -> bool {
        self.kind().is_some()
    }
    /// The interface at the other end.
    fn peer(&self) -> Option<Arc<Interface>> {
        None
    }
    /// This is the device's interface from now on.
    fn attach(&self, _interface: &Arc<Interface>) {}
    /// Its interface went up or down.
    fn changed(&self) {}
    /// Its interface was taken away. In a thread, without locks.
    fn removed(&self) {}
}
