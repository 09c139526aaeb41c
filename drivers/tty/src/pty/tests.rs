//! Pairs: buffering, blocking, packet mode and the ends of both sides.

use super::*;
use crate::file::{self, TtyFile};
use std::time::{Duration, Instant};
use std::vec::Vec;

const RDWR: u32 = 2;

fn pair() -> (PtyMaster, Arc<TtyFile>) {
    arch::host::init_memory(16 << 20);
    let master = create(7, Box::new(|_| ())).unwrap();
    assert_eq!(file::open(master.slave(), RDWR, false).err(), Some(Errno::EIO));
    master.pair.is_locked.store(false, Ordering::Release);
    let slave = file::open(master.slave(), RDWR, false).unwrap();
    (master, slave)
}

fn type_in(master: &PtyMaster, bytes: &[u8]) -> Result<usize> {
    master.write(true, &mut Source::kernel(bytes))
}

fn printed(master: &PtyMaster) -> Result<Vec<u8>> {
    let mut out = std::vec![0; 70_000];
    let n = master.read(true, &mut Sink::kernel(&mut out))?;
    out.truncate(n);
    Ok(out)
}

fn mode(tty: &Tty, is_nonblocking: bool) -> Mode {
    Mode { generation: tty.generation(), is_nonblocking }
}

fn read(tty: &Arc<Tty>, n: usize, is_nonblocking: bool) -> Result<Vec<u8>> {
    let mut out = std::vec![0; n];
    let n = tty.read(mode(tty, is_nonblocking), &mut Sink::kernel(&mut out))?;
    out.truncate(n);
    Ok(out)
}

fn print(tty: &Arc<Tty>, bytes: &[u8]) -> Result<usize> {
    tty.write(mode(tty, true), &mut Source::kernel(bytes))
}

fn make_raw(tty: &Arc<Tty>, min: u8, time: u8) {
    let mut t = tty.termios();
    t.lflag &= !(ICANON | ECHO | ISIG);
    t.oflag &= !OPOST;
    t.iflag = 0;
    t.cc[VMIN] = min;
    t.cc[VTIME] = time;
    tty.apply(t);
}

#[test]
fn lines_travel_both_ways() {
    let (master, slave) = pair();
    let tty = slave.tty();
    assert_eq!(read(tty, 10, true), Err(Errno::EAGAIN));
    type_in(&master, b"hello\x7fp\n").unwrap();
    assert_eq!(printed(&master).unwrap(), b"hello\x08 \x08p\r\n");
    assert_eq!(read(tty, 100, true).unwrap(), b"hellp\n");
    print(tty, b"a\tb\n").unwrap();
    assert_eq!(printed(&master).unwrap(), b"a\tb\r\n");
    assert_eq!(printed(&master), Err(Errno::EAGAIN));
}

#[test]
fn min_and_time() {
    let (master, slave) = pair();
    let tty = slave.tty();
    make_raw(tty, 0, 0);
    assert_eq!(read(tty, 10, false).unwrap(), b"");
    make_raw(tty, 0, 1);
    let start = Instant::now();
    assert_eq!(read(tty, 10, false).unwrap(), b"");
    assert!(start.elapsed() >= Duration::from_millis(95));
    assert_eq!(read(tty, 10, true), Err(Errno::EAGAIN));
    make_raw(tty, 3, 1);
    type_in(&master, b"ab").unwrap();
    assert_eq!(read(tty, 10, false).unwrap(), b"ab");
    make_raw(tty, 3, 0);
    type_in(&master, b"abcd").unwrap();
    assert_eq!(read(tty, 10, false).unwrap(), b"abcd");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(tty, 10, false));
        for piece in [&b"x"[..], b"y", b"z"] {
            std::thread::sleep(Duration::from_millis(5));
            type_in(&master, piece).unwrap();
        }
        assert_eq!(reader.join().unwrap().unwrap(), b"xyz");
    });
}

#[test]
fn nothing_is_lost_in_either_direction() {
    let (master, slave) = pair();
    let tty = slave.tty();
    make_raw(tty, 1, 0);
    let data: Vec<u8> = (0..200_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let blocking = mode(tty, false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| master.write(false, &mut Source::kernel(&data)));
        let mut got = Vec::new();
        while got.len() < data.len() {
            got.extend(read(tty, 3000, false).unwrap());
        }
        assert_eq!(writer.join().unwrap(), Ok(data.len()));
        assert!(got == data);
        let writer = scope.spawn(|| tty.write(blocking, &mut Source::kernel(&data)));
        let mut got: Vec<u8> = Vec::new();
        let mut out = [0; 3000];
        while got.len() < 200_000 {
            let n = master.read(false, &mut Sink::kernel(&mut out)).unwrap();
            got.extend(&out[..n]);
        }
        assert_eq!(writer.join().unwrap(), Ok(200_000));
    });
}

#[test]
fn a_full_pair_takes_no_more_until_read() {
    let (master, slave) = pair();
    let tty = slave.tty();
    make_raw(tty, 1, 0);
    let mut taken = 0;
    while let Ok(n) = type_in(&master, &[b'x'; 1000]) {
        taken += n;
    }
    assert!(taken >= QUEUE);
    assert_eq!(master.poll(None) & POLLOUT, 0);
    let mut got = 0;
    while let Ok(bytes) = read(tty, 5000, true) {
        got += bytes.len();
    }
    assert_eq!(got, taken);
    assert_eq!(master.poll(None) & POLLOUT, POLLOUT);
}

#[test]
fn the_master_sees_the_slave_go() {
    let (master, slave) = pair();
    print(slave.tty(), b"bye").unwrap();
    drop(slave);
    let all = POLLIN | POLLOUT | POLLHUP | POLLRDNORM | POLLWRNORM;
    assert_eq!(master.poll(None), all);
    assert_eq!(printed(&master).unwrap(), b"bye");
    assert_eq!(master.poll(None), POLLOUT | POLLHUP | POLLWRNORM);
    assert_eq!(printed(&master), Err(Errno::EIO));
    assert_eq!(type_in(&master, b"q"), Ok(1));
    let slave = file::open(master.slave(), RDWR, false).unwrap();
    assert_eq!(printed(&master).unwrap(), b"q");
    drop(slave);
}

#[test]
fn the_slave_sees_the_master_go() {
    let (master, slave) = pair();
    let tty = slave.tty();
    let old = mode(tty, false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| tty.read(old, &mut Sink::kernel(&mut [0; 10])));
        std::thread::sleep(Duration::from_millis(5));
        drop(master);
        assert_eq!(reader.join().unwrap(), Ok(0));
    });
    assert_eq!(tty.write(old, &mut Source::kernel(b"x")), Err(Errno::EIO));
    let all = POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDNORM | POLLWRNORM;
    assert_eq!(tty.poll(old, None), all);
    assert_eq!(file::open(tty, RDWR, false).err(), Some(Errno::EIO));
}

#[test]
fn stop_and_start_hold_output() {
    let (master, slave) = pair();
    let tty = slave.tty();
    type_in(&master, b"\x13").unwrap();
    assert_eq!(print(tty, b"x"), Err(Errno::EAGAIN));
    type_in(&master, b"ab").unwrap();
    assert_eq!(printed(&master), Err(Errno::EAGAIN));
    type_in(&master, b"\x11").unwrap();
    assert_eq!(printed(&master).unwrap(), b"ab");
    assert_eq!(print(tty, b"x"), Ok(1));
}

#[test]
fn packet_mode_tells_what_happened() {
    let (master, slave) = pair();
    let tty = slave.tty();
    master.pair.is_packet_mode.store(true, Ordering::Release);
    print(tty, b"x").unwrap();
    assert_eq!(printed(&master).unwrap(), b"\0x");
    type_in(&master, b"\x13").unwrap();
    assert_eq!(master.poll(None) & POLLPRI, POLLPRI);
    assert_eq!(printed(&master).unwrap(), [TIOCPKT_STOP]);
    type_in(&master, b"\x11").unwrap();
    assert_eq!(printed(&master).unwrap(), [TIOCPKT_START]);
    let mut t = tty.termios();
    t.iflag &= !IXON;
    tty.apply(t);
    assert_eq!(printed(&master).unwrap(), [TIOCPKT_NOSTOP]);
}
