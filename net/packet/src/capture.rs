//! A frame that a socket was given, and addresses of the link.

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::Result;
use abi::socket::AF_PACKET;
use arch::uio::Sink;
use netdevice::{Chunk, Interface, Spread};
use smallvec::SmallVec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::table::Seen;

/// Frames up to this length are copied; of longer ones the pages are kept.
const SMALL: usize = 1024;

/// `struct sockaddr_ll`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct LinkAddress {
    pub(crate) family: u16,
    /// In network order.
    pub(crate) protocol: u16,
    pub(crate) index: i32,
    pub(crate) kind: u16,
    pub(crate) whom: u8,
    pub(crate) len: u8,
    pub(crate) mac: [u8; 8],
}

impl LinkAddress {
    /// Of an interface, with its own hardware address.
    pub(crate) fn of(interface: &Interface, protocol: u16) -> LinkAddress {
        let mut address = LinkAddress {
            family: AF_PACKET,
            protocol: protocol.to_be(),
            index: interface.index as i32,
            kind: interface.kind(),
            whom: 0,
            len: if interface.has_address() { 6 } else { 0 },
            mac: [0; 8],
        };
        address.mac.iter_mut().zip(interface.mac()).for_each(|(to, from)| *to = from);
        address
    }

    /// Of the sender of a frame.
    pub(crate) fn of_frame(interface: &Interface, seen: &Seen<'_>) -> LinkAddress {
        let mut address = LinkAddress {
            family: AF_PACKET,
            protocol: seen.protocol().to_be(),
            index: interface.index as i32,
            kind: interface.kind(),
            whom: seen.whom as u8,
            len: 6,
            mac: [0; 8],
        };
        if seen.link_len == 0 {
            return LinkAddress { len: 0, ..address };
        }
        let mut mac = [0; 6];
        seen.bytes.copy_out(6, &mut mac);
        address.mac.iter_mut().zip(mac).for_each(|(to, from)| *to = from);
        address
    }
}

/// `struct tpacket_auxdata`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct AuxData {
    pub(crate) status: u32,
    pub(crate) len: u32,
    pub(crate) snaplen: u32,
    pub(crate) mac: u16,
    pub(crate) net: u16,
    pub(crate) vlan_tci: u16,
    pub(crate) vlan_tpid: u16,
}

/// A frame in a queue.
pub(crate) struct Captured {
    body: Box<[u8]>,
    chunks: SmallVec<[Chunk; 4]>,
    /// Bytes that the program gets; the others are cut off.
    pub(crate) kept: usize,
    /// Bytes there were.
    pub(crate) len: usize,
    /// The link's header among what the program gets.
    pub(crate) link_len: usize,
    pub(crate) address: LinkAddress,
    pub(crate) sum: u32,
    pub(crate) time_ns: u64,
}

impl Captured {
    /// Keeps bytes of a frame from `start` on; `None` without memory.
    pub(crate) fn new(
        interface: &Interface,
        seen: &Seen<'_>,
        (start, kept): (usize, usize),
        time_ns: u64,
    ) -> Option<Captured> {
        let len = seen.bytes.len().saturating_sub(start);
        let (body, chunks) = keep(&seen.bytes, start, kept)?;
        Some(Captured {
            body,
            chunks,
            kept,
            len,
            link_len: seen.link_len.saturating_sub(start),
            address: LinkAddress::of_frame(interface, seen),
            sum: seen.sum,
            time_ns,
        })
    }

    pub(crate) fn memory(&self) -> usize {
        socket::packet_memory(self.len)
    }

    pub(crate) fn auxiliary(&self) -> AuxData {
        AuxData {
            status: 1 | self.sum,
            len: self.len as u32,
            snaplen: self.kept as u32,
            mac: 0,
            net: self.link_len as u16,
            ..AuxData::default()
        }
    }

    /// Puts it into a sink, as much as fits.
    pub(crate) fn put(&self, sink: &mut Sink<'_>) -> Result<usize> {
        let len = self.body.len().min(sink.remaining());
        sink.put_all(self.body.get(..len).unwrap_or(&[]))?;
        let mut done = len;
        for chunk in &self.chunks {
            if sink.is_full() {
                break;
            }
            let wanted = chunk.len().min(sink.remaining());
            if chunk.to_sink(sink)? < wanted {
                return Err(abi::Errno::EFAULT);
            }
            done += wanted;
        }
        Ok(done)
    }
}

type Kept = (Box<[u8]>, SmallVec<[Chunk; 4]>);

fn keep(bytes: &Spread<'_>, start: usize, kept: usize) -> Option<Kept> {
    let heads = bytes.head.len() + bytes.body.len();
    // What lies in slices is copied, and all of what is short.
    let copied = if kept <= SMALL { kept } else { heads.saturating_sub(start).min(kept) };
    let mut body = Vec::new();
    body.try_reserve_exact(copied).ok()?;
    body.resize(copied, 0);
    bytes.copy_out(start, &mut body);
    let mut chunks = SmallVec::new();
    let mut skip = (start + copied).saturating_sub(heads);
    let mut left = kept - copied;
    for chunk in bytes.chunks {
        if left == 0 {
            break;
        }
        if skip >= chunk.len() {
            skip -= chunk.len();
            continue;
        }
        let part = chunk.part(core::mem::take(&mut skip), left);
        left -= part.len();
        chunks.push(part);
    }
    Some((body.into_boxed_slice(), chunks))
}
