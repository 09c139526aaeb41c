//! The registers of a 16550 (National Semiconductor PC16550D data sheet, table II).

/// Receive buffer and transmit holding register; divisor low.
pub(super) const DATA: u16 = 0;
/// Interrupt enable; divisor high.
pub(super) const IER: u16 = 1;
/// Interrupt identification (read), FIFO control (write).
pub(super) const IIR: u16 = 2;
pub(super) const FCR: u16 = 2;
/// Line control.
pub(super) const LCR: u16 = 3;
/// Modem control.
pub(super) const MCR: u16 = 4;
/// Line status.
pub(super) const LSR: u16 = 5;
/// Modem status.
pub(super) const MSR: u16 = 6;
/// Scratch.
pub(super) const SCR: u16 = 7;

pub(super) const IER_RECEIVE: u8 = 1;
pub(super) const IER_TRANSMIT: u8 = 2;
pub(super) const IER_LINE: u8 = 4;
pub(super) const IER_MODEM: u8 = 8;

pub(super) const IIR_NONE: u8 = 1;

pub(super) const FCR_ENABLE: u8 = 1;
pub(super) const FCR_CLEAR_RECEIVE: u8 = 2;
pub(super) const FCR_CLEAR_TRANSMIT: u8 = 4;
/// Interrupt when 8 bytes have come (or a pause follows fewer).
pub(super) const FCR_TRIGGER_8: u8 = 0x80;

pub(super) const LCR_STOP2: u8 = 4;
pub(super) const LCR_PARITY: u8 = 8;
pub(super) const LCR_EVEN: u8 = 0x10;
pub(super) const LCR_STICK: u8 = 0x20;
pub(super) const LCR_BREAK: u8 = 0x40;
pub(super) const LCR_DIVISOR: u8 = 0x80;

pub(super) const MCR_DTR: u8 = 1;
pub(super) const MCR_RTS: u8 = 2;
pub(super) const MCR_OUT1: u8 = 4;
/// Connects the interrupt line on a PC.
pub(super) const MCR_OUT2: u8 = 8;
pub(super) const MCR_LOOP: u8 = 0x10;

pub(super) const LSR_DATA: u8 = 1;
pub(super) const LSR_OVERRUN: u8 = 2;
pub(super) const LSR_PARITY: u8 = 4;
pub(super) const LSR_FRAME: u8 = 8;
pub(super) const LSR_BREAK: u8 = 0x10;
pub(super) const LSR_THRE: u8 = 0x20;
pub(super) const LSR_EMPTY: u8 = 0x40;

pub(super) const MSR_DELTA_CTS: u8 = 1;
pub(super) const MSR_DELTA_DSR: u8 = 2;
pub(super) const MSR_RING_END: u8 = 4;
pub(super) const MSR_DELTA_DCD: u8 = 8;
pub(super) const MSR_CTS: u8 = 0x10;
pub(super) const MSR_DSR: u8 = 0x20;
pub(super) const MSR_RING: u8 = 0x40;
pub(super) const MSR_DCD: u8 = 0x80;

/// How many bytes the transmit FIFO of a 16550A holds.
pub(super) const FIFO_SIZE: usize = 16;

/// The clock divided by 16.
pub(super) const BASE_BAUD: u32 = 115_200;
