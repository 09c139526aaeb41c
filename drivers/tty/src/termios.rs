//! The settings of terminals: defaults, speeds, and the formats programs hand in.

use abi::termios::*;

/// The settings a terminal starts with (termios(3); what `stty sane` restores).
pub const INITIAL: Termios2 = Termios2 {
    iflag: ICRNL | IXON,
    oflag: OPOST | ONLCR,
    cflag: B38400 | CS8 | CREAD | HUPCL,
    lflag: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
    line: N_TTY,
    cc: initial_keys(),
    ispeed: 38400,
    ospeed: 38400,
};

/// The settings of a pseudo terminal's slave.
pub const PTY: Termios2 = Termios2 { cflag: B38400 | CS8 | CREAD, ..INITIAL };

/// The settings of a serial port.
pub const SERIAL: Termios2 =
    Termios2 { cflag: B9600 | CS8 | CREAD | HUPCL | CLOCAL, ispeed: 9600, ospeed: 9600, ..INITIAL };

const fn initial_keys() -> [u8; NCCS] {
    let mut cc = [0; NCCS];
    cc[VINTR] = 0o3;
    cc[VQUIT] = 0o34;
    cc[VERASE] = 0o177;
    cc[VKILL] = 0o25;
    cc[VEOF] = 0o4;
    cc[VMIN] = 1;
    cc[VSTART] = 0o21;
    cc[VSTOP] = 0o23;
    cc[VSUSP] = 0o32;
    cc[VREPRINT] = 0o22;
    cc[VDISCARD] = 0o17;
    cc[VWERASE] = 0o27;
    cc[VLNEXT] = 0o26;
    cc
}

const SPEEDS: [(u32, u32); 31] = [
    (B0, 0),
    (B50, 50),
    (B75, 75),
    (B110, 110),
    (B134, 134),
    (B150, 150),
    (B200, 200),
    (B300, 300),
    (B600, 600),
    (B1200, 1200),
    (B1800, 1800),
    (B2400, 2400),
    (B4800, 4800),
    (B9600, 9600),
    (B19200, 19200),
    (B38400, 38400),
    (B57600, 57600),
    (B115200, 115_200),
    (B230400, 230_400),
    (B460800, 460_800),
    (B500000, 500_000),
    (B576000, 576_000),
    (B921600, 921_600),
    (B1000000, 1_000_000),
    (B1152000, 1_152_000),
    (B1500000, 1_500_000),
    (B2000000, 2_000_000),
    (B2500000, 2_500_000),
    (B3000000, 3_000_000),
    (B3500000, 3_500_000),
    (B4000000, 4_000_000),
];

/// The number behind a `B…` code; `None` for `BOTHER` and unknown codes.
pub fn speed_of(code: u32) -> Option<u32> {
    SPEEDS.iter().find(|(known, _)| *known == code).map(|(_, speed)| *speed)
}

/// The `B…` code of a number, `BOTHER` when it has none.
pub fn code_of(speed: u32) -> u32 {
    SPEEDS.iter().find(|(_, known)| *known == speed).map_or(BOTHER, |(code, _)| *code)
}

/// Puts speeds into the settings, as codes and as numbers.
pub fn set_speed(t: &mut Termios2, input: u32, output: u32) {
    t.ispeed = input;
    t.ospeed = output;
    let had_input_code = (t.cflag >> IBSHIFT) & CBAUD != 0;
    t.cflag &= !(CBAUD | CIBAUD);
    t.cflag |= code_of(output);
    if had_input_code || input != output {
        t.cflag |= code_of(input) << IBSHIFT;
    }
}

/// Derives the numeric speeds from the codes; those of `BOTHER` stay as they are.
pub fn resolve_speeds(t: &mut Termios2) {
    let output = t.cflag & CBAUD;
    if let Some(speed) = speed_of(output) {
        t.ospeed = speed;
    }
    match (t.cflag >> IBSHIFT) & CBAUD {
        0 => t.ispeed = t.ospeed,
        code => {
            if let Some(speed) = speed_of(code) {
                t.ispeed = speed;
            }
        }
    }
}

/// What `TCGETS` shows.
pub fn to_termios(t: &Termios2) -> Termios {
    Termios {
        iflag: t.iflag,
        oflag: t.oflag,
        cflag: t.cflag,
        lflag: t.lflag,
        line: t.line,
        cc: t.cc,
    }
}

/// What `TCSETS` means.
pub fn from_termios(t: &Termios, old: &Termios2) -> Termios2 {
    let mut new = Termios2 {
        iflag: t.iflag,
        oflag: t.oflag,
        cflag: t.cflag,
        lflag: t.lflag,
        line: t.line,
        cc: t.cc,
        ispeed: old.ispeed,
        ospeed: old.ospeed,
    };
    resolve_speeds(&mut new);
    new
}

/// What `TCGETA` shows.
pub fn to_termio(t: &Termios2) -> Termio {
    let mut cc = [0; 8];
    for (to, from) in cc.iter_mut().zip(t.cc) {
        *to = from;
    }
    Termio {
        iflag: t.iflag as u16,
        oflag: t.oflag as u16,
        cflag: t.cflag as u16,
        lflag: t.lflag as u16,
        line: t.line,
        cc,
        _pad: 0,
    }
}

/// What `TCSETA` means: the lower halves of the modes, and the first control characters.
pub fn from_termio(t: &Termio, old: &Termios2) -> Termios2 {
    let half = |old: u32, new: u16| old & 0xffff_0000 | u32::from(new);
    let mut new = Termios2 {
        iflag: half(old.iflag, t.iflag),
        oflag: half(old.oflag, t.oflag),
        cflag: half(old.cflag, t.cflag),
        lflag: half(old.lflag, t.lflag),
        line: t.line,
        ..*old
    };
    for (to, from) in new.cc.iter_mut().zip(t.cc) {
        *to = from;
    }
    resolve_speeds(&mut new);
    new
}

/// How many bits a character takes on the line, with start, stop and parity bits.
pub fn bits_per_character(cflag: u32) -> u32 {
    let data = match cflag & CSIZE {
        CS5 => 5,
        CS6 => 6,
        CS7 => 7,
        _ => 8,
    };
    let stop = if cflag & CSTOPB != 0 { 2 } else { 1 };
    let parity = if cflag & PARENB != 0 { 1 } else { 0 };
    1 + data + stop + parity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_round_trip() {
        let mut t = INITIAL;
        set_speed(&mut t, 115_200, 115_200);
        assert_eq!(t.cflag & CBAUD, B115200);
        t.ospeed = 0;
        resolve_speeds(&mut t);
        assert_eq!((t.ispeed, t.ospeed), (115_200, 115_200));
        set_speed(&mut t, 12_345, 12_345);
        assert_eq!(t.cflag & CBAUD, BOTHER);
        resolve_speeds(&mut t);
        assert_eq!(t.ospeed, 12_345);
    }
}
