//! Terminals: `termios(3)`, `tty_ioctl(4)`, `ioctl_console(2)`, with x86_64's numbers and layouts.

#![expect(missing_docs, reason = "the names are those of termios(3) and tty_ioctl(4)")]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many control characters the kernel's `termios` has.
pub const NCCS: usize = 19;

/// `struct termios` as the system calls use it (not glibc's larger one).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; NCCS],
}

/// `struct termios2`: with speeds as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termios2 {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; NCCS],
    pub ispeed: u32,
    pub ospeed: u32,
}

/// `struct termio`: System V's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Termio {
    pub iflag: u16,
    pub oflag: u16,
    pub cflag: u16,
    pub lflag: u16,
    pub line: u8,
    pub cc: [u8; 8],
    pub _pad: u8,
}

/// `struct winsize`: the size of the terminal's window.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Winsize {
    pub row: u16,
    pub col: u16,
    pub xpixel: u16,
    pub ypixel: u16,
}

/// `struct serial_struct` of `TIOCGSERIAL` and `TIOCSSERIAL`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SerialStruct {
    pub kind: i32,
    pub line: i32,
    pub port: u32,
    pub irq: i32,
    pub flags: i32,
    pub xmit_fifo_size: i32,
    pub custom_divisor: i32,
    pub baud_base: i32,
    pub close_delay: u16,
    pub io_type: u8,
    pub reserved: u8,
    pub hub6: i32,
    pub closing_wait: u16,
    pub closing_wait2: u16,
    pub _pad: u32,
    pub iomem_base: u64,
    pub iomem_reg_shift: u16,
    pub _pad2: u16,
    pub port_high: u32,
    pub iomap_base: u64,
}

/// `struct serial_icounter_struct` of `TIOCGICOUNT`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SerialCounters {
    pub cts: i32,
    pub dsr: i32,
    pub rng: i32,
    pub dcd: i32,
    pub rx: i32,
    pub tx: i32,
    pub frame: i32,
    pub overrun: i32,
    pub parity: i32,
    pub brk: i32,
    pub buf_overrun: i32,
    pub reserved: [i32; 9],
}

// Indices into `cc`.
pub const VINTR: usize = 0;
pub const VQUIT: usize = 1;
pub const VERASE: usize = 2;
pub const VKILL: usize = 3;
pub const VEOF: usize = 4;
pub const VTIME: usize = 5;
pub const VMIN: usize = 6;
pub const VSWTC: usize = 7;
pub const VSTART: usize = 8;
pub const VSTOP: usize = 9;
pub const VSUSP: usize = 10;
pub const VEOL: usize = 11;
pub const VREPRINT: usize = 12;
pub const VDISCARD: usize = 13;
pub const VWERASE: usize = 14;
pub const VLNEXT: usize = 15;
pub const VEOL2: usize = 16;
/// A control character with this value is switched off.
pub const POSIX_VDISABLE: u8 = 0;

// `iflag`: input modes.
pub const IGNBRK: u32 = 0x1;
pub const BRKINT: u32 = 0x2;
pub const IGNPAR: u32 = 0x4;
pub const PARMRK: u32 = 0x8;
pub const INPCK: u32 = 0x10;
pub const ISTRIP: u32 = 0x20;
pub const INLCR: u32 = 0x40;
pub const IGNCR: u32 = 0x80;
pub const ICRNL: u32 = 0x100;
pub const IUCLC: u32 = 0x200;
pub const IXON: u32 = 0x400;
pub const IXANY: u32 = 0x800;
pub const IXOFF: u32 = 0x1000;
pub const IMAXBEL: u32 = 0x2000;
pub const IUTF8: u32 = 0x4000;

// `oflag`: output modes.
pub const OPOST: u32 = 0x1;
pub const OLCUC: u32 = 0x2;
pub const ONLCR: u32 = 0x4;
pub const OCRNL: u32 = 0x8;
pub const ONOCR: u32 = 0x10;
pub const ONLRET: u32 = 0x20;
pub const OFILL: u32 = 0x40;
pub const OFDEL: u32 = 0x80;
pub const NLDLY: u32 = 0x100;
pub const CRDLY: u32 = 0x600;
pub const TABDLY: u32 = 0x1800;
pub const TAB0: u32 = 0x0;
pub const TAB1: u32 = 0x800;
pub const TAB2: u32 = 0x1000;
pub const TAB3: u32 = 0x1800;
pub const XTABS: u32 = 0x1800;
pub const BSDLY: u32 = 0x2000;
pub const VTDLY: u32 = 0x4000;
pub const FFDLY: u32 = 0x8000;

// `cflag`: control modes.
pub const CBAUD: u32 = 0x100f;
pub const CSIZE: u32 = 0x30;
pub const CS5: u32 = 0x0;
pub const CS6: u32 = 0x10;
pub const CS7: u32 = 0x20;
pub const CS8: u32 = 0x30;
pub const CSTOPB: u32 = 0x40;
pub const CREAD: u32 = 0x80;
pub const PARENB: u32 = 0x100;
pub const PARODD: u32 = 0x200;
pub const HUPCL: u32 = 0x400;
pub const CLOCAL: u32 = 0x800;
pub const CBAUDEX: u32 = 0x1000;
pub const BOTHER: u32 = 0x1000;
pub const CIBAUD: u32 = 0x100f0000;
pub const CMSPAR: u32 = 0x40000000;
pub const CRTSCTS: u32 = 0x80000000;

// `lflag`: local modes.
pub const ISIG: u32 = 0x1;
pub const ICANON: u32 = 0x2;
pub const XCASE: u32 = 0x4;
pub const ECHO: u32 = 0x8;
pub const ECHOE: u32 = 0x10;
pub const ECHOK: u32 = 0x20;
pub const ECHONL: u32 = 0x40;
pub const NOFLSH: u32 = 0x80;
pub const TOSTOP: u32 = 0x100;
pub const ECHOCTL: u32 = 0x200;
pub const ECHOPRT: u32 = 0x400;
pub const ECHOKE: u32 = 0x800;
pub const FLUSHO: u32 = 0x1000;
pub const PENDIN: u32 = 0x4000;
pub const IEXTEN: u32 = 0x8000;
pub const EXTPROC: u32 = 0x10000;
/// Where the input speed lies in `cflag`.
pub const IBSHIFT: u32 = 16;

// Speeds.
pub const B57600: u32 = 0x1001;
pub const B115200: u32 = 0x1002;
pub const B230400: u32 = 0x1003;
pub const B460800: u32 = 0x1004;
pub const B500000: u32 = 0x1005;
pub const B576000: u32 = 0x1006;
pub const B921600: u32 = 0x1007;
pub const B1000000: u32 = 0x1008;
pub const B1152000: u32 = 0x1009;
pub const B1500000: u32 = 0x100a;
pub const B2000000: u32 = 0x100b;
pub const B2500000: u32 = 0x100c;
pub const B3000000: u32 = 0x100d;
pub const B3500000: u32 = 0x100e;
pub const B4000000: u32 = 0x100f;
pub const B0: u32 = 0x0;
pub const B50: u32 = 0x1;
pub const B75: u32 = 0x2;
pub const B110: u32 = 0x3;
pub const B134: u32 = 0x4;
pub const B150: u32 = 0x5;
pub const B200: u32 = 0x6;
pub const B300: u32 = 0x7;
pub const B600: u32 = 0x8;
pub const B1200: u32 = 0x9;
pub const B1800: u32 = 0xa;
pub const B2400: u32 = 0xb;
pub const B4800: u32 = 0xc;
pub const B9600: u32 = 0xd;
pub const B19200: u32 = 0xe;
pub const B38400: u32 = 0xf;

// Arguments of `TCFLSH` and `TCXONC`.
pub const TCOOFF: u64 = 0;
pub const TCOON: u64 = 1;
pub const TCIOFF: u64 = 2;
pub const TCION: u64 = 3;
pub const TCIFLUSH: u64 = 0;
pub const TCOFLUSH: u64 = 1;
pub const TCIOFLUSH: u64 = 2;

// Requests, and the status byte of packet mode.
pub const TCGETS: u32 = 0x5401;
pub const TCSETS: u32 = 0x5402;
pub const TCSETSW: u32 = 0x5403;
pub const TCSETSF: u32 = 0x5404;
pub const TCGETA: u32 = 0x5405;
pub const TCSETA: u32 = 0x5406;
pub const TCSETAW: u32 = 0x5407;
pub const TCSETAF: u32 = 0x5408;
pub const TCSBRK: u32 = 0x5409;
pub const TCXONC: u32 = 0x540a;
pub const TCFLSH: u32 = 0x540b;
pub const TIOCEXCL: u32 = 0x540c;
pub const TIOCNXCL: u32 = 0x540d;
pub const TIOCSCTTY: u32 = 0x540e;
pub const TIOCGPGRP: u32 = 0x540f;
pub const TIOCSPGRP: u32 = 0x5410;
pub const TIOCOUTQ: u32 = 0x5411;
pub const TIOCSTI: u32 = 0x5412;
pub const TIOCGWINSZ: u32 = 0x5413;
pub const TIOCSWINSZ: u32 = 0x5414;
pub const TIOCMGET: u32 = 0x5415;
pub const TIOCMBIS: u32 = 0x5416;
pub const TIOCMBIC: u32 = 0x5417;
pub const TIOCMSET: u32 = 0x5418;
pub const TIOCGSOFTCAR: u32 = 0x5419;
pub const TIOCSSOFTCAR: u32 = 0x541a;
pub const FIONREAD: u32 = 0x541b;
pub const TIOCLINUX: u32 = 0x541c;
pub const TIOCCONS: u32 = 0x541d;
pub const TIOCGSERIAL: u32 = 0x541e;
pub const TIOCSSERIAL: u32 = 0x541f;
pub const TIOCPKT: u32 = 0x5420;
pub const FIONBIO: u32 = 0x5421;
pub const TIOCNOTTY: u32 = 0x5422;
pub const TIOCSETD: u32 = 0x5423;
pub const TIOCGETD: u32 = 0x5424;
pub const TCSBRKP: u32 = 0x5425;
pub const TIOCSBRK: u32 = 0x5427;
pub const TIOCCBRK: u32 = 0x5428;
pub const TIOCGSID: u32 = 0x5429;
pub const TCGETS2: u32 = 0x802c542a;
pub const TCSETS2: u32 = 0x402c542b;
pub const TCSETSW2: u32 = 0x402c542c;
pub const TCSETSF2: u32 = 0x402c542d;
pub const TIOCGRS485: u32 = 0x542e;
pub const TIOCSRS485: u32 = 0x542f;
pub const TIOCGPTN: u32 = 0x80045430;
pub const TIOCSPTLCK: u32 = 0x40045431;
pub const TIOCGDEV: u32 = 0x80045432;
pub const TCGETX: u32 = 0x5432;
pub const TCSETX: u32 = 0x5433;
pub const TCSETXF: u32 = 0x5434;
pub const TCSETXW: u32 = 0x5435;
pub const TIOCSIG: u32 = 0x40045436;
pub const TIOCVHANGUP: u32 = 0x5437;
pub const TIOCGPKT: u32 = 0x80045438;
pub const TIOCGPTLCK: u32 = 0x80045439;
pub const TIOCGEXCL: u32 = 0x80045440;
pub const TIOCGPTPEER: u32 = 0x5441;
pub const TIOCGISO7816: u32 = 0x802c5442;
pub const TIOCSISO7816: u32 = 0xc02c5443;
pub const FIONCLEX: u32 = 0x5450;
pub const FIOCLEX: u32 = 0x5451;
pub const FIOASYNC: u32 = 0x5452;
pub const TIOCSERCONFIG: u32 = 0x5453;
pub const TIOCSERGWILD: u32 = 0x5454;
pub const TIOCSERSWILD: u32 = 0x5455;
pub const TIOCGLCKTRMIOS: u32 = 0x5456;
pub const TIOCSLCKTRMIOS: u32 = 0x5457;
pub const TIOCSERGSTRUCT: u32 = 0x5458;
pub const TIOCSERGETLSR: u32 = 0x5459;
pub const TIOCSERGETMULTI: u32 = 0x545a;
pub const TIOCSERSETMULTI: u32 = 0x545b;
pub const TIOCMIWAIT: u32 = 0x545c;
pub const TIOCGICOUNT: u32 = 0x545d;
pub const TIOCPKT_DATA: u8 = 0;
pub const TIOCPKT_FLUSHREAD: u8 = 1;
pub const TIOCPKT_FLUSHWRITE: u8 = 2;
pub const TIOCPKT_STOP: u8 = 4;
pub const TIOCPKT_START: u8 = 8;
pub const TIOCPKT_NOSTOP: u8 = 16;
pub const TIOCPKT_DOSTOP: u8 = 32;
pub const TIOCPKT_IOCTL: u8 = 64;
pub const TIOCSER_TEMT: u32 = 1;
pub const TIOCINQ: u32 = FIONREAD;

// Modem lines.
pub const TIOCM_LE: u32 = 0x1;
pub const TIOCM_DTR: u32 = 0x2;
pub const TIOCM_RTS: u32 = 0x4;
pub const TIOCM_ST: u32 = 0x8;
pub const TIOCM_SR: u32 = 0x10;
pub const TIOCM_CTS: u32 = 0x20;
pub const TIOCM_CAR: u32 = 0x40;
pub const TIOCM_RNG: u32 = 0x80;
pub const TIOCM_DSR: u32 = 0x100;
pub const TIOCM_OUT1: u32 = 0x2000;
pub const TIOCM_OUT2: u32 = 0x4000;
pub const TIOCM_LOOP: u32 = 0x8000;

// `serial_struct`: kinds and access.
pub const PORT_UNKNOWN: i32 = 0;
pub const PORT_16450: i32 = 2;
pub const PORT_16550A: i32 = 4;
pub const SERIAL_IO_PORT: u8 = 0;

/// The line discipline of terminals.
pub const N_TTY: u8 = 0;
