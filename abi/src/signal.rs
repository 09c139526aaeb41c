//! Signals: numbers, sets, `struct sigaction`, `siginfo_t`, the x86_64 signal frame.
//! `asm/signal.h`, `asm-generic/siginfo.h`, `asm/sigcontext.h`, `asm/ucontext.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A signal number, 1..=64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Signal(u8);

/// The highest signal number.
pub const NSIG: u32 = 64;
/// The first real-time signal.
pub const SIGRTMIN: u32 = 32;

macro_rules! signals {
    ($($name:ident = $value:literal;)*) => {
        impl Signal {
            $(#[doc = concat!("`", stringify!($name), "`.")] pub const $name: Signal = Signal($value);)*

            /// `"SIGTERM"` and so on; `"SIGRT"` for the real-time ones.
            pub const fn name(self) -> &'static str {
                match self.0 { $($value => stringify!($name),)* _ => "SIGRT" }
            }
        }
    };
}

signals! {
    SIGHUP = 1; SIGINT = 2; SIGQUIT = 3; SIGILL = 4; SIGTRAP = 5; SIGABRT = 6; SIGBUS = 7;
    SIGFPE = 8; SIGKILL = 9; SIGUSR1 = 10; SIGSEGV = 11; SIGUSR2 = 12; SIGPIPE = 13;
    SIGALRM = 14; SIGTERM = 15; SIGSTKFLT = 16; SIGCHLD = 17; SIGCONT = 18; SIGSTOP = 19;
    SIGTSTP = 20; SIGTTIN = 21; SIGTTOU = 22; SIGURG = 23; SIGXCPU = 24; SIGXFSZ = 25;
    SIGVTALRM = 26; SIGPROF = 27; SIGWINCH = 28; SIGIO = 29; SIGPWR = 30; SIGSYS = 31;
}

impl Signal {
    /// The signal with number `raw`, if 1..=64.
    pub const fn new(raw: i32) -> Option<Signal> {
        if raw >= 1 && raw <= NSIG as i32 { Some(Signal(raw as u8)) } else { None }
    }

    /// The number.
    pub const fn raw(self) -> u32 {
        self.0 as u32
    }

    /// Whether several instances of it queue.
    pub const fn is_realtime(self) -> bool {
        self.0 as u32 >= SIGRTMIN
    }

    /// Its bit in a [`SigSet`].
    pub const fn bit(self) -> u64 {
        1 << (self.0 - 1)
    }
}

/// A set of signals: bit `n - 1` is signal `n`.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct SigSet(pub u64);

impl SigSet {
    /// No signal.
    pub const EMPTY: SigSet = SigSet(0);
    /// Every signal.
    pub const FULL: SigSet = SigSet(!0);
    /// SIGKILL and SIGSTOP, which nothing blocks.
    pub const UNBLOCKABLE: SigSet = SigSet(Signal::SIGKILL.bit() | Signal::SIGSTOP.bit());
    /// What stops a process by default.
    pub const STOP: SigSet = SigSet(
        Signal::SIGSTOP.bit()
            | Signal::SIGTSTP.bit()
            | Signal::SIGTTIN.bit()
            | Signal::SIGTTOU.bit(),
    );
    /// Signals that a fault raises in the thread itself; delivered before others.
    pub const SYNCHRONOUS: SigSet = SigSet(
        Signal::SIGSEGV.bit()
            | Signal::SIGBUS.bit()
            | Signal::SIGILL.bit()
            | Signal::SIGTRAP.bit()
            | Signal::SIGFPE.bit()
            | Signal::SIGSYS.bit(),
    );

    /// The set of just `signal`.
    pub const fn of(signal: Signal) -> SigSet {
        SigSet(signal.bit())
    }

    /// Whether `signal` is in it.
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & signal.bit() != 0
    }

    /// Adds `signal`.
    pub fn add(&mut self, signal: Signal) {
        self.0 |= signal.bit();
    }

    /// Removes `signal`.
    pub fn remove(&mut self, signal: Signal) {
        self.0 &= !signal.bit();
    }

    /// Whether it has none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Everything of `self` or `other`.
    pub const fn union(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }

    /// What is in both.
    pub const fn intersection(self, other: SigSet) -> SigSet {
        SigSet(self.0 & other.0)
    }

    /// `self` without `other`.
    pub const fn minus(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }

    /// The lowest signal.
    pub const fn first(self) -> Option<Signal> {
        if self.0 == 0 { None } else { Some(Signal(self.0.trailing_zeros() as u8 + 1)) }
    }
}

/// `SIG_DFL`.
pub const SIG_DFL: u64 = 0;
/// `SIG_IGN`.
pub const SIG_IGN: u64 = 1;

/// `sa_flags`.
pub mod sa {
    #![expect(missing_docs, reason = "sigaction(2) describes them")]
    pub const NOCLDSTOP: u64 = 1;
    pub const NOCLDWAIT: u64 = 2;
    pub const SIGINFO: u64 = 4;
    pub const RESTORER: u64 = 0x0400_0000;
    pub const ONSTACK: u64 = 0x0800_0000;
    pub const RESTART: u64 = 0x1000_0000;
    pub const NODEFER: u64 = 0x4000_0000;
    pub const RESETHAND: u64 = 0x8000_0000;
}

/// `struct sigaction` as `rt_sigaction(2)` takes it.
#[derive(Clone, Copy, Default, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigAction {
    /// `SIG_DFL`, `SIG_IGN` or an address.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: SigSet,
}

/// `stack_t`.
#[derive(Clone, Copy, Default, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StackT {
    /// Lowest address.
    pub sp: u64,
    /// `SS_*`.
    pub flags: i32,
    /// Zero.
    pub pad: u32,
    /// Length in bytes.
    pub size: u64,
}

/// `SS_ONSTACK`: the thread runs on the alternate stack.
pub const SS_ONSTACK: i32 = 1;
/// `SS_DISABLE`: there is no alternate stack.
pub const SS_DISABLE: i32 = 2;
/// `SS_AUTODISARM`: forget the stack while a handler runs.
pub const SS_AUTODISARM: i32 = 1 << 31;
/// `MINSIGSTKSZ`.
pub const MINSIGSTKSZ: u64 = 2048;

/// `si_code` values.
pub mod si {
    #![expect(missing_docs, reason = "sigaction(2) describes them")]
    pub const USER: i32 = 0;
    pub const KERNEL: i32 = 0x80;
    pub const QUEUE: i32 = -1;
    pub const TIMER: i32 = -2;
    pub const MESGQ: i32 = -3;
    pub const ASYNCIO: i32 = -4;
    pub const SIGIO: i32 = -5;
    pub const TKILL: i32 = -6;
    pub const ILL_ILLOPC: i32 = 1;
    pub const ILL_ILLOPN: i32 = 2;
    pub const FPE_INTDIV: i32 = 1;
    pub const FPE_INTOVF: i32 = 2;
    pub const FPE_FLTDIV: i32 = 3;
    pub const FPE_FLTOVF: i32 = 4;
    pub const FPE_FLTUND: i32 = 5;
    pub const FPE_FLTRES: i32 = 6;
    pub const FPE_FLTINV: i32 = 7;
    pub const FPE_FLTUNK: i32 = 14;
    pub const SEGV_MAPERR: i32 = 1;
    pub const SEGV_ACCERR: i32 = 2;
    pub const SEGV_PKUERR: i32 = 4;
    pub const BUS_ADRALN: i32 = 1;
    pub const BUS_ADRERR: i32 = 2;
    pub const BUS_OBJERR: i32 = 3;
    pub const TRAP_BRKPT: i32 = 1;
    pub const TRAP_TRACE: i32 = 2;
    pub const TRAP_HWBKPT: i32 = 4;
    pub const CLD_EXITED: i32 = 1;
    pub const CLD_KILLED: i32 = 2;
    pub const CLD_DUMPED: i32 = 3;
    pub const CLD_TRAPPED: i32 = 4;
    pub const CLD_STOPPED: i32 = 5;
    pub const CLD_CONTINUED: i32 = 6;
    pub const SYS_SECCOMP: i32 = 1;
    pub const POLL_IN: i32 = 1;
    pub const POLL_HUP: i32 = 6;
}

/// `siginfo_t`: 128 bytes; what follows the code depends on the signal.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigInfo {
    /// `si_signo`.
    pub signo: i32,
    /// `si_errno`.
    pub errno: i32,
    /// `si_code`.
    pub code: i32,
    /// Alignment.
    pub pad: i32,
    /// The union, as 64-bit words.
    pub fields: [u64; 14],
}

const fn pair(low: i32, high: i32) -> u64 {
    low as u32 as u64 | (high as u32 as u64) << 32
}

impl SigInfo {
    /// An empty record for `signal` with `code`.
    pub const fn new(signal: Signal, code: i32) -> SigInfo {
        SigInfo { signo: signal.0 as i32, errno: 0, code, pad: 0, fields: [0; 14] }
    }

    /// Sent by a process: `si_pid`, `si_uid`.
    pub const fn from_user(signal: Signal, code: i32, pid: i32, uid: u32) -> SigInfo {
        let mut info = SigInfo::new(signal, code);
        info.fields[0] = pair(pid, uid as i32);
        info
    }

    /// A fault at `address`.
    pub const fn fault(signal: Signal, code: i32, address: u64) -> SigInfo {
        let mut info = SigInfo::new(signal, code);
        info.fields[0] = address;
        info
    }

    /// A child's change of state; times in clock ticks.
    pub const fn child(
        code: i32,
        pid: i32,
        uid: u32,
        status: i32,
        utime: u64,
        stime: u64,
    ) -> SigInfo {
        let mut info = SigInfo::new(Signal::SIGCHLD, code);
        info.fields[0] = pair(pid, uid as i32);
        info.fields[1] = status as u32 as u64;
        info.fields[2] = utime;
        info.fields[3] = stime;
        info
    }

    /// A POSIX timer's expiry.
    pub const fn timer(signal: Signal, id: i32, overrun: i32, value: u64) -> SigInfo {
        let mut info = SigInfo::new(signal, si::TIMER);
        info.fields[0] = pair(id, overrun);
        info.fields[1] = value;
        info
    }

    /// Sent with a value (`sigqueue(3)`, message queues).
    pub const fn with_value(signal: Signal, code: i32, pid: i32, uid: u32, value: u64) -> SigInfo {
        let mut info = SigInfo::from_user(signal, code, pid, uid);
        info.fields[1] = value;
        info
    }

    /// I/O became possible on `fd`.
    pub const fn poll(signal: Signal, code: i32, band: i64, fd: i32) -> SigInfo {
        let mut info = SigInfo::new(signal, code);
        info.fields[0] = band as u64;
        info.fields[1] = fd as u32 as u64;
        info
    }

    /// A system call refused by seccomp.
    pub const fn seccomp(address: u64, syscall: i32, arch: u32, data: i32) -> SigInfo {
        let mut info = SigInfo::new(Signal::SIGSYS, si::SYS_SECCOMP);
        info.errno = data;
        info.fields[0] = address;
        info.fields[1] = pair(syscall, arch as i32);
        info
    }

    /// The signal, if the number is one.
    pub const fn signal(&self) -> Option<Signal> {
        Signal::new(self.signo)
    }

    /// `si_pid`, where the code has one.
    pub const fn pid(&self) -> i32 {
        self.fields[0] as i32
    }

    /// `si_uid`, where the code has one.
    pub const fn uid(&self) -> u32 {
        (self.fields[0] >> 32) as u32
    }

    /// `si_status`.
    pub const fn status(&self) -> i32 {
        self.fields[1] as i32
    }

    /// Replaces `si_pid` and `si_uid`.
    pub const fn set_sender(&mut self, pid: i32, uid: u32) {
        self.fields[0] = pair(pid, uid as i32);
    }

    /// Replaces a timer's overrun count.
    pub const fn set_overrun(&mut self, overrun: i32) {
        self.fields[0] = pair(self.fields[0] as i32, overrun);
    }
}

/// `struct signalfd_siginfo`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "signalfd(2) describes them")]
pub struct SignalfdSiginfo {
    pub signo: u32,
    pub errno: i32,
    pub code: i32,
    pub pid: u32,
    pub uid: u32,
    pub fd: i32,
    pub tid: u32,
    pub band: u32,
    pub overrun: u32,
    pub trapno: u32,
    pub status: i32,
    pub int: i32,
    pub ptr: u64,
    pub utime: u64,
    pub stime: u64,
    pub addr: u64,
    pub addr_lsb: u16,
    pub pad2: u16,
    pub syscall: i32,
    pub call_addr: u64,
    pub arch: u32,
    pub pad: [u32; 7],
}

/// `struct sigcontext` of x86_64.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "registers")]
pub struct SigContext {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub eflags: u64,
    pub cs: u16,
    pub gs: u16,
    pub fs: u16,
    pub ss: u16,
    pub err: u64,
    pub trapno: u64,
    pub oldmask: u64,
    pub cr2: u64,
    pub fpstate: u64,
    pub reserved: [u64; 8],
}

/// `UC_FP_XSTATE`: the floating-point state is an XSAVE area.
pub const UC_FP_XSTATE: u64 = 1;
/// `UC_SIGCONTEXT_SS`: `ss` in the context is valid.
pub const UC_SIGCONTEXT_SS: u64 = 2;
/// `UC_STRICT_RESTORE_SS`: restore `ss` exactly.
pub const UC_STRICT_RESTORE_SS: u64 = 4;

/// `struct ucontext`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UContext {
    /// `UC_*`.
    pub flags: u64,
    /// Always zero.
    pub link: u64,
    /// The alternate stack.
    pub stack: StackT,
    /// The registers.
    pub mcontext: SigContext,
    /// The mask to restore.
    pub sigmask: SigSet,
}

/// What lies at the stack pointer when a handler starts: return address, context, record.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RtSigFrame {
    /// The restorer.
    pub pretcode: u64,
    /// The interrupted context.
    pub uc: UContext,
    /// Why.
    pub info: SigInfo,
}

/// `FP_XSTATE_MAGIC1`.
pub const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
/// `FP_XSTATE_MAGIC2`, after the XSAVE area.
pub const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;

/// `struct _fpx_sw_bytes`, at byte 464 of the FXSAVE image.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FpxSwBytes {
    /// `FP_XSTATE_MAGIC1`.
    pub magic1: u32,
    /// Size with the trailing magic.
    pub extended_size: u32,
    /// Features in the area.
    pub xfeatures: u64,
    /// Size of the XSAVE area.
    pub xstate_size: u32,
    /// Zero.
    pub padding: [u32; 7],
}
