//! Options of udp(7), and datagrams that are put together of several sends.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use ::socket::OptionOut;
use abi::{Errno, Result};
use arch::uio::Source;
use netdevice::{Endpoint, Way};

use super::datagram::Payload;
use super::socket::{MAX4, UdpSocket};

const UDP_CORK: i32 = 1;
const UDP_ENCAP: i32 = 100;
const UDP_NO_CHECK6_TX: i32 = 101;
const UDP_NO_CHECK6_RX: i32 = 102;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;

impl UdpSocket {
    /// Gathers the parts of a datagram; the one that is not followed by more sends it.
    pub(super) fn send_corked(
        &self,
        source: &mut Source<'_>,
        from: Endpoint,
        to: Endpoint,
        way: &Way,
        more: bool,
    ) -> Result<usize> {
        let len = source.remaining();
        let part = Payload::take(source)?.to_vec();
        let whole = {
            let mut inner = self.inner.lock();
            let (to, mut whole) = inner.corked.take().unwrap_or((to, Vec::new()));
            if whole.len() + part.len() > MAX4 {
                return Err(Errno::EMSGSIZE);
            }
            whole.extend_from_slice(&part);
            if more {
                inner.corked = Some((to, whole));
                return Ok(len);
            }
            (to, whole)
        };
        self.transmit(from, whole.0, way, Payload::Small(whole.1.into_boxed_slice()))?;
        Ok(len)
    }

    pub(super) fn set_udp_option(&self, name: i32, value: i32) -> Result<()> {
        match name {
            UDP_CORK => {
                self.corks.store(value != 0, Ordering::Relaxed);
                if value == 0 {
                    let corked = self.inner.lock().corked.take();
                    if let Some((to, whole)) = corked {
                        let (from, _, way) = self.connected_way()?;
                        let data = Payload::Small(whole.into_boxed_slice());
                        self.transmit(from, to, &way, data)?;
                    }
                }
                Ok(())
            }
            UDP_NO_CHECK6_TX | UDP_NO_CHECK6_RX => {
                let bit = if name == UDP_NO_CHECK6_TX { 1 } else { 2 };
                if value != 0 {
                    self.no_check6.fetch_or(bit, Ordering::Relaxed);
                } else {
                    self.no_check6.fetch_and(!bit, Ordering::Relaxed);
                }
                Ok(())
            }
            UDP_ENCAP | UDP_SEGMENT | UDP_GRO => Err(Errno::ENOPROTOOPT),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    pub(super) fn get_udp_option(&self, name: i32, value: &mut OptionOut<'_>) -> Result<()> {
        let bits = self.no_check6.load(Ordering::Relaxed);
        value.int(match name {
            UDP_CORK => i32::from(self.corks.load(Ordering::Relaxed)),
            UDP_ENCAP | UDP_SEGMENT => 0,
            UDP_NO_CHECK6_TX => i32::from(bits & 1 != 0),
            UDP_NO_CHECK6_RX => i32::from(bits & 2 != 0),
            _ => return Err(Errno::ENOPROTOOPT),
        })
    }
}
