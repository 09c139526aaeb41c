//! Datagrams between sockets of this machine, which are handed over without headers: the headers they would have, for
//! who looks at them, and for the message of ICMP when nobody has the port.

use netdevice::{Endpoint, Sum};

use super::datagram::Payload;
use super::socket::UdpSocket;
use crate::icmp;
use crate::ipout::{self, About};
use crate::stack::count;

impl UdpSocket {
    /// Shows a datagram that is handed over to the programs that listen to the loopback interface.
    #[cold]
    pub(super) fn show(&self, from: Endpoint, to: Endpoint, how: (u8, u8), data: &Payload) {
        let (transport, about) = self.headers(from, to, how, data);
        crate::loopback::show(&self.inet, &about, &transport, &data.spread(&[]), false);
    }

    /// The headers of a datagram that is handed over without.
    fn headers(
        &self,
        from: Endpoint,
        to: Endpoint,
        (hops, tos): (u8, u8),
        data: &Payload,
    ) -> ([u8; 8], About) {
        let len = 8 + data.len();
        let [a, b] = from.port.to_be_bytes();
        let [c, d] = to.port.to_be_bytes();
        let [e, f] = (len as u16).to_be_bytes();
        // What a device is given that computes the sum: that of the pseudo header.
        let [g, h] = Sum::pseudo(from.ip, to.ip, 17, len).folded().to_be_bytes();
        let about = About { from: from.ip, to: to.ip, protocol: 17, hops, tos };
        ([a, b, c, d, e, f, g, h], about)
    }

    /// Nobody has the port that a datagram for this host is for: the message of ICMP that would come of it.
    #[cold]
    pub(super) fn refuse(
        &self,
        from: Endpoint,
        to: Endpoint,
        (hops, tos): (u8, u8),
        data: &Payload,
    ) {
        let inet = &self.inet;
        let (transport, about) = self.headers(from, to, (hops, tos), data);
        let len = transport.len() + data.len();
        let mut quoted = if to.ip.is_v4() {
            ipout::header4(&about, len).to_vec()
        } else {
            ipout::header6(&about, len).to_vec()
        };
        quoted.extend(transport);
        let at = quoted.len();
        quoted.resize(at + data.len().min(icmp::MOST_QUOTED), 0);
        data.spread(&[]).copy_out(0, quoted.get_mut(at..).unwrap_or_default());
        let how = if to.ip.is_v4() { (3, 3) } else { (1, 4) };
        if let Some((about, message)) = icmp::complain(to.ip, from.ip, how, quoted) {
            count(&inet.counters.icmp_out);
            ipout::deliver(inet, &about, 1, &message);
        }
    }
}
