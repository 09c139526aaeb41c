//! Pipes, futexes and event descriptors, within a process and between two.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::area::{Area, PAGE};
use crate::meter::{Cost, each};
use crate::rows::Rows;
use crate::scratch::TMPFS;
use crate::sys::{Child, Fd, Pipe, ok, ping_pong, sure};

/// Bytes that a pipe holds.
pub const LEN: usize = 64 << 10;

/// Adds the rows about pipes and futexes to the group.
pub fn add(rows: &mut Rows) {
    pipes(rows);
    pairs(rows);
    futexes(rows);
}

fn pipes(rows: &mut Rows) {
    rows.add("pipe write+read", || {
        let pipe = Pipe::new()?;
        each(14_000, || pipe.to.put() && pipe.from.take())
    });
    for (name, len, count) in
        [("pipe write+read 4 KiB", PAGE, 10_000), ("pipe write+read 64 KiB", LEN, 730)]
    {
        rows.add(name, move || {
            let (pipe, mut block) = (Pipe::new()?, vec![1u8; len]);
            each(count, || pipe.to.put_all(&block) && pipe.from.take_some(&mut block) > 0)
        });
    }
    rows.add("pipe create+close", || each(3_600, || Pipe::new().is_ok()));
}

/// A child process that takes a byte from one descriptor and puts it into another.
pub fn echo(count: u64, near: [&Fd; 2], far: [&Fd; 2]) -> Cost {
    ping_pong(count, || far[0].take() && far[1].put(), || near[1].put() && near[0].take())
}

/// Blocks of 64 KiB that go to a child process which only reads.
pub fn transfer(count: u64, to: &Fd, from: &Fd) -> Cost {
    let mut block = vec![1u8; LEN];
    let _child = Child::start(|| {
        while from.take_some(&mut block) > 0 {}
        false
    })?;
    let block = vec![1u8; LEN];
    each(count, || to.put_all(&block))
}

fn pairs(rows: &mut Rows) {
    rows.add("pipe ping-pong", || {
        let (there, back) = (Pipe::new()?, Pipe::new()?);
        echo(2_800, [&back.from, &there.to], [&there.from, &back.to])
    });
    rows.add("pipe transfer 64 KiB", || {
        let pipe = Pipe::new()?;
        transfer(640, &pipe.to, &pipe.from)
    });
    rows.add("fifo ping-pong", || {
        let scratch = TMPFS.scratch()?;
        let open = |name: &str| {
            let path = scratch.path(name);
            // SAFETY: a valid C string.
            ok("mkfifo", unsafe { libc::mkfifo(path.as_ptr(), 0o600) })?;
            Fd::open(&path, libc::O_RDWR)
        };
        let (there, back) = (open("there")?, open("back")?);
        echo(2_800, [&back, &there], [&there, &back])
    });
    rows.add("eventfd ping-pong", || {
        // SAFETY: no pointers.
        let new = || Fd::new("eventfd", unsafe { libc::eventfd(0, 0) });
        let (there, back, one) = (new()?, new()?, 1u64.to_ne_bytes());
        let put = |fd: &Fd| fd.put_all(&one);
        let take = |fd: &Fd| fd.take_some(&mut [0; 8]) == 8;
        ping_pong(3_800, || take(&there) && put(&back), || put(&there) && take(&back))
    });
    rows.add("file lock hand-off", lock_hand_off);
}

/// Two processes chase each other around three locked bytes: each locks the byte before it, which the
/// other has to give up first, and then gives up its own. The cost is that of one step of both.
fn lock_hand_off() -> Cost {
    const BYTES: i64 = 3;
    let scratch = TMPFS.scratch()?;
    let file = scratch.file("file", 16)?;
    let lock = |kind: i32, byte: i64| {
        // SAFETY: the lock outlives the call.
        unsafe {
            let mut lock: libc::flock = std::mem::zeroed();
            (lock.l_type, lock.l_start, lock.l_len) = (kind as i16, byte % BYTES, 1);
            libc::fcntl(file.raw(), libc::F_SETLKW, &lock) == 0
        }
    };
    let step = |byte: &mut i64| {
        *byte += 1;
        lock(libc::F_WRLCK, *byte) && lock(libc::F_UNLCK, *byte - 1)
    };
    let ready = Pipe::new()?;
    sure("fcntl", lock(libc::F_WRLCK, 0))?;
    let _child = Child::start(|| {
        let mut byte = 1;
        let mut goes_on = lock(libc::F_WRLCK, byte) && ready.to.put();
        while goes_on {
            goes_on = step(&mut byte);
        }
        false
    })?;
    sure("read", ready.from.take())?;
    let mut byte = 0;
    each(2_000, || step(&mut byte))
}

/// `futex(2)` that waits or wakes; what it returned.
fn futex(word: &AtomicU32, operation: i32, value: u32) -> i64 {
    let no_timeout = std::ptr::null::<libc::timespec>();
    // SAFETY: the word is there.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, no_timeout) }
}

/// A flag that one side raises and the other waits for and lowers.
struct Flag<'a> {
    word: &'a AtomicU32,
    /// `FUTEX_PRIVATE_FLAG` or nothing.
    kind: i32,
}

impl Flag<'_> {
    #[inline(always)]
    fn raise(&self) -> bool {
        self.word.store(1, SeqCst);
        futex(self.word, libc::FUTEX_WAKE | self.kind, 1) >= 0
    }

    #[inline(always)]
    fn wait(&self) -> bool {
        while self.word.swap(0, SeqCst) == 0 {
            futex(self.word, libc::FUTEX_WAIT | self.kind, 0);
        }
        true
    }
}

fn futexes(rows: &mut Rows) {
    rows.add("futex wake nobody", || {
        let word = AtomicU32::new(0);
        let wake = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        each(64_000, || futex(&word, wake, 1) == 0)
    });
    rows.add("futex ping-pong of processes", || {
        let area = Area::shared(PAGE)?;
        // SAFETY: aligned words at a distance in memory that outlives all use.
        let word = |offset: usize| unsafe { AtomicU32::from_ptr(area.start().add(offset).cast()) };
        word(0).store(0, SeqCst);
        let (there, back) = (Flag { word: word(0), kind: 0 }, Flag { word: word(128), kind: 0 });
        ping_pong(2_800, || there.wait() && back.raise(), || there.raise() && back.wait())
    });
    rows.add("futex ping-pong of threads", || {
        static WORDS: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];
        let kind = libc::FUTEX_PRIVATE_FLAG;
        let [there, back] = WORDS.each_ref().map(|word| Flag { word, kind });
        // Ends with the process.
        std::thread::spawn(move || {
            let [there, back] = WORDS.each_ref().map(|word| Flag { word, kind });
            while there.wait() && back.raise() {}
        });
        each(4_000, || there.raise() && back.wait())
    });
}
