//! Sockets, of the local family and over the loopback interface.

use std::mem::{size_of_val, zeroed};
use std::ptr;

use crate::ipc::{echo, transfer};
use crate::meter::{Cost, Failure, each};
use crate::rows::Rows;
use crate::sys::{Fd, ok};

/// Adds the rows about sockets to the group of communication between processes.
pub fn add(rows: &mut Rows) {
    local(rows);
    internet(rows);
}

fn local(rows: &mut Rows) {
    let stream = libc::SOCK_STREAM;
    for (name, kind) in [("stream", stream), ("datagram", libc::SOCK_DGRAM)] {
        rows.add(format!("unix {name} ping-pong"), move || {
            let [near, far] = pair(kind)?;
            echo(1_800, [&near, &near], [&far, &far])
        });
    }
    rows.add("unix transfer 64 KiB", move || {
        let [near, far] = pair(stream)?;
        transfer(800, &near, &far)
    });
    rows.add("unix connect+accept", || {
        let (address, len) = abstract_name();
        let listener = listener(libc::AF_UNIX, &address, len)?;
        each(1_800, || connects(&listener, libc::AF_UNIX, &address, len))
    });
}

/// Two local sockets that are connected.
fn pair(kind: i32) -> Result<[Fd; 2], Failure> {
    let mut ends = [-1; 2];
    // SAFETY: `ends` has room for two descriptors.
    ok("socketpair", unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    let [near, far] = ends.map(|fd| Fd::new("socketpair", fd));
    Ok([near?, far?])
}

/// A name of the local family that is in no file system.
fn abstract_name() -> (libc::sockaddr_un, u32) {
    // SAFETY: all zero is a valid address.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    for (to, from) in address.sun_path.iter_mut().zip(b"\0microbench") {
        *to = *from as libc::c_char;
    }
    (address, (size_of_val(&address.sun_family) + "\0microbench".len()) as u32)
}

/// A new socket.
fn socket(family: i32, kind: i32) -> Result<Fd, Failure> {
    // SAFETY: no pointers.
    Fd::new("socket", unsafe { libc::socket(family, kind, 0) })
}

/// A stream socket that listens at an address of `len` bytes.
fn listener<A>(family: i32, address: &A, len: u32) -> Result<Fd, Failure> {
    let listener = socket(family, libc::SOCK_STREAM)?;
    // SAFETY: the callers pass an address of the family, of this length.
    ok("bind", unsafe { libc::bind(listener.raw(), ptr::from_ref(address).cast(), len) })?;
    // SAFETY: no pointers.
    ok("listen", unsafe { libc::listen(listener.raw(), 16) })?;
    Ok(listener)
}

/// `connect(2)`.
fn connect<A>(socket: &Fd, address: &A, len: u32) -> Result<i64, Failure> {
    let address = ptr::from_ref(address).cast();
    // SAFETY: the callers pass an address of the socket's family, of this length.
    ok("connect", unsafe { libc::connect(socket.raw(), address, len) })
}

/// The next connection of a listener.
fn accept(listener: &Fd) -> Result<Fd, Failure> {
    let nobody = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: nobody wants the peer's address.
    Fd::new("accept", unsafe { libc::accept(listener.raw(), nobody.0, nobody.1) })
}

/// Connects to a listener, accepts and closes both ends, without leaving a port in wait: whether that
/// worked.
fn connects<A>(listener: &Fd, family: i32, address: &A, len: u32) -> bool {
    let connection = || {
        let client = socket(family, libc::SOCK_STREAM)?;
        if family == libc::AF_INET {
            let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
            set(&client, libc::SOL_SOCKET, libc::SO_LINGER, &at_once)?;
        }
        connect(&client, address, len)?;
        let server = accept(listener)?;
        drop(client);
        drop(server);
        Ok::<(), Failure>(())
    };
    connection().is_ok()
}

/// `setsockopt(2)`.
fn set<V>(socket: &Fd, level: i32, option: i32, value: &V) -> Result<i64, Failure> {
    let (start, len) = (ptr::from_ref(value).cast(), size_of_val(value) as u32);
    // SAFETY: the value is as long as stated.
    ok("setsockopt", unsafe { libc::setsockopt(socket.raw(), level, option, start, len) })
}

fn internet(rows: &mut Rows) {
    rows.add("udp ping-pong", || {
        let (near, near_address) = bound()?;
        let (far, far_address) = bound()?;
        connect(&near, &far_address, INTERNET_LEN)?;
        connect(&far, &near_address, INTERNET_LEN)?;
        echo(1_500, [&near, &near], [&far, &far])
    });
    rows.add("tcp ping-pong", || {
        let (near, far) = tcp()?;
        echo(1_200, [&near, &near], [&far, &far])
    });
    rows.add("tcp transfer 64 KiB", || {
        let (near, far) = tcp()?;
        transfer(1_200, &near, &far)
    });
    rows.add("tcp connect+accept", || tcp_connects(600));
}

/// Bytes of an address of the internet family.
const INTERNET_LEN: u32 = size_of::<libc::sockaddr_in>() as u32;

/// Where a bound socket can be reached.
fn address_of(socket: &Fd) -> Result<libc::sockaddr_in, Failure> {
    let mut len = INTERNET_LEN;
    // SAFETY: room for an address of this length.
    unsafe {
        let mut address: libc::sockaddr_in = zeroed();
        let room = (&raw mut address).cast();
        ok("getsockname", libc::getsockname(socket.raw(), room, &mut len))?;
        Ok(address)
    }
}

/// Any port of this machine.
fn here() -> libc::sockaddr_in {
    // SAFETY: all zero is a valid address.
    let mut address: libc::sockaddr_in = unsafe { zeroed() };
    address.sin_family = libc::AF_INET as u16;
    address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    address
}

/// A datagram socket with a port.
fn bound() -> Result<(Fd, libc::sockaddr_in), Failure> {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    start_loopback(&socket)?;
    let address = here();
    // SAFETY: an address of this length.
    ok("bind", unsafe { libc::bind(socket.raw(), (&raw const address).cast(), INTERNET_LEN) })?;
    let address = address_of(&socket)?;
    Ok((socket, address))
}

/// Two ends of a connection that sends at once.
fn tcp() -> Result<(Fd, Fd), Failure> {
    let near = socket(libc::AF_INET, libc::SOCK_STREAM)?;
    start_loopback(&near)?;
    let listener = listener(libc::AF_INET, &here(), INTERNET_LEN)?;
    connect(&near, &address_of(&listener)?, INTERNET_LEN)?;
    let far = accept(&listener)?;
    for end in [&near, &far] {
        set(end, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1i32)?;
    }
    Ok((near, far))
}

fn tcp_connects(count: u64) -> Cost {
    start_loopback(&socket(libc::AF_INET, libc::SOCK_STREAM)?)?;
    let listener = listener(libc::AF_INET, &here(), INTERNET_LEN)?;
    let address = address_of(&listener)?;
    each(count, || connects(&listener, libc::AF_INET, &address, INTERNET_LEN))
}

/// Brings the loopback interface up, which nobody has done in a small guest.
fn start_loopback(socket: &Fd) -> Result<(), Failure> {
    // SAFETY: a request for the flags of the interface of this name, and then one with flags.
    unsafe {
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        ok("SIOCGIFFLAGS", libc::ioctl(socket.raw(), libc::SIOCGIFFLAGS, &raw mut request))?;
        if i32::from(request.ifr_ifru.ifru_flags) & libc::IFF_UP == 0 {
            request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16;
            ok("SIOCSIFFLAGS", libc::ioctl(socket.raw(), libc::SIOCSIFFLAGS, &raw const request))?;
        }
    }
    Ok(())
}
