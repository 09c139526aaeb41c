//! TCP sockets.

mod calls;
mod config;
pub(crate) mod direct;
pub(crate) mod header;
pub(crate) mod listen;
mod options;
pub(crate) mod socket;
pub(crate) mod tcb;
pub(crate) mod timewait;
pub(crate) mod wire;

use alloc::sync::Arc;
use alloc::vec::Vec;

use ::socket::{Patience, Shutdown};
use abi::{Errno, Result};
use arch::lock::LockClass;
use arch::uio::{Sink, Source};
use netdevice::{Endpoint, Tuple};

use crate::ports::Ports;
use crate::table::Sharded;
use direct::Direct;
use listen::Listener;
use timewait::TimeWaits;

static CONNECTIONS: LockClass = LockClass::new("inet.connections", 531);
static LISTENERS: LockClass = LockClass::new("inet.listeners", 530);

/// States of RFC 9293 with Linux's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum State {
    Established = 1,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Closed,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

/// The TCP of a namespace.
pub(crate) struct Tcp {
    pub(crate) ports: Arc<Ports>,
    /// Connections by their two ends.
    pub(crate) connections: Sharded<Tuple, Conn>,
    /// Who listens, by port.
    pub(crate) listeners: Sharded<u16, Vec<Arc<Listener>>>,
    pub(crate) time_wait: Arc<TimeWaits>,
}

impl Tcp {
    pub(crate) fn new(ports: Arc<Ports>, secret: u64) -> Tcp {
        Tcp {
            ports,
            connections: Sharded::new(&CONNECTIONS, secret),
            listeners: Sharded::new(&LISTENERS, secret),
            time_wait: TimeWaits::new(secret),
        }
    }

    /// Enters a connection; `false` if there is one between these ends.
    pub(crate) fn enter(&self, tuple: Tuple, conn: Conn) -> bool {
        self.connections.with(&tuple, |table| {
            if table.contains_key(&tuple) {
                return false;
            }
            table.insert(tuple, conn);
            true
        })
    }

    /// Whether a connection could be entered.
    pub(crate) fn is_free(&self, tuple: &Tuple) -> bool {
        self.connections.with(tuple, |table| !table.contains_key(tuple))
    }

    /// ICMP says that the segment of a connection with this sequence number did not arrive.
    pub(crate) fn unreachable(
        &self,
        local: Endpoint,
        remote: Endpoint,
        sequence: u32,
        error: Errno,
        mtu: Option<u32>,
    ) {
        if let Some(Conn::Wire(connection)) = self.connections.get(&Tuple { local, remote }) {
            connection.unreachable(sequence, error, mtu);
        }
    }

    /// Takes a connection out of the table.
    pub(crate) fn leave(&self, tuple: &Tuple) {
        let gone = self.connections.with(tuple, |table| table.remove(tuple));
        drop(gone);
    }

    /// The namespace has ended: what is left of connections over devices keeps nothing of it.
    pub(crate) fn end(&self) {
        for conn in self.connections.values() {
            if let Conn::Wire(connection) = conn {
                connection.end();
            }
        }
    }
}

/// What a receive wants.
pub(crate) struct Wanted {
    /// Bytes it waits for.
    pub(crate) target: usize,
    /// `MSG_*`.
    pub(crate) flags: u32,
    /// `SO_OOBINLINE`.
    pub(crate) inline: bool,
    pub(crate) patience: Patience,
}

/// How a descriptor that goes leaves its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goodbye {
    /// In order; the system sends what is left.
    Orderly,
    /// `SO_LINGER` with no time: by a reset.
    Abrupt,
}

/// What `TCP_INFO` and `/proc/net/tcp` tell of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) state: State,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Bytes not yet read by the program, and not yet acknowledged.
    pub(crate) unread: usize,
    pub(crate) unacknowledged: usize,
    pub(crate) mss: u32,
    pub(crate) cwnd: u32,
    pub(crate) rtt_us: u32,
    pub(crate) rttvar_us: u32,
    pub(crate) rto_us: u32,
    pub(crate) retransmits: u32,
    pub(crate) ssthresh: u32,
    /// `TCPI_OPT_*`.
    pub(crate) options: u8,
    pub(crate) ino: u64,
    pub(crate) uid: u32,
}

/// A connection.
#[derive(Clone)]
pub(crate) enum Conn {
    /// With an end on this machine: no packets.
    Direct(Direct),
    /// With another machine.
    Wire(Arc<wire::Connection>),
}

macro_rules! each {
    ($conn:expr, $inner:ident => $act:expr) => {
        match $conn {
            Conn::Direct($inner) => $act,
            Conn::Wire($inner) => $act,
        }
    };
}

impl Conn {
    pub(crate) fn tuple(&self) -> Tuple {
        each!(self, c => c.tuple())
    }
    pub(crate) fn state(&self) -> State {
        each!(self, c => c.state())
    }
    #[inline]
    pub(crate) fn send(
        &self,
        source: &mut Source<'_>,
        flags: u32,
        wait: Patience,
    ) -> Result<usize> {
        each!(self, c => c.send(source, flags, wait))
    }
    #[inline]
    pub(crate) fn recv(&self, sink: &mut Sink<'_>, wanted: &Wanted) -> Result<usize> {
        each!(self, c => c.recv(sink, wanted))
    }
    pub(crate) fn shutdown(&self, how: Shutdown) {
        each!(self, c => c.shutdown(how));
    }
    pub(crate) fn close(&self, how: Goodbye) {
        each!(self, c => c.close(how));
    }
    pub(crate) fn poll(&self, lowat: usize) -> u32 {
        each!(self, c => c.poll(lowat))
    }
    pub(crate) fn take_error(&self) -> Option<abi::Errno> {
        each!(self, c => c.take_error())
    }
    pub(crate) fn inq(&self) -> usize {
        each!(self, c => c.inq())
    }
    pub(crate) fn outq(&self) -> usize {
        each!(self, c => c.outq())
    }
    pub(crate) fn is_at_mark(&self) -> bool {
        each!(self, c => c.is_at_mark())
    }
    pub(crate) fn take_urgent(&self, peek: bool) -> Result<u8> {
        each!(self, c => c.take_urgent(peek))
    }
    pub(crate) fn facts(&self) -> Facts {
        each!(self, c => c.facts())
    }
    pub(crate) fn set_limits(&self, sndbuf: usize, rcvbuf: usize) {
        each!(self, c => c.set_limits(sndbuf, rcvbuf));
    }
    pub(crate) fn set_owner(&self, ino: u64, uid: u32) {
        each!(self, c => c.set_owner(ino, uid));
    }
    pub(crate) fn queues(&self) -> (Arc<sched::WaitQueue>, Arc<sched::WaitQueue>) {
        each!(self, c => c.queues())
    }
}
