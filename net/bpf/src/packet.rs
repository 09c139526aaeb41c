//! What a filter of a socket sees of a packet (Documentation/networking/filter, `linux/filter.h`).

use crate::program::Input;

/// Bytes by their place.
pub trait Bytes {
    /// Copies the bytes from a place on; `false` if there are not as many.
    fn read(&self, at: usize, to: &mut [u8]) -> bool;
}

impl Bytes for &[u8] {
    fn read(&self, at: usize, to: &mut [u8]) -> bool {
        let from = at.checked_add(to.len()).and_then(|end| self.get(at..end));
        from.is_some_and(|from| {
            to.copy_from_slice(from);
            true
        })
    }
}

/// `SKF_NET_OFF`: places from the network header on.
const NETWORK: u32 = -0x10_0000i32 as u32;
/// `SKF_LL_OFF`: places from the link's header on.
const LINK: u32 = -0x20_0000i32 as u32;

/// A packet with what is known of it.
pub struct Packet<'a> {
    /// Its bytes, those before the filter's first one included.
    pub bytes: &'a dyn Bytes,
    /// Where the filter's first byte is.
    pub start: usize,
    /// Where the packet ends.
    pub end: usize,
    /// Where the network header is.
    pub network: usize,
    /// Where the link's header is; none of what came over no link.
    pub link: Option<usize>,
    /// `ETH_P_*`.
    pub protocol: u16,
    /// `PACKET_*`: 0 to this host.
    pub kind: u8,
    /// Number and `ARPHRD_*` of the interface.
    pub interface: Option<(u32, u16)>,
    /// `SO_MARK` of who sent it here.
    pub mark: u32,
    /// The processor.
    pub cpu: u32,
    /// A random number.
    pub random: fn() -> u32,
}

impl Packet<'_> {
    fn at(&self, place: usize, size: usize) -> Option<u32> {
        let mut word = [0u8; 4];
        let to = word.get_mut(4 - size..)?;
        let is_there = place.checked_add(size).is_some_and(|end| end <= self.end);
        (is_there && self.bytes.read(place, to)).then(|| u32::from_be_bytes(word))
    }

    /// A half word of netlink, in the machine's order.
    fn own_half(&self, place: usize) -> Option<usize> {
        self.at(place, 2).map(|half| usize::from((half as u16).swap_bytes()))
    }

    /// The place of an attribute of a netlink message among those from `from` to `end`, counted from the first
    /// byte; 0 if there is none.
    fn attribute(&self, from: usize, end: usize, kind: u32) -> Option<u32> {
        let mut at = self.start.checked_add(from)?;
        let end = self.start.checked_add(end)?.min(self.end);
        while at.checked_add(4)? <= end {
            let len = self.own_half(at)?;
            // The two highest bits are flags.
            let found = self.own_half(at + 2)? & 0x3fff;
            if len < 4 || at + len > end {
                break;
            }
            if found as u32 == kind {
                return u32::try_from(at - self.start).ok();
            }
            at += len.next_multiple_of(4);
        }
        Some(0)
    }

    /// `SKF_AD_NLATTR` and `SKF_AD_NLATTR_NEST`: the attributes begin at A, the kind is X.
    fn netlink(&self, a: u32, kind: u32, is_nested: bool) -> Option<u32> {
        let (from, len) = (a as usize, self.len() as usize);
        if len < 4 || from > len - 4 {
            return Some(0);
        }
        if !is_nested {
            return self.attribute(from, len, kind);
        }
        let inside = self.own_half(self.start + from)?;
        if inside > len - from {
            return Some(0);
        }
        self.attribute(from + 4, from + inside, kind)
    }

    /// `SKF_AD_PAY_OFFSET`: where the payload of TCP, UDP and the like begins, counted from the first byte; what
    /// is not understood begins where understanding ends.
    fn payload(&self) -> Option<u32> {
        let (protocol, at) = match self.protocol {
            0x0800 => {
                let words = self.at(self.network, 1).unwrap_or(0) & 0xf;
                let is_part = self.at(self.network + 6, 2).unwrap_or(0) & 0x1fff != 0;
                let protocol = self.at(self.network + 9, 1).unwrap_or(0);
                (if is_part { 0 } else { protocol }, self.network + words as usize * 4)
            }
            0x86dd => (self.at(self.network + 6, 1).unwrap_or(0), self.network + 40),
            _ => (0, self.network),
        };
        let header = match protocol {
            6 => (self.at(at + 12, 1).unwrap_or(0) >> 4) as usize * 4,
            17 | 1 | 58 | 136 => 8,
            _ => 0,
        };
        u32::try_from((at + header).min(self.end).checked_sub(self.start)?).ok()
    }
}

impl Input for Packet<'_> {
    const HAS_FACTS: bool = true;

    fn len(&self) -> u32 {
        u32::try_from(self.end.saturating_sub(self.start)).unwrap_or(u32::MAX)
    }

    fn load(&self, at: u32, size: u8) -> Option<u32> {
        let (base, offset) = match at {
            NETWORK.. => (self.network, at - NETWORK),
            LINK.. => (self.link?, at - LINK),
            _ if at > i32::MAX as u32 => return None,
            _ => (self.start, at),
        };
        self.at(base.checked_add(offset as usize)?, usize::from(size))
    }

    fn fact(&self, what: u32, a: u32, x: u32) -> Option<u32> {
        Some(match what {
            0 => u32::from(self.protocol),
            4 => u32::from(self.kind),
            8 => self.interface?.0,
            12 => self.netlink(a, x, false)?,
            16 => self.netlink(a, x, true)?,
            20 => self.mark,
            28 => u32::from(self.interface?.1),
            36 => self.cpu,
            52 => self.payload()?,
            56 => (self.random)(),
            // The queue, the hash and the tag: what comes here has none.
            _ => 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(bytes: &dyn Bytes, end: usize) -> Packet<'_> {
        Packet {
            bytes,
            start: 14,
            end,
            network: 14,
            link: Some(0),
            protocol: 0x0800,
            kind: 4,
            interface: Some((3, 772)),
            mark: 7,
            cpu: 1,
            random: || 9,
        }
    }

    #[test]
    fn headers_before_the_first_byte_are_reached_by_their_names() {
        let mut frame = vec![0u8; 14];
        frame[12] = 8;
        frame.extend([0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        frame.extend([0, 1, 0, 2, 0, 12, 0, 0, 9, 9, 9, 9]);
        let (bytes, len) = (&frame[..], frame.len());
        let seen = packet(&bytes, len);
        assert_eq!(seen.load(0, 1), Some(0x45));
        assert_eq!((seen.load(NETWORK + 9, 1), seen.load(LINK + 12, 2)), (Some(17), Some(0x0800)));
        assert_eq!(
            (seen.load(28, 4), seen.load(29, 4), seen.load(u32::MAX, 1)),
            (Some(0x0909_0909), None, None)
        );
        assert_eq!(seen.fact(52, 0, 0), Some(28));
        assert_eq!(
            [0, 4, 8, 20, 28, 36, 56].map(|n| seen.fact(n, 0, 0)),
            [0x800, 4, 3, 7, 772, 1, 9].map(Some)
        );
        let lost = Packet { link: None, interface: None, ..packet(&bytes, len) };
        assert_eq!((lost.load(LINK, 1), lost.fact(8, 0, 0)), (None, None));
    }

    #[test]
    fn attributes_are_found_and_nested_ones_inside() {
        let mut bytes = vec![0u8; 14];
        bytes.extend([8, 0, 1, 0, 1, 1, 1, 1, 12, 0, 2, 0, 8, 0, 5, 0, 2, 2, 2, 2]);
        let bytes = &bytes[..];
        let seen = packet(&bytes, bytes.len());
        assert_eq!(
            (seen.fact(12, 0, 1), seen.fact(12, 0, 2), seen.fact(12, 0, 5)),
            (Some(0), Some(8), Some(0))
        );
        assert_eq!(
            (seen.fact(16, 8, 5), seen.fact(16, 8, 6), seen.fact(12, 99, 1)),
            (Some(12), Some(0), Some(0))
        );
    }
}
