//! An address of an interface, and how long it lasts.

use alloc::string::String;

use crate::ip::Ip;

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: Ip,
    /// The length of its network's prefix.
    pub prefix: u8,
    /// The address for all hosts of that network.
    pub broadcast: Option<Ip>,
    /// The other end of a point-to-point link.
    pub peer: Option<Ip>,
    /// `RT_SCOPE_*`: 0 everywhere, 253 on the link, 254 on this host.
    pub scope: u8,
    /// `IFA_F_*`.
    pub flags: u32,
    /// What `ip addr` shows as its label (IPv4).
    pub label: String,
    /// How long it lasts; for ever if it does not say.
    pub lifetime: Option<Lifetime>,
}

/// `IFA_F_SECONDARY`: another address of the same network was there first.
pub(crate) const SECONDARY: u32 = 1;

/// How long an address lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// When it was told, by the monotonic clock.
    pub since_ns: u64,
    /// Seconds from then on that it is used for what is new; `u32::MAX` for ever.
    pub preferred_s: u32,
    /// Seconds from then on that it is there; `u32::MAX` for ever.
    pub valid_s: u32,
}

impl Lifetime {
    /// When it ends.
    pub fn end_ns(&self) -> u64 {
        if self.valid_s == u32::MAX {
            return u64::MAX;
        }
        self.since_ns.saturating_add(u64::from(self.valid_s) * 1_000_000_000)
    }

    /// Seconds that are left: preferred, valid.
    pub fn left(&self, now_ns: u64) -> (u32, u32) {
        let passed = now_ns.saturating_sub(self.since_ns) / 1_000_000_000;
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        let left = |seconds: u32| match seconds {
            u32::MAX => u32::MAX,
            seconds => seconds.saturating_sub(passed),
        };
        (left(self.preferred_s), left(self.valid_s))
    }
}

impl Address {
    /// The network it is in: that of the other end, if there is one (ip-address(8), `peer`).
    pub fn network(&self) -> Ip {
        self.peer.unwrap_or(self.ip).masked(self.prefix)
    }

    /// Whether both are in one network of this length.
    pub fn is_beside(&self, other: &Address) -> bool {
        self.ip.is_v4() == other.ip.is_v4()
            && self.prefix == other.prefix
            && self.network() == other.network()
    }

    /// Whether another address of its network was there before it.
    pub fn is_secondary(&self) -> bool {
        self.flags & SECONDARY != 0
    }

    /// Whether both cannot be on one interface. Of version 4 one address may be there with several networks, of
    /// version 6 but once (case `rtnl-address-errors`).
    pub(crate) fn is_same(&self, other: &Address) -> bool {
        self.ip == other.ip && (!self.ip.is_v4() || self.is_beside(other))
    }

    /// The addresses that mean all hosts of its network: the one that was asked for and the last one, which
    /// networks of one or two hosts (RFC 3021) and those of groups do not have (case `rtnl-addresses`).
    pub fn broadcasts(&self) -> impl Iterator<Item = Ip> + use<> {
        let is_first = self.ip.is_v4() && !self.is_secondary();
        let has_last = is_first && (1..31).contains(&self.prefix) && !self.ip.is_multicast();
        let last = has_last.then(|| self.network().last(self.prefix));
        let asked = self.broadcast.filter(|asked| is_first && Some(*asked) != last);
        asked.into_iter().chain(last)
    }
}
