//! Connections: made, refused, shut down and closed.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::socket::AF_UNSPEC;
use abi::{Errno, Result};
use sched::Listener;
use socket::{Address, Call, PeerCred, Shutdown};

use crate::name;
use crate::sock::{
    BOTH_SHUT, CONNECTED, DEAD, Inbox, READABLE, RECV_SHUT, SEND_SHUT, UNACCEPTED, Unix, WRITABLE,
};

/// What changes with a socket's name and connection.
#[derive(Default)]
pub(crate) struct Control {
    /// Who tells this datagram socket that its peer has room again.
    forward: Option<Forwarding>,
}

/// A registration with the peer of a datagram socket.
struct Forwarding {
    peer: Arc<Unix>,
    id: u64,
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.peer.room.remove_listener(self.id);
    }
}

/// Passes on to the senders connected to a datagram socket that it takes packets again.
struct Forward(alloc::sync::Weak<Unix>);

impl Listener for Forward {
    fn notify(&self, _events: u32) {
        if let Some(socket) = self.0.upgrade() {
            socket.writable.notify(WRITABLE);
        }
    }
}

/// The connections that nobody has accepted yet.
#[derive(Default)]
pub(crate) struct Pending {
    sockets: VecDeque<Arc<Unix>>,
    backlog: usize,
    is_closed: bool,
}

impl Pending {
    pub(crate) fn has_some(&self) -> bool {
        !self.sockets.is_empty()
    }

    pub(crate) fn list(&self) -> Vec<Arc<Unix>> {
        self.sockets.iter().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.sockets.len()
    }

    fn is_full(&self) -> bool {
        self.sockets.len() > self.backlog
    }
}

/// Connects the two sockets of a pair.
pub(crate) fn join(first: &Arc<Unix>, second: &Arc<Unix>) {
    let own = PeerCred::current();
    for (socket, peer) in [(first, second), (second, first)] {
        socket.common.set_peer(Some(own.clone()));
        socket.peer.set(Some(peer.clone()));
        if socket.is_connection() {
            socket.add_state(CONNECTED);
        }
    }
}

/// `listen(2)`.
pub(crate) fn listen(socket: &Unix, backlog: u32) -> Result<()> {
    if !socket.is_connection() {
        return Err(Errno::EOPNOTSUPP);
    }
    let _control = socket.control.lock();
    if socket.bound.get().is_none() || socket.has(CONNECTED) {
        return Err(Errno::EINVAL);
    }
    let grows = {
        let mut pending = socket.pending.lock();
        let grows = backlog as usize > pending.backlog;
        pending.backlog = backlog as usize;
        grows
    };
    // Those who connect are shown who listens.
    socket.common.set_peer(Some(PeerCred::current()));
    socket.common.set_listening(true);
    if grows {
        socket.room.notify(WRITABLE);
    }
    Ok(())
}

/// `accept(2)`.
pub(crate) fn accept(socket: &Unix, nonblocking: bool) -> Result<Arc<Unix>> {
    if !socket.is_connection() {
        return Err(Errno::EOPNOTSUPP);
    }
    if !socket.is_listening() {
        return Err(Errno::EINVAL);
    }
    let take = || {
        let mut pending = socket.pending.lock();
        let was_full = pending.is_full();
        let next = pending.sockets.pop_front();
        next.map(|next| (next, was_full, pending.has_some()))
    };
    let (accepted, was_full, has_more) = match take() {
        Some(found) => found,
        None => {
            let is_over = || socket.has(RECV_SHUT);
            let patience = socket.common.recv_patience(nonblocking);
            let found = patience.wait(&socket.readable, || match take() {
                Some(found) => Some(Ok(found)),
                None if is_over() => Some(Err(Errno::EINVAL)),
                None => None,
            })?;
            found?
        }
    };
    accepted.clear_state(UNACCEPTED);
    if was_full {
        socket.room.notify_one(WRITABLE);
    }
    if has_more {
        socket.readable.wake_one();
    }
    Ok(accepted)
}

/// `connect(2)`.
pub(crate) fn connect(
    socket: &Unix,
    call: &Call<'_>,
    address: &Address,
    nonblocking: bool,
) -> Result<()> {
    if socket.is_connection() {
        connect_stream(socket, call, address, nonblocking)
    } else {
        connect_datagram(socket, call, address)
    }
}

/// Names the receiver of a datagram socket's packets; `AF_UNSPEC` names none.
fn connect_datagram(socket: &Unix, call: &Call<'_>, address: &Address) -> Result<()> {
    if address.len() < 2 {
        return Err(Errno::EINVAL);
    }
    let peer = if address.family() == AF_UNSPEC {
        None
    } else {
        let mut control = socket.control.lock();
        name::auto_bind_for_credentials(socket, Some(&mut control))?;
        drop(control);
        let peer = name::find(socket, call, address)?;
        let theirs = peer.peer.get();
        if theirs.is_some_and(|theirs| !core::ptr::eq(&*theirs, socket)) {
            return Err(Errno::EPERM);
        }
        Some(peer)
    };
    let mut control = socket.control.lock();
    let old = socket.peer.get();
    let is_other = match (&old, &peer) {
        (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
        (Some(_), None) => true,
        _ => false,
    };
    let forward = peer.clone().map(|peer| {
        let id = peer.room.add_listener(Arc::new(Forward(socket.this.clone())), 0);
        Forwarding { peer, id }
    });
    let replaced = core::mem::replace(&mut control.forward, forward);
    socket.peer.set(peer);
    drop(control);
    drop(replaced);
    if is_other {
        // What the old peer sent is not for the new conversation.
        discard(socket);
        if let Some(old) = old {
            old.writable.notify(WRITABLE);
        }
    }
    socket.writable.notify(WRITABLE);
    Ok(())
}

fn discard(socket: &Unix) {
    let dropped = {
        let mut inbox = socket.inbox.lock();
        let Inbox::Packets(packets) = &mut *inbox else { return };
        let dropped = packets.clear();
        socket.unread.store(0, core::sync::atomic::Ordering::Release);
        dropped
    };
    drop(dropped);
    socket.room.notify(WRITABLE);
}

fn connect_stream(
    socket: &Unix,
    call: &Call<'_>,
    address: &Address,
    nonblocking: bool,
) -> Result<()> {
    {
        let mut control = socket.control.lock();
        name::auto_bind_for_credentials(socket, Some(&mut control))?;
    }
    let mut patience = None;
    loop {
        let listener = name::find(socket, call, address)?;
        if !listener.is_listening() || listener.has(RECV_SHUT) {
            return Err(Errno::ECONNREFUSED);
        }
        if try_connect(socket, &listener)? {
            listener.readable.notify_one(READABLE);
            return Ok(());
        }
        let patience = patience.get_or_insert_with(|| socket.common.send_patience(nonblocking));
        if !patience.may_wait() {
            return Err(Errno::EAGAIN);
        }
        patience.wait(&listener.room, || {
            let pending = listener.pending.lock();
            (!pending.is_full() || pending.is_closed || listener.has(RECV_SHUT)).then_some(())
        })?;
    }
}

/// Connects unless the listener's queue is full; whether it did.
fn try_connect(socket: &Unix, listener: &Arc<Unix>) -> Result<bool> {
    if listener.pending.lock().is_full() {
        return Ok(false);
    }
    let _control = socket.control.lock();
    if socket.has(CONNECTED) {
        return Err(Errno::EISCONN);
    }
    if socket.is_listening() {
        return Err(Errno::EINVAL);
    }
    let own = socket.this.upgrade().ok_or(Errno::EINVAL)?;
    let server = Unix::new(&socket.common.namespace, socket.common.kind);
    if let Some(bound) = listener.bound.get() {
        server.bound.call_once(|| bound.clone());
    }
    server.common.options.inherit(&listener.common.options);
    server.common.set_peer(Some(PeerCred::current()));
    server.peer.set(Some(own));
    server.add_state(CONNECTED | UNACCEPTED);
    let mut pending = listener.pending.lock();
    if pending.is_closed || pending.is_full() {
        let is_closed = pending.is_closed;
        drop(pending);
        server.peer.set(None);
        return if is_closed { Err(Errno::ECONNREFUSED) } else { Ok(false) };
    }
    // The connection stands before anybody can accept it.
    socket.peer.set(Some(server.clone()));
    socket.add_state(CONNECTED);
    pending.sockets.push_back(server);
    drop(pending);
    socket.common.set_peer(listener.common.peer());
    socket.writable.notify(WRITABLE);
    Ok(true)
}

/// `shutdown(2)`: what one end does not receive any more, the other does not send, and so on.
pub(crate) fn shutdown(socket: &Unix, how: Shutdown) {
    let mut own = 0;
    let mut theirs = 0;
    if how.reads() {
        own |= RECV_SHUT;
        theirs |= SEND_SHUT;
    }
    if how.writes() {
        own |= SEND_SHUT;
        theirs |= RECV_SHUT;
    }
    socket.add_state(own);
    if socket.is_connection()
        && let Some(peer) = socket.peer.get()
    {
        peer.add_state(theirs);
        peer.tell_all();
    }
    socket.tell_all();
}

/// What the peer is told of data that the closed socket has not received.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// `ECONNRESET` if there is some.
    Reset,
    /// `ECONNRESET`: nobody ever accepted the connection.
    NeverAccepted,
}

/// The last descriptor is gone.
pub(crate) fn close(socket: &Unix, unread: Unread) {
    name::unbind(socket);
    let (had_data, dropped) = {
        let mut inbox = socket.inbox.lock();
        socket.add_state(DEAD | BOTH_SHUT);
        let had_data = socket.unread() > 0;
        socket.unread.store(0, core::sync::atomic::Ordering::Release);
        let dropped = match &mut *inbox {
            Inbox::Stream(inbox) => {
                socket.charged.store(0, core::sync::atomic::Ordering::Release);
                (Some(inbox.clear()), None)
            }
            Inbox::Packets(inbox) => (None, Some(inbox.clear())),
        };
        (had_data, dropped)
    };
    drop(dropped);
    let forward = socket.control.lock().forward.take();
    drop(forward);
    if let Some(peer) = socket.peer.get() {
        if socket.is_connection() {
            peer.add_state(BOTH_SHUT);
            if had_data || unread == Unread::NeverAccepted {
                peer.common.set_error(Errno::ECONNRESET);
            }
            peer.tell_all();
        }
        socket.peer.set(None);
    }
    let refused = {
        let mut pending = socket.pending.lock();
        pending.is_closed = true;
        core::mem::take(&mut pending.sockets)
    };
    refused.iter().for_each(|server| close(server, Unread::NeverAccepted));
    socket.tell_all();
}
