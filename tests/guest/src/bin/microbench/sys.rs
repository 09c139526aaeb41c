//! Descriptors, pipes and child processes that are gone when their owner is.

use std::ffi::{CStr, CString};

use crate::meter::{Cost, Failure, each};

/// The result of a call, or the failure if it is negative.
pub fn ok(what: &'static str, result: impl Into<i64>) -> Result<i64, Failure> {
    let result = result.into();
    if result < 0 { Err(Failure::last(what)) } else { Ok(result) }
}

/// An error unless what was done last worked.
pub fn sure(what: &'static str, worked: bool) -> Result<(), Failure> {
    if worked { Ok(()) } else { Err(Failure::last(what)) }
}

/// A text without NUL as C wants it.
pub fn c(text: impl Into<String>) -> CString {
    CString::new(text.into()).expect("no NUL")
}

/// Whether a descriptor was one and has been closed.
#[inline(always)]
pub fn closes(fd: i32) -> bool {
    // SAFETY: no pointers; the callers have just opened it.
    fd >= 0 && unsafe { libc::close(fd) } == 0
}

/// A descriptor.
pub struct Fd(i32);

impl Fd {
    /// What a call has returned.
    pub fn new(what: &'static str, fd: i32) -> Result<Fd, Failure> {
        ok(what, fd).map(|_| Fd(fd))
    }

    /// `open(2)`; new files get mode 644.
    pub fn open(path: &CStr, flags: i32) -> Result<Fd, Failure> {
        // SAFETY: the path is a valid C string.
        Fd::new("open", unsafe { libc::open(path.as_ptr(), flags, 0o644) })
    }

    /// Its number.
    pub fn raw(&self) -> i32 {
        self.0
    }

    /// Writes one byte: whether it worked.
    #[inline(always)]
    pub fn put(&self) -> bool {
        let byte = 0u8;
        // SAFETY: one byte that is there.
        unsafe { libc::write(self.0, (&raw const byte).cast(), 1) == 1 }
    }

    /// Reads one byte: whether it worked.
    #[inline(always)]
    pub fn take(&self) -> bool {
        let mut byte = 0u8;
        // SAFETY: one byte that is there.
        unsafe { libc::read(self.0, (&raw mut byte).cast(), 1) == 1 }
    }

    /// Writes all of a block in one call: whether it worked.
    #[inline(always)]
    pub fn put_all(&self, block: &[u8]) -> bool {
        // SAFETY: the block is there.
        let written = unsafe { libc::write(self.0, block.as_ptr().cast(), block.len()) };
        written == block.len() as isize
    }

    /// Reads into a block in one call: the number of bytes, or -1.
    #[inline(always)]
    pub fn take_some(&self, block: &mut [u8]) -> isize {
        // SAFETY: the block is there.
        unsafe { libc::read(self.0, block.as_mut_ptr().cast(), block.len()) }
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: no pointers; nobody else owns it.
        unsafe { libc::close(self.0) };
    }
}

/// A pipe.
pub struct Pipe {
    /// Where it is read.
    pub from: Fd,
    /// Where it is written.
    pub to: Fd,
}

impl Pipe {
    /// An empty one.
    pub fn new() -> Result<Pipe, Failure> {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for two descriptors.
        ok("pipe", unsafe { libc::pipe(ends.as_mut_ptr()) })?;
        Ok(Pipe { from: Fd(ends[0]), to: Fd(ends[1]) })
    }
}

/// A child process, killed when its owner goes.
pub struct Child(libc::pid_t);

impl Child {
    /// Forks a child that runs `body` and ends, with status 0 if that returned true.
    pub fn start(body: impl FnOnce() -> bool) -> Result<Child, Failure> {
        // SAFETY: the program has one thread wherever it starts children.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let status = i32::from(!body());
            // SAFETY: no pointers; ends without the parent's buffers and destructors.
            unsafe { libc::_exit(status) };
        }
        ok("fork", pid).map(|_| Child(pid))
    }

    /// Its number.
    pub fn pid(&self) -> libc::pid_t {
        self.0
    }

    /// Waits until it ends by itself; an error if not with status 0.
    pub fn finish(self) -> Result<(), Failure> {
        let is_fine = ends_well(self.0);
        std::mem::forget(self);
        if is_fine { Ok(()) } else { Err(Failure { what: "child", errno: 0 }) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: a child that nobody has waited for.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        ends_well(self.0);
    }
}

/// Waits for a child: whether it was one and ended with status 0.
#[inline(always)]
pub fn ends_well(child: libc::pid_t) -> bool {
    let mut status = 0;
    // SAFETY: `status` is there.
    unsafe { child > 0 && libc::waitpid(child, &mut status, 0) == child && status == 0 }
}

/// The cost of `ask` while a child process does `serve` over and over.
pub fn ping_pong(count: u64, mut serve: impl FnMut() -> bool, ask: impl FnMut() -> bool) -> Cost {
    let _child = Child::start(|| {
        while serve() {}
        false
    })?;
    each(count, ask)
}
