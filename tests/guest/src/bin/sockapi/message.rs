//! `sendmsg(2)` and its relatives with control data.

use crate::{errno_name, show};
use std::mem::zeroed;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A control message to send.
pub enum Control {
    Rights(Vec<RawFd>),
    Credentials(libc::ucred),
    Raw { level: i32, kind: i32, data: Vec<u8> },
}

/// What a receive got.
pub struct Received {
    pub count: isize,
    pub error: String,
    pub data: Vec<u8>,
    pub flags: i32,
    pub control_len: usize,
    pub fds: Vec<OwnedFd>,
    pub cred: Option<libc::ucred>,
}

const HEADER: usize = size_of::<libc::cmsghdr>();

/// The names of the flags of a received message.
pub fn names(flags: i32) -> String {
    let known = [
        (libc::MSG_TRUNC, "TRUNC"),
        (libc::MSG_CTRUNC, "CTRUNC"),
        (libc::MSG_OOB, "OOB"),
        (libc::MSG_CMSG_CLOEXEC, "CLOEXEC"),
    ];
    let set: Vec<&str> =
        known.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    let rest = known.iter().fold(flags, |flags, (bit, _)| flags & !bit);
    format!("[{}] {rest:#x}", set.join(" "))
}

fn put(bytes: &mut Vec<u8>, level: i32, kind: i32, data: &[u8]) {
    bytes.extend_from_slice(&(HEADER + data.len()).to_ne_bytes());
    bytes.extend_from_slice(&level.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn encode(control: &[Control]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in control {
        match message {
            Control::Rights(fds) => {
                let data: Vec<u8> = fds.iter().flat_map(|fd| fd.to_ne_bytes()).collect();
                put(&mut bytes, libc::SOL_SOCKET, libc::SCM_RIGHTS, &data);
            }
            Control::Credentials(cred) => {
                let words = [cred.pid as u32, cred.uid, cred.gid];
                let data: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
                put(&mut bytes, libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &data);
            }
            Control::Raw { level, kind, data } => put(&mut bytes, *level, *kind, data),
        }
    }
    bytes
}

/// `sendmsg(2)`.
pub fn send(fd: &OwnedFd, data: &[u8], control: &[Control], flags: i32) -> isize {
    let mut control = encode(control);
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: all zero is a valid header.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control.len();
    }
    // SAFETY: all parts outlive the call.
    unsafe { libc::sendmsg(fd.as_raw_fd(), &header, flags | libc::MSG_NOSIGNAL) }
}

/// `recvmsg(2)` with room for `len` bytes and `control` bytes of control data.
pub fn recv(fd: &OwnedFd, len: usize, control: usize, flags: i32) -> Received {
    let mut data = vec![0u8; len];
    let mut room = vec![0u64; control.div_ceil(8).max(1)];
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: len };
    // SAFETY: all zero is a valid header.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if control > 0 {
        header.msg_control = room.as_mut_ptr().cast();
        header.msg_controllen = control;
    }
    // SAFETY: all parts outlive the call.
    let count = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) };
    let mut received = Received {
        count,
        error: if count < 0 { errno_name() } else { String::new() },
        data,
        flags: header.msg_flags,
        control_len: header.msg_controllen,
        fds: Vec::new(),
        cred: None,
    };
    received.data.truncate(usize::try_from(count).unwrap_or(0));
    if count >= 0 && control > 0 {
        let bytes: Vec<u8> = room.iter().flat_map(|word| word.to_ne_bytes()).collect();
        decode(&bytes[..header.msg_controllen.min(bytes.len())], &mut received);
    }
    received
}

fn word(bytes: &[u8], at: usize) -> i32 {
    bytes.get(at..at + 4).map_or(0, |word| i32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
}

fn decode(mut bytes: &[u8], received: &mut Received) {
    while bytes.len() >= HEADER {
        let len = (word(bytes, 0) as usize).clamp(HEADER, bytes.len());
        let data = &bytes[HEADER..len];
        match word(bytes, 12) {
            libc::SCM_RIGHTS => {
                for at in (0..data.len() / 4).map(|index| index * 4) {
                    // SAFETY: the kernel has just made it ours.
                    received.fds.push(unsafe { OwnedFd::from_raw_fd(word(data, at)) });
                }
            }
            libc::SCM_CREDENTIALS if data.len() >= 12 => {
                received.cred = Some(libc::ucred {
                    pid: word(data, 0),
                    uid: word(data, 4) as u32,
                    gid: word(data, 8) as u32,
                });
            }
            other => println!("  message {other} of {}", data.len()),
        }
        bytes = &bytes[len.next_multiple_of(8).min(bytes.len())..];
    }
}

/// `sendmmsg(2)` and `recvmmsg(2)`.
pub fn many(a: &OwnedFd, b: &OwnedFd) {
    let texts: [&[u8]; 3] = [b"first", b"second message", b""];
    let mut parts = texts
        .map(|text| libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() });
    // SAFETY: all zero is a valid header.
    let mut headers: [libc::mmsghdr; 3] = unsafe { zeroed() };
    for (header, part) in headers.iter_mut().zip(&mut parts) {
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: all parts outlive the call.
    let sent = unsafe { libc::sendmmsg(a.as_raw_fd(), headers.as_mut_ptr(), 3, 0) };
    show("sendmmsg", sent as isize);
    println!("{:?}", headers.map(|header| header.msg_len));
    let mut room = [[0u8; 8]; 5];
    let mut parts = room
        .each_mut()
        .map(|bytes| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 8 });
    // SAFETY: all zero is a valid header.
    let mut headers: [libc::mmsghdr; 5] = unsafe { zeroed() };
    for (header, part) in headers.iter_mut().zip(&mut parts) {
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
    }
    let null = std::ptr::null_mut();
    for flags in [libc::MSG_WAITFORONE, libc::MSG_DONTWAIT] {
        // SAFETY: all parts outlive the call.
        let got =
            unsafe { libc::recvmmsg(b.as_raw_fd(), headers.as_mut_ptr(), 5, flags as _, null) };
        show("recvmmsg", got as isize);
        for header in headers.iter().take(usize::try_from(got).unwrap_or(0)) {
            println!("  {} {}", header.msg_len, names(header.msg_hdr.msg_flags));
        }
    }
    println!("{room:?}");
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000_000 };
    // SAFETY: all parts outlive the call.
    let got = unsafe { libc::recvmmsg(b.as_raw_fd(), headers.as_mut_ptr(), 1, 0, &raw mut time) };
    show("bad time", got as isize);
    // SAFETY: all parts outlive the call.
    let got = unsafe { libc::recvmmsg(b.as_raw_fd(), headers.as_mut_ptr(), 0, 0, null) };
    show("none", got as isize);
    // SAFETY: a bad pointer is the question.
    let got = unsafe { libc::sendmmsg(a.as_raw_fd(), std::ptr::null_mut(), 2, 0) };
    show("no headers", got as isize);
}

/// Headers with wrong counts and lengths.
pub fn odd_headers([a, b]: &[OwnedFd; 2]) {
    let mut data = [7u8; 8];
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: 8 };
    // SAFETY: all zero is a valid header.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut part;
    // SAFETY (here and below): wrong pointers and counts are the question.
    let ask = |what: &str, header: &mut libc::msghdr| {
        let sent = unsafe { libc::sendmsg(a.as_raw_fd(), header, libc::MSG_DONTWAIT) };
        show(&format!("send {what}"), sent);
        let got = unsafe { libc::recvmsg(b.as_raw_fd(), header, libc::MSG_DONTWAIT) };
        show(&format!("recv {what}"), got);
        println!("  namelen {} controllen {}", header.msg_namelen, header.msg_controllen);
    };
    ask("no segments", &mut header);
    header.msg_iovlen = 1;
    ask("one", &mut header);
    header.msg_iovlen = 1025;
    ask("too many", &mut header);
    header.msg_iovlen = 1;
    header.msg_namelen = 5;
    ask("length without name", &mut header);
    header.msg_namelen = u32::MAX;
    ask("negative", &mut header);
    header.msg_namelen = 0;
    let mut name = [0u8; 200];
    header.msg_name = name.as_mut_ptr().cast();
    ask("name of nothing", &mut header);
    header.msg_namelen = 200;
    header.msg_name = std::ptr::null_mut();
    ask("long without name", &mut header);
    header.msg_control = name.as_mut_ptr().cast();
    for len in [1, 15, 16, 17, 24] {
        header.msg_controllen = len;
        ask(&format!("control {len}"), &mut header);
    }
    header.msg_controllen = usize::MAX;
    ask("control without end", &mut header);
    header.msg_control = std::ptr::null_mut();
    header.msg_controllen = 64;
    ask("no control", &mut header);
}
