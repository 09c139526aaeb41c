//! Which frames a program wants (`TUNSETTXFILTER`), and which of several queues has a frame.

use abi::tun::TUN_FLT_ALLMULTI;
use abi::{Errno, Result};
use hashbrown::HashSet;
use netdevice::Spread;

/// `TUN_FLT_*` and the addresses of those whose frames are wanted.
#[derive(Default)]
pub(crate) struct Wanted {
    takes_groups: bool,
    addresses: HashSet<[u8; 6]>,
}

/// Addresses that are told one from another on Linux; who is beyond them has to be a group.
const EXACT: usize = 8;

impl Wanted {
    /// A filter of these addresses, and what the call says: how many are told apart. None for one that wants all.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(flags: u16, given: &[[u8; 6]]) -> Result<(Option<Wanted>, usize)> {
        let is_group = |mac: &[u8; 6]| mac[0] & 1 != 0;
        let is_beyond = given.iter().skip(EXACT).any(|mac| !is_group(mac));
        if given.is_empty() || is_beyond {
            return Ok((None, 0));
        }
        let takes_groups = flags & TUN_FLT_ALLMULTI != 0;
        let mut addresses = HashSet::new();
        // A program says how many there are.
        addresses.try_reserve(given.len()).map_err(|_| Errno::ENOMEM)?;
        addresses.extend(given.iter().copied());
        Ok((Some(Wanted { takes_groups, addresses }), given.len().min(EXACT)))
    }

    /// Whether a frame for this address is wanted.
    pub(crate) fn has(&self, to: [u8; 6]) -> bool {
        (self.takes_groups && to[0] & 1 != 0) || self.addresses.contains(&to)
    }
}

/// A number by which packets of one flow go the same way: of its addresses and ports.
pub(crate) fn flow(bytes: &Spread<'_>, link: usize) -> usize {
    let mut head = [0u8; 44];
    bytes.copy_out(link, &mut head);
    let is_v6 = head[0] >> 4 == 6;
    let transport = if is_v6 { 40 } else { usize::from(head[0] & 15) * 4 };
    let addresses = if is_v6 { head.get(8..40) } else { head.get(12..20) };
    // Fragments have no ports: all of a packet go one way.
    let is_part = !is_v6 && (head[6] & 0x3f, head[7]) != (0, 0);
    let ports = head.get(transport..transport + 4).filter(|_| !is_part);
    let all = addresses.unwrap_or_default().iter().chain(ports.unwrap_or_default());
    // FNV-1a: spreads, and nothing depends on who can guess it.
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let hash = all.fold(0xcbf2_9ce4_8422_2325, step);
    (hash ^ hash >> 32) as u32 as usize
}
