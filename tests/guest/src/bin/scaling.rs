//! How much more several workers get done than one.
//!
//! `scaling MAXIMUM [WORD]...` runs every row whose name contains a word, all of them without words,
//! with 1, 2, 4, 8 and 16 workers but no more than MAXIMUM, however few processors there are, and
//! prints `ROW<TAB>WORKERS<TAB>OPERATIONS_PER_SECOND`.
//!
//! A worker is a process, a thread, or a pair of processes that answer each other. All begin together,
//! and none is waited for in the end: what counts is what they have done between two moments, the
//! first of which comes when they are warm. A row that fails is told on the standard error output and
//! makes the exit status 1; the others are run all the same.

use std::ffi::{CString, c_void};
use std::fs;
use std::io::Error;
use std::process::ExitCode;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
/// Pages that a worker touches before it gives them back.
const FAULTS: usize = 64;
const COUNTS: [usize; 5] = [1, 2, 4, 8, 16];
const MOST: usize = 16;
/// How long workers may take to be ready.
const PATIENCE: Duration = Duration::from_secs(20);
/// From their beginning to that of the measurement.
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURED: Duration = Duration::from_secs(1);
/// Where the directories of workers are.
const ROOT: &str = "/dev/shm/scaling";

/// Some operations of a worker; how many.
type Step = Box<dyn FnMut() -> Result<u64, Error>>;

/// What a worker is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Process,
    /// All are of one process.
    Thread,
}

/// A line of the report but for the number of workers.
struct Row {
    name: &'static str,
    kind: Kind,
    /// Prepares what the worker of this slot does over and over. What it starts ends with its group.
    worker: fn(&'static Board, usize) -> Result<Step, Error>,
}

/// The rows, in the order of the report.
const ROWS: [Row; 9] = [
    row("fork+exit", Kind::Process, forks),
    row("page faults of threads", Kind::Thread, faults),
    row("page faults of processes", Kind::Process, faults),
    row("open+close in one directory", Kind::Process, |_, index| opens(0, index)),
    row("open+close in several directories", Kind::Process, |_, index| opens(index, index)),
    row("create+unlink in one directory", Kind::Process, |_, index| creates(0, index)),
    row("create+unlink in several directories", Kind::Process, |_, index| creates(index, index)),
    row("pipe pairs", Kind::Process, pipe_pairs),
    row("futex pairs", Kind::Process, futex_pairs),
];

const fn row(
    name: &'static str,
    kind: Kind,
    worker: fn(&'static Board, usize) -> Result<Step, Error>,
) -> Row {
    Row { name, kind, worker }
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let Some(maximum) = words.next().and_then(|word| word.parse().ok()) else {
        eprintln!("usage: scaling MAXIMUM [WORD]...");
        return ExitCode::from(2);
    };
    let words: Vec<String> = words.collect();
    let mut status = ExitCode::SUCCESS;
    // What is left of a row must be gone before the next begins, and only a parent can see to that.
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    for row in ROWS {
        if !words.is_empty() && !words.iter().any(|word| row.name.contains(word.as_str())) {
            continue;
        }
        for workers in COUNTS.into_iter().filter(|count| *count <= maximum) {
            match measure(&row, workers) {
                Ok(rate) => println!("{}\t{workers}\t{rate:.0}", row.name),
                Err(why) => {
                    eprintln!("{}, {workers} workers: {why}", row.name);
                    status = ExitCode::FAILURE;
                }
            }
        }
    }
    status
}

/// Runs one row with so many workers: operations per second.
fn measure(row: &Row, workers: usize) -> Result<f64, Error> {
    let _ = fs::remove_dir_all(ROOT);
    for index in 0..MOST {
        fs::create_dir_all(directory(index))?;
    }
    let board = Board::new()?;
    let group = start_group(board, row, workers)?;
    let rate = board.rate(workers);
    // SAFETY: no pointers; the group is ours, and so is whoever is waited for.
    unsafe {
        libc::kill(-group, libc::SIGKILL);
        while libc::waitpid(-1, ptr::null_mut(), 0) > 0 {}
    }
    fs::remove_dir_all(ROOT)?;
    rate
}

/// What all processes of a row share. All zero is its first state.
#[repr(C)]
struct Board {
    /// Workers that are ready.
    ready: AtomicU32,
    /// 1 when they may begin.
    go: AtomicU32,
    /// Why a worker has given up.
    errno: AtomicU32,
    slots: [Slot; MOST],
}

/// What a worker shares with nobody but the one who counts.
#[repr(C, align(256))]
struct Slot {
    done: AtomicU64,
    flags: [Flag; 2],
}

impl Board {
    /// A new one, in memory that is shared with children and stays to the end.
    fn new() -> Result<&'static Board, Error> {
        let base = map(size_of::<Board>(), libc::MAP_SHARED)?;
        // SAFETY: zeroed memory of this size, aligned to pages, that is never unmapped.
        Ok(unsafe { &*base.cast::<Board>() })
    }

    /// Lets the workers begin when all are ready, and counts what they do in a second.
    fn rate(&self, workers: usize) -> Result<f64, Error> {
        let start = Instant::now();
        while (self.ready.load(SeqCst) as usize) < workers {
            if self.errno.load(SeqCst) != 0 || start.elapsed() > PATIENCE {
                return Err(self.error());
            }
            sleep(Duration::from_millis(1));
        }
        self.go.store(1, SeqCst);
        futex(&self.go, libc::FUTEX_WAKE, i32::MAX as u32);
        sleep(WARM_UP);
        let (before, start) = (self.done(), Instant::now());
        sleep(MEASURED);
        let (after, elapsed) = (self.done(), start.elapsed());
        if self.errno.load(SeqCst) != 0 || after == before {
            return Err(self.error());
        }
        Ok((after - before) as f64 / elapsed.as_secs_f64())
    }

    /// What all workers have done.
    fn done(&self) -> u64 {
        self.slots.iter().map(|slot| slot.done.load(SeqCst)).sum()
    }

    /// What became of a worker.
    fn error(&self) -> Error {
        match self.errno.load(SeqCst) {
            0 => Error::other("the workers do nothing"),
            errno => Error::from_raw_os_error(errno as i32),
        }
    }

    /// Waits for the others and works until killed.
    fn work(&'static self, row: &Row, index: usize) {
        let worker = || -> Result<(), Error> {
            let mut step = (row.worker)(self, index)?;
            self.ready.fetch_add(1, SeqCst);
            while self.go.load(SeqCst) == 0 {
                futex(&self.go, libc::FUTEX_WAIT, 0);
            }
            let done = &self.slots[index].done;
            loop {
                // Nobody else writes it.
                done.store(done.load(Relaxed) + step()?, Relaxed);
            }
        };
        if let Err(why) = worker() {
            self.errno.store(why.raw_os_error().unwrap_or(libc::EIO) as u32, SeqCst);
        }
    }
}

/// Starts the workers in a process group of their own; its number.
fn start_group(board: &'static Board, row: &Row, workers: usize) -> Result<libc::pid_t, Error> {
    let group = child(|| {
        // SAFETY: no pointers.
        unsafe { libc::setpgid(0, 0) };
        if row.kind == Kind::Thread {
            std::thread::scope(|scope| {
                for index in 0..workers {
                    scope.spawn(move || board.work(row, index));
                }
            });
        } else {
            for index in 0..workers {
                if let Err(why) = child(|| board.work(row, index)) {
                    board.errno.store(why.raw_os_error().unwrap_or(libc::EIO) as u32, SeqCst);
                }
            }
        }
        pause();
    })?;
    // Here too, so that the group is there when it is killed.
    // SAFETY: no pointers.
    unsafe { libc::setpgid(group, group) };
    Ok(group)
}

/// Forks a child that runs `body` and ends; its number.
fn child(body: impl FnOnce()) -> Result<libc::pid_t, Error> {
    // SAFETY: the callers have one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        body();
        // SAFETY: no pointers; ends without the parent's buffers and destructors.
        unsafe { libc::_exit(0) };
    }
    checked(i64::from(pid)).map(|_| pid)
}

/// Waits for the signal that ends the group.
fn pause() {
    loop {
        // SAFETY: no pointers.
        unsafe { libc::pause() };
    }
}

/// The result of a call, or its error.
fn checked(result: i64) -> Result<i64, Error> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// Memory without a file.
fn map(len: usize, flags: i32) -> Result<*mut u8, Error> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, flags | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice harms nobody.
    let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(base.cast()) }
}

fn directory(index: usize) -> String {
    format!("{ROOT}/worker-{index}")
}

/// A path as the calls want it.
fn c(path: String) -> Result<CString, Error> {
    CString::new(path).map_err(|_| Error::from_raw_os_error(libc::EINVAL))
}

fn forks(_: &'static Board, _: usize) -> Result<Step, Error> {
    Ok(Box::new(|| {
        let pid = child(|| ())?;
        let mut status = 0;
        // SAFETY: the status is there.
        checked(i64::from(unsafe { libc::waitpid(pid, &mut status, 0) }))?;
        Ok(1)
    }))
}

fn faults(_: &'static Board, _: usize) -> Result<Step, Error> {
    let base = map(FAULTS * PAGE, libc::MAP_PRIVATE)? as usize;
    Ok(Box::new(move || {
        for page in 0..FAULTS {
            // SAFETY: inside the mapping, which is the worker's alone.
            unsafe { (base as *mut u8).add(page * PAGE).write_volatile(1) };
        }
        // SAFETY: the same.
        let result =
            unsafe { libc::madvise(base as *mut c_void, FAULTS * PAGE, libc::MADV_DONTNEED) };
        checked(i64::from(result)).map(|_| FAULTS as u64)
    }))
}

fn opens(home: usize, index: usize) -> Result<Step, Error> {
    let path = format!("{}/file-{index}", directory(home));
    fs::write(&path, "text")?;
    let path = c(path)?;
    Ok(Box::new(move || {
        // SAFETY: a valid C string.
        let fd = checked(i64::from(unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) }))?;
        // SAFETY: just opened.
        checked(i64::from(unsafe { libc::close(fd as i32) })).map(|_| 1)
    }))
}

fn creates(home: usize, index: usize) -> Result<Step, Error> {
    let path = c(format!("{}/new-{index}", directory(home)))?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    Ok(Box::new(move || {
        // SAFETY: a valid C string, and a descriptor that was just opened.
        unsafe {
            let fd = checked(i64::from(libc::open(path.as_ptr(), flags, 0o644)))?;
            checked(i64::from(libc::close(fd as i32)))?;
            checked(i64::from(libc::unlink(path.as_ptr()))).map(|_| 1)
        }
    }))
}

/// Reads one byte.
fn take(fd: i32) -> Result<i64, Error> {
    let mut byte = 0u8;
    // SAFETY: one byte that is there.
    checked(unsafe { libc::read(fd, (&raw mut byte).cast(), 1) } as i64)
}

/// Writes one byte.
fn put(fd: i32) -> Result<i64, Error> {
    let byte = 0u8;
    // SAFETY: one byte that is there.
    checked(unsafe { libc::write(fd, (&raw const byte).cast(), 1) } as i64)
}

fn pipe() -> Result<[i32; 2], Error> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    checked(i64::from(unsafe { libc::pipe(ends.as_mut_ptr()) })).map(|_| ends)
}

/// A byte that goes to another process and back.
fn pipe_pairs(_: &'static Board, _: usize) -> Result<Step, Error> {
    let ([from_us, to_them], [from_them, to_us]) = (pipe()?, pipe()?);
    child(|| while take(from_us).and_then(|_| put(to_us)).is_ok() {})?;
    Ok(Box::new(move || put(to_them).and_then(|_| take(from_them)).map(|_| 1)))
}

/// `futex(2)` that waits or wakes between processes; whoever waits looks again.
fn futex(word: &AtomicU32, operation: i32, value: u32) {
    let no_timeout = ptr::null::<libc::timespec>();
    // SAFETY: the word is there.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, no_timeout) };
}

/// What one side raises and the other waits for and lowers.
#[repr(C, align(64))]
struct Flag(AtomicU32);

impl Flag {
    fn raise(&self) {
        self.0.store(1, SeqCst);
        futex(&self.0, libc::FUTEX_WAKE, 1);
    }

    fn wait(&self) {
        while self.0.swap(0, SeqCst) == 0 {
            futex(&self.0, libc::FUTEX_WAIT, 0);
        }
    }
}

/// A flag for another process and one back.
fn futex_pairs(board: &'static Board, index: usize) -> Result<Step, Error> {
    let [there, back] = &board.slots[index].flags;
    child(|| {
        loop {
            there.wait();
            back.raise();
        }
    })?;
    Ok(Box::new(move || {
        there.raise();
        back.wait();
        Ok(1)
    }))
}
