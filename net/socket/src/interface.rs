//! The interface between system calls and protocol families.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use abi::socket::*;
use abi::{Errno, Result};
use arch::addr::VirtAddr;
use arch::lock::Once;
use arch::uio::{Sink, Source};
use sched::WaitQueue;
use vfs::{Context, Creds, PageSink, PollTable};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::address::Address;
use crate::ancillary::Ancillary;
use crate::common::Common;
use crate::namespace::NetNamespace;
use crate::options;

/// Which control messages of `SOL_SOCKET` a family takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scm {
    /// Descriptors and credentials, checked (`AF_UNIX`).
    Rights,
    /// Credentials, checked (`AF_NETLINK`).
    Credentials,
    /// All come as [`Ancillary::Raw`]; descriptors and credentials are left out.
    Raw,
}

/// Who calls, and from which network namespace.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The caller's view of the tree, credentials and limits.
    pub fs: &'a Context<'a>,
    /// The caller's network namespace: where new sockets live. An existing socket stays where it
    /// was made ([`Common::namespace`]).
    pub namespace: &'a Arc<NetNamespace>,
}

impl Call<'_> {
    /// The caller's credentials.
    pub fn creds(&self) -> &Arc<Creds> {
        self.fs.creds
    }
}

/// What a send carries besides the data.
#[derive(Default)]
pub struct SendMessage<'a> {
    /// `MSG_*`; `MSG_DONTWAIT` is set for a non-blocking file as well.
    pub flags: u32,
    /// Where to, if the call names it.
    pub address: Option<&'a Address>,
    /// Control messages. A family takes those that it uses out of the list.
    pub control: Vec<Ancillary>,
    /// Who calls; `write(2)` and its relatives do not say.
    pub call: Option<&'a Call<'a>>,
}

impl SendMessage<'_> {
    /// Whether the call must not wait.
    pub fn is_nonblocking(&self) -> bool {
        self.flags & MSG_DONTWAIT != 0
    }
}

/// What a receive asks for and gets besides the data.
#[derive(Default)]
pub struct RecvMessage {
    /// `MSG_*` of the call; `MSG_DONTWAIT` is set for a non-blocking file as well.
    pub flags: u32,
    /// Whether the caller wants the sender's address.
    pub wants_address: bool,
    /// Whether the caller has room for control messages; where not, what came is dropped
    /// and [`result_flags`](Self::result_flags) gets `MSG_CTRUNC`.
    pub wants_control: bool,
    /// The sender's address; empty where there is none.
    pub address: Address,
    /// The control messages that came.
    pub control: Vec<Ancillary>,
    /// `MSG_TRUNC`, `MSG_CTRUNC`, `MSG_OOB`, `MSG_EOR`, `MSG_ERRQUEUE` of what came.
    pub result_flags: u32,
}

impl RecvMessage {
    /// Whether the call must not wait.
    pub fn is_nonblocking(&self) -> bool {
        self.flags & MSG_DONTWAIT != 0
    }

    /// Hands a control message over; where there is no room for any it is dropped, which is told.
    pub fn give(&mut self, control: Ancillary) {
        if self.wants_control {
            self.control.push(control);
        } else {
            self.result_flags |= MSG_CTRUNC;
        }
    }
}

/// `how` of `shutdown(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// `SHUT_RD`.
    Read,
    /// `SHUT_WR`.
    Write,
    /// `SHUT_RDWR`.
    Both,
}

impl Shutdown {
    /// The meaning of a number; `EINVAL` for what is none.
    pub fn new(how: u32) -> Result<Shutdown> {
        Ok(match how {
            SHUT_RD => Shutdown::Read,
            SHUT_WR => Shutdown::Write,
            SHUT_RDWR => Shutdown::Both,
            _ => return Err(Errno::EINVAL),
        })
    }
    /// Whether nothing is to be received any more.
    pub fn reads(self) -> bool {
        self != Shutdown::Write
    }
    /// Whether nothing is to be sent any more.
    pub fn writes(self) -> bool {
        self != Shutdown::Read
    }
}

/// The value that `setsockopt(2)` gives.
pub struct OptionIn<'a> {
    source: Source<'a>,
    len: usize,
}

impl<'a> OptionIn<'a> {
    /// `len` bytes of `source`.
    pub fn new(source: Source<'a>, len: usize) -> OptionIn<'a> {
        OptionIn { source, len }
    }

    /// Bytes the caller says it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the caller gives nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A structure: `EINVAL` if there are fewer bytes, `EFAULT` if they cannot be read.
    pub fn read<T: FromBytes + IntoBytes + FromZeros>(&mut self) -> Result<T> {
        if self.len < size_of::<T>() {
            return Err(Errno::EINVAL);
        }
        let mut value = T::new_zeroed();
        self.source.take_all(value.as_mut_bytes())?;
        Ok(value)
    }

    /// An `int`.
    pub fn int(&mut self) -> Result<i32> {
        self.read()
    }

    /// As many bytes as there are and `buffer` takes; how many.
    pub fn bytes(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let len = self.len.min(buffer.len());
        self.source.take_all(buffer.get_mut(..len).unwrap_or_default())?;
        Ok(len)
    }
}

/// Where `getsockopt(2)` puts a value.
pub struct OptionOut<'a> {
    sink: Sink<'a>,
    room: usize,
    /// What the program left where the value goes.
    input: Option<Source<'a>>,
    /// What the call says the length is.
    len: usize,
}

impl<'a> OptionOut<'a> {
    /// Up to `room` bytes go to `sink`.
    pub fn new(sink: Sink<'a>, room: usize) -> OptionOut<'a> {
        OptionOut { sink, room, input: None, len: 0 }
    }

    /// For options that read what is there before they answer.
    pub fn with_input(self, input: Source<'a>) -> OptionOut<'a> {
        OptionOut { input: Some(input), ..self }
    }

    /// What is there before the answer.
    pub fn given<T: FromBytes + IntoBytes + FromZeros>(&mut self) -> Result<T> {
        let mut value = T::new_zeroed();
        self.input.as_mut().ok_or(Errno::EFAULT)?.take_all(value.as_mut_bytes())?;
        Ok(value)
    }

    /// Bytes the caller has room for.
    pub fn room(&self) -> usize {
        self.room
    }

    /// The length that the caller is told.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was put.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A value, cut to the room there is.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let len = bytes.len().min(self.room);
        self.sink.put_all(bytes.get(..len).unwrap_or_default())?;
        self.len = len;
        Ok(())
    }

    /// Bytes of an option whose lengths are not counted in bytes: all of them.
    pub fn records(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.put_all(bytes)?;
        Ok(())
    }

    /// A structure, cut to the room there is.
    pub fn value<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<()> {
        self.bytes(value.as_bytes())
    }

    /// An `int`.
    pub fn int(&mut self, value: i32) -> Result<()> {
        self.value(&value)
    }

    /// Tells the caller a length without a value (`ERANGE` of `SO_PEERGROUPS`).
    pub fn tell_len(&mut self, len: usize) {
        self.len = len;
    }
}

/// A socket of a family. All but [`common`](Self::common) and what has a default is the family's.
///
/// `EPIPE` from [`send`](Self::send) raises `SIGPIPE` where [`raises_sigpipe`](Self::raises_sigpipe)
/// says so and the call has no `MSG_NOSIGNAL`: the layer above does that.
#[expect(unused_variables, reason = "the defaults ignore their arguments")]
pub trait Socket: Any + Send + Sync {
    /// What every socket has.
    fn common(&self) -> &Common;

    /// `bind(2)`.
    fn bind(&self, call: &Call<'_>, address: &Address) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// `listen(2)`; `backlog` is limited by `net.core.somaxconn` already.
    fn listen(&self, call: &Call<'_>, backlog: u32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// `accept(2)`: the connection's socket, whose [`peer_address`](Self::peer_address) the caller
    /// gets. Waits as `SO_RCVTIMEO` says unless `nonblocking`.
    fn accept(&self, call: &Call<'_>, nonblocking: bool) -> Result<Arc<dyn Socket>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// `connect(2)`. Waits as `SO_SNDTIMEO` says unless `nonblocking`.
    fn connect(&self, call: &Call<'_>, address: &Address, nonblocking: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Where it is told that a `connect` to `address` which was `EAGAIN` may find room: `None` if nothing tells.
    fn connect_queue(&self, call: &Call<'_>, address: &Address) -> Result<Option<Arc<WaitQueue>>> {
        Ok(None)
    }

    /// Sends what `source` has; how many bytes.
    fn send(&self, source: &mut Source<'_>, message: &mut SendMessage<'_>) -> Result<usize>;

    /// Receives into `sink`; how many bytes (the whole length of a datagram with `MSG_TRUNC`).
    fn recv(&self, sink: &mut Sink<'_>, message: &mut RecvMessage) -> Result<usize>;

    /// `shutdown(2)`.
    fn shutdown(&self, how: Shutdown) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// `getsockname(2)`.
    fn local_address(&self) -> Result<Address>;

    /// `getpeername(2)`.
    fn peer_address(&self) -> Result<Address>;

    /// What the socket is ready for (`POLL*`); adds its queues to `table` first.
    fn poll(&self, table: Option<&mut PollTable<'_>>) -> u32;

    /// An option of [`SOL_SOCKET`]. A family that acts on one overrides this and passes the others on
    /// to [`options::set`].
    fn set_socket_option(
        &self,
        call: &Call<'_>,
        name: i32,
        value: &mut OptionIn<'_>,
    ) -> Result<()> {
        options::set(self.common(), call, name, value)
    }

    /// The value of an option of [`SOL_SOCKET`]; see [`options::get`].
    fn get_socket_option(
        &self,
        call: &Call<'_>,
        name: i32,
        value: &mut OptionOut<'_>,
    ) -> Result<()> {
        options::get(self.common(), call, name, value)
    }

    /// An option of another level. `EOPNOTSUPP` for a level, `ENOPROTOOPT` for a name that is not known.
    fn set_option(
        &self,
        call: &Call<'_>,
        level: i32,
        name: i32,
        value: &mut OptionIn<'_>,
    ) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The value of an option of another level.
    fn get_option(
        &self,
        call: &Call<'_>,
        level: i32,
        name: i32,
        value: &mut OptionOut<'_>,
    ) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The number that device control asks for (`SIOCINQ`, `SIOCOUTQ` and their relatives), which the
    /// caller gets as an `int`. What is unknown is `ENOIOCTLCMD`, and interfaces are asked next.
    fn queue_number(&self, cmd: u32) -> Result<usize> {
        Err(Errno::ENOIOCTLCMD)
    }

    /// Which control messages a send takes.
    fn scm(&self) -> Scm {
        Scm::Raw
    }

    /// Whether `EPIPE` comes with `SIGPIPE`.
    fn raises_sigpipe(&self) -> bool {
        self.common().kind == crate::common::Kind::Stream
    }

    /// Passes received pages on without copying; `EINVAL` makes the caller copy.
    fn splice_read(&self, len: usize, nonblocking: bool, out: &mut dyn PageSink) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// What a mapping of the socket takes its pages from.
    fn mmap(&self, args: &vfs::MapArgs) -> Result<Arc<dyn vm::MapSource>> {
        Err(Errno::ENODEV)
    }

    /// The socket has its open file now: what sends `SIGURG`, and what a descriptor in flight refers to.
    fn attached(&self, file: &Arc<vfs::File>) {}

    /// The last descriptor is closed. Called once; nothing else of this trait is called after.
    fn release(&self);

    /// Extra lines of `/proc/PID/fdinfo/N`.
    fn fdinfo(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        Ok(())
    }

    /// For downcasts.
    fn as_any(&self) -> &dyn Any;
}

/// Device control that every socket has: `SIOCGIFCONF` and its relatives, whatever the family.
pub trait DeviceControl: Send + Sync {
    /// `ENOIOCTLCMD` for what is unknown. Acts on the interfaces of the socket's namespace.
    fn ioctl(&self, socket: &dyn Socket, call: &Call<'_>, cmd: u32, arg: VirtAddr)
    -> Result<usize>;
    /// The number of the interface of this name (`SO_BINDTODEVICE`).
    fn index_of(&self, namespace: &NetNamespace, name: &[u8]) -> Option<i32>;
    /// Writes the name of an interface; whether there is one.
    fn name_of(&self, namespace: &NetNamespace, index: i32, out: &mut Vec<u8>) -> bool;
}

static DEVICE_CONTROL: Once<&'static dyn DeviceControl> = Once::new();

/// Registers who answers for interfaces.
pub fn set_device_control(control: &'static dyn DeviceControl) {
    DEVICE_CONTROL.call_once(|| control);
}

pub(crate) fn device_control() -> Option<&'static dyn DeviceControl> {
    DEVICE_CONTROL.get().copied()
}
