//! The system-call table: built at compile time from the families' `CALLS` lists.
//!
//! A family file declares what it implements with [`syscalls!`](crate::syscalls):
//!
//! ```text
//! crate::syscalls! {
//!     0 read => sys_read(fd: Fd, buf: Hex, count: Dec);
//! }
//! fn sys_read(cx: &mut Cx<'_>, fd: i32, buf: VirtAddr, count: usize) -> Result<usize> { … }
//! ```
//!
//! The parameters of the function are converted from the registers by [`FromRegister`]; the kinds
//! (`Fd`, `Hex`, …, see [`Kind`]) only say how the tracer prints them. A number that no family
//! claims answers `ENOSYS`; a number claimed twice does not compile.

use crate::cx::Cx;
use abi::{Errno, Result};
use arch::addr::VirtAddr;

/// What runs for a system call.
pub type Handler = fn(&mut Cx<'_>) -> Result<usize>;

/// How the tracer prints an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A signed decimal number.
    Dec,
    /// A number in hexadecimal, or a pointer without a decoder.
    Hex,
    /// A number in octal (modes).
    Oct,
    /// A file descriptor.
    Fd,
    /// A directory descriptor: `AT_FDCWD` or a number.
    At,
    /// A pointer to a path.
    Path,
    /// A pointer to another NUL-terminated string.
    Str,
    /// A buffer whose length is the next argument, printed when the call enters (written data).
    Data,
    /// A signal number.
    Sig,
    /// `open(2)` flags.
    OpenFlags,
    /// `mmap(2)` protection.
    Prot,
    /// `mmap(2)` flags.
    MapFlags,
    /// `clone(2)` flags.
    CloneFlags,
    /// A futex operation.
    FutexOp,
    /// A `struct timespec *`.
    Timespec,
    /// A NULL-terminated array of strings (`argv`).
    Strings,
}

/// One argument: its name and how it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// The parameter's name.
    pub name: &'static str,
    /// How the tracer prints it.
    pub kind: Kind,
}

/// One implemented system call.
#[derive(Clone, Copy)]
pub struct Call {
    /// The x86_64 number.
    pub nr: u16,
    /// Linux's name.
    pub name: &'static str,
    /// The arguments, in register order.
    pub args: &'static [Arg],
    /// The function.
    pub handler: Handler,
}

/// A value that a system call takes in one register.
pub trait FromRegister {
    /// The low bits of `raw`, as C truncates.
    fn from_register(raw: u64) -> Self;
}

macro_rules! from_register {
    ($($ty:ty)*) => { $(impl FromRegister for $ty {
        #[inline(always)]
        fn from_register(raw: u64) -> Self { raw as $ty }
    })* };
}
from_register!(i32 u32 i64 u64 usize isize u16 i16 u8);

impl FromRegister for VirtAddr {
    #[inline(always)]
    fn from_register(raw: u64) -> Self {
        VirtAddr(raw)
    }
}

/// Declares the calls of one family; see the module's text.
#[macro_export]
#[doc(hidden)]
macro_rules! syscalls {
    ($($nr:literal $name:ident => $func:ident ( $($arg:ident : $kind:ident),* $(,)? );)*) => {
        /// The calls of this family.
        pub(crate) const CALLS: &[$crate::table::Call] = &[$(
            $crate::table::Call {
                nr: $nr,
                name: stringify!($name),
                args: &[$($crate::table::Arg {
                    name: stringify!($arg),
                    kind: $crate::table::Kind::$kind,
                }),*],
                handler: |cx| $crate::syscall_invoke!(cx, $func, $($arg)*),
            },
        )*];
    };
}

/// Calls a handler with as many registers as it has arguments.
#[macro_export]
#[doc(hidden)]
macro_rules! syscall_invoke {
    ($cx:ident, $f:ident,) => {
        $f($cx)
    };
    ($cx:ident, $f:ident, $a:ident) => {{
        let a = $cx.frame.rdi;
        $f($cx, $crate::table::FromRegister::from_register(a))
    }};
    ($cx:ident, $f:ident, $a:ident $b:ident) => {{
        let (a, b) = ($cx.frame.rdi, $cx.frame.rsi);
        $f(
            $cx,
            $crate::table::FromRegister::from_register(a),
            $crate::table::FromRegister::from_register(b),
        )
    }};
    ($cx:ident, $f:ident, $a:ident $b:ident $c:ident) => {{
        let (a, b, c) = ($cx.frame.rdi, $cx.frame.rsi, $cx.frame.rdx);
        $f(
            $cx,
            $crate::table::FromRegister::from_register(a),
            $crate::table::FromRegister::from_register(b),
            $crate::table::FromRegister::from_register(c),
        )
    }};
    ($cx:ident, $f:ident, $a:ident $b:ident $c:ident $d:ident) => {{
        let (a, b, c, d) = ($cx.frame.rdi, $cx.frame.rsi, $cx.frame.rdx, $cx.frame.r10);
        $f(
            $cx,
            $crate::table::FromRegister::from_register(a),
            $crate::table::FromRegister::from_register(b),
            $crate::table::FromRegister::from_register(c),
            $crate::table::FromRegister::from_register(d),
        )
    }};
    ($cx:ident, $f:ident, $a:ident $b:ident $c:ident $d:ident $e:ident) => {{
        let (a, b, c, d, e) =
            ($cx.frame.rdi, $cx.frame.rsi, $cx.frame.rdx, $cx.frame.r10, $cx.frame.r8);
        $f(
            $cx,
            $crate::table::FromRegister::from_register(a),
            $crate::table::FromRegister::from_register(b),
            $crate::table::FromRegister::from_register(c),
            $crate::table::FromRegister::from_register(d),
            $crate::table::FromRegister::from_register(e),
        )
    }};
    ($cx:ident, $f:ident, $a:ident $b:ident $c:ident $d:ident $e:ident $g:ident) => {{
        let (a, b, c, d, e, g) = (
            $cx.frame.rdi,
            $cx.frame.rsi,
            $cx.frame.rdx,
            $cx.frame.r10,
            $cx.frame.r8,
            $cx.frame.r9,
        );
        $f(
            $cx,
            $crate::table::FromRegister::from_register(a),
            $crate::table::FromRegister::from_register(b),
            $crate::table::FromRegister::from_register(c),
            $crate::table::FromRegister::from_register(d),
            $crate::table::FromRegister::from_register(e),
            $crate::table::FromRegister::from_register(g),
        )
    }};
}

/// One past the highest number in the table.
pub const LIMIT: usize = 440;

const FAMILIES: &[&[Call]] = crate::FAMILIES;

fn absent(_: &mut Cx<'_>) -> Result<usize> {
    Err(Errno::ENOSYS)
}

const fn build() -> [Handler; LIMIT] {
    let mut handlers = [absent as Handler; LIMIT];
    let mut taken = [false; LIMIT];
    let mut family = 0;
    while family < FAMILIES.len() {
        let mut i = 0;
        while i < FAMILIES[family].len() {
            let call = &FAMILIES[family][i];
            let nr = call.nr as usize;
            assert!(!taken[nr], "a system-call number has two handlers");
            taken[nr] = true;
            handlers[nr] = call.handler;
            i += 1;
        }
        family += 1;
    }
    handlers
}

/// The function of every number.
pub static HANDLERS: [Handler; LIMIT] = build();

/// The description of call `nr`, if a family implements it.
pub fn describe(nr: u64) -> Option<&'static Call> {
    FAMILIES.iter().flat_map(|f| f.iter()).find(|c| u64::from(c.nr) == nr)
}
