//! The line discipline beside the host kernel's own: the same bytes through both.

use super::*;
use proptest::prelude::*;
use rustix::fd::OwnedFd;
use rustix::io::Errno as HostErrno;
use rustix::termios as host;
use std::vec::Vec;

/// A step of a session at a terminal.
#[derive(Clone)]
enum Step {
    /// The user types.
    Type(Vec<u8>),
    /// The program prints.
    Print(Vec<u8>),
    /// The program reads at most so many bytes, if there is something.
    Read(usize),
    /// The program changes the settings.
    Set(Modes),
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Type(bytes) => write!(f, "type {}", text(bytes)),
            Self::Print(bytes) => write!(f, "print {}", text(bytes)),
            Self::Read(n) => write!(f, "read {n}"),
            Self::Set(modes) => write!(f, "set {modes:?}"),
        }
    }
}

#[derive(Clone, Copy)]
struct Modes {
    iflag: u32,
    oflag: u32,
    lflag: u32,
    cc: [u8; NCCS],
}

impl std::fmt::Debug for Modes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "iflag {:#o} oflag {:#o} lflag {:#o}", self.iflag, self.oflag, self.lflag)
    }
}

fn default_cc() -> [u8; NCCS] {
    let mut cc = [0; NCCS];
    cc[VINTR] = 3;
    cc[VQUIT] = 0o34;
    cc[VERASE] = 0x7f;
    cc[VKILL] = 0o25;
    cc[VEOF] = 4;
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

/// The host's terminal.
struct Host {
    master: OwnedFd,
    slave: OwnedFd,
    patience: std::time::Duration,
}

impl Host {
    fn new(patience: std::time::Duration) -> Option<Self> {
        use rustix::fs::{Mode, OFlags, open};
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).ok()?;
        grantpt(&master).ok()?;
        unlockpt(&master).ok()?;
        let name = ptsname(&master, Vec::new()).ok()?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
        let slave = open(name, flags, Mode::empty()).ok()?;
        rustix::io::ioctl_fionbio(&master, true).ok()?;
        Some(Self { master, slave, patience })
    }

    fn set(&self, modes: Modes) {
        let mut t = host::tcgetattr(&self.slave).unwrap();
        t.input_modes = host::InputModes::from_bits_retain(modes.iflag);
        t.output_modes = host::OutputModes::from_bits_retain(modes.oflag);
        t.local_modes = host::LocalModes::from_bits_retain(modes.lflag);
        let keys = [
            (host::SpecialCodeIndex::VINTR, VINTR),
            (host::SpecialCodeIndex::VQUIT, VQUIT),
            (host::SpecialCodeIndex::VERASE, VERASE),
            (host::SpecialCodeIndex::VKILL, VKILL),
            (host::SpecialCodeIndex::VEOF, VEOF),
            (host::SpecialCodeIndex::VMIN, VMIN),
            (host::SpecialCodeIndex::VTIME, VTIME),
            (host::SpecialCodeIndex::VSTART, VSTART),
            (host::SpecialCodeIndex::VSTOP, VSTOP),
            (host::SpecialCodeIndex::VSUSP, VSUSP),
            (host::SpecialCodeIndex::VREPRINT, VREPRINT),
            (host::SpecialCodeIndex::VWERASE, VWERASE),
            (host::SpecialCodeIndex::VLNEXT, VLNEXT),
            (host::SpecialCodeIndex::VEOL, VEOL),
            (host::SpecialCodeIndex::VEOL2, VEOL2),
        ];
        for (index, ours) in keys {
            t.special_codes[index] = modes.cc[ours];
        }
        host::tcsetattr(&self.slave, host::OptionalActions::Now, &t).unwrap();
    }

    /// Waits until the kernel has probably carried what was typed to the line discipline.
    fn settle(&self) {
        std::thread::sleep(self.patience);
    }

    fn step(&self, step: &Step) -> Vec<u8> {
        match step {
            Step::Type(bytes) => {
                let _ = rustix::io::write(&self.master, bytes);
                self.settle();
                Vec::new()
            }
            Step::Print(bytes) => {
                let _ = rustix::io::write(&self.slave, bytes);
                Vec::new()
            }
            Step::Read(n) => {
                let mut out = std::vec![0; *n];
                match rustix::io::read(&self.slave, &mut out[..]) {
                    Ok(n) => {
                        out.truncate(n);
                        out.push(b'.');
                        out
                    }
                    Err(HostErrno::AGAIN) => b"again".to_vec(),
                    Err(error) => std::format!("{error}").into_bytes(),
                }
            }
            Step::Set(modes) => {
                self.set(*modes);
                Vec::new()
            }
        }
    }

    fn output(&self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut out = [0; 8192];
        self.settle();
        while let Ok(n) = rustix::io::read(&self.master, &mut out[..]) {
            all.extend(&out[..n]);
            self.settle();
        }
        all
    }
}

/// Ours, with a device that takes everything.
struct Ours {
    ldisc: Ldisc,
    sent: Vec<u8>,
}

impl Ours {
    fn new() -> Self {
        let termios = Termios2 {
            iflag: 0,
            oflag: 0,
            cflag: CS8 | CREAD | B38400,
            lflag: 0,
            line: 0,
            cc: default_cc(),
            ispeed: 38400,
            ospeed: 38400,
        };
        Self { ldisc: Ldisc::new(termios).unwrap(), sent: Vec::new() }
    }

    fn finish(&mut self) {
        // A pseudo terminal holds no output back, so a flush finds nothing.
        self.ldisc.take_effects();
        self.ldisc.send_echo(|bytes| {
            self.sent.extend(bytes);
            bytes.len()
        });
    }

    fn step(&mut self, step: &Step) -> Vec<u8> {
        match step {
            Step::Type(bytes) => {
                self.ldisc.receive(bytes);
                self.finish();
                Vec::new()
            }
            Step::Print(bytes) => {
                if self.ldisc.is_stopped() {
                    return Vec::new();
                }
                if self.ldisc.processes_output() {
                    let mut out = std::vec![0; bytes.len() * 8];
                    let (used, n) = self.ldisc.process_output(bytes, &mut out);
                    assert_eq!(used, bytes.len());
                    self.sent.extend(&out[..n]);
                } else {
                    self.sent.extend(bytes);
                }
                self.finish();
                Vec::new()
            }
            Step::Read(n) => {
                if !self.ldisc.is_readable(1) {
                    return b"again".to_vec();
                }
                let mut out = std::vec![0; *n];
                let (n, _) = self.ldisc.read(&mut out);
                out.truncate(n);
                out.push(b'.');
                assert!(self.ldisc.buffer.is_consistent());
                out
            }
            Step::Set(modes) => {
                let t = Termios2 {
                    iflag: modes.iflag,
                    oflag: modes.oflag,
                    lflag: modes.lflag,
                    cc: modes.cc,
                    ..*self.ldisc.termios()
                };
                self.ldisc.set_termios(t);
                self.finish();
                Vec::new()
            }
        }
    }
}

fn text(bytes: &[u8]) -> std::string::String {
    bytes.escape_ascii().to_string()
}

/// Runs the steps on both. The host works in the background, so what looks like a difference is
/// tried again with more patience.
fn compare(steps: &[Step]) -> Result<(), TestCaseError> {
    compare_with(steps, std::time::Duration::from_micros(300))
        .or_else(|_| compare_with(steps, std::time::Duration::from_millis(5)))
        .or_else(|_| compare_with(steps, std::time::Duration::from_millis(50)))
}

fn compare_with(steps: &[Step], patience: std::time::Duration) -> Result<(), TestCaseError> {
    let Some(host) = Host::new(patience) else { return Ok(()) };
    let mut ours = Ours::new();
    for (index, step) in steps.iter().enumerate() {
        let expected = host.step(step);
        let found = ours.step(step);
        prop_assert_eq!(text(&found), text(&expected), "step {}", index);
    }
    let expected = host.output();
    prop_assert_eq!(text(&ours.sent), text(&expected), "output");
    Ok(())
}

const COOKED: Modes = Modes {
    iflag: ICRNL | IXON | IUTF8,
    oflag: OPOST | ONLCR,
    lflag: ISIG | ICANON | IEXTEN | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE,
    cc: [3, 0o34, 0x7f, 0o25, 4, 0, 1, 0, 0o21, 0o23, 0o32, 0, 0o22, 0o17, 0o27, 0o26, 0, 0, 0],
};

fn keys() -> impl Strategy<Value = Vec<u8>> {
    let key = prop_oneof![
        6 => proptest::sample::select(b"ab c_/-Z.".to_vec()).prop_map(|b| std::vec![b]),
        2 => proptest::sample::select(std::vec![3, 4, 8, 9, 10, 13, 0o25, 0o27, 0o22, 0o26, 0x7f, 0o34])
            .prop_map(|b: u8| std::vec![b]),
        1 => Just("é".as_bytes().to_vec()),
        1 => Just("漢".as_bytes().to_vec()),
        1 => any::<u8>().prop_map(|b| std::vec![b]),
    ];
    proptest::collection::vec(key, 1..24).prop_map(|keys| keys.concat())
}

fn modes() -> impl Strategy<Value = Modes> {
    let iflag = proptest::sample::subsequence(
        std::vec![INLCR, IGNCR, ICRNL, IUCLC, IUTF8, ISTRIP, PARMRK, IMAXBEL],
        0..4,
    );
    let oflag =
        proptest::sample::subsequence(std::vec![OLCUC, ONLCR, OCRNL, ONOCR, ONLRET, XTABS], 0..4);
    let lflag = proptest::sample::subsequence(
        std::vec![ISIG, ECHO, ECHOE, ECHOK, ECHONL, NOFLSH, ECHOCTL, ECHOPRT, ECHOKE, IEXTEN],
        0..10,
    );
    (iflag, oflag, lflag, any::<bool>(), any::<bool>()).prop_map(|(i, o, l, canon, post)| Modes {
        iflag: i.iter().fold(0, |a, b| a | b),
        oflag: o.iter().fold(if post { OPOST } else { 0 }, |a, b| a | b),
        lflag: l.iter().fold(if canon { ICANON } else { 0 }, |a, b| a | b),
        cc: COOKED.cc,
    })
}

fn steps(with: BoxedStrategy<Modes>, again: bool) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => keys().prop_map(Step::Type),
        2 => keys().prop_map(Step::Print),
        3 => (1usize..40).prop_map(Step::Read),
        if again { 1 } else { 0 } => modes().prop_map(Step::Set),
    ];
    (with, proptest::collection::vec(step, 1..10)).prop_map(|(modes, mut steps)| {
        steps.insert(0, Step::Set(modes));
        steps
    })
}

#[test]
fn output_starts_and_stops_as_on_the_host() {
    let any = Modes { iflag: COOKED.iflag | IXANY, ..COOKED };
    for keys in [
        "a\x11\x13",
        "a\x13",
        "\x11a\x13",
        "\x13a\x11",
        "\x13a\x11\x13",
        "\x13a\x11b\x13",
        "a\x13b\x11\x11\x13c",
        "y\x13x\x13",
        "\x13y\x13x\x13z",
    ] {
        for modes in [COOKED, any] {
            let steps = [Step::Set(modes), Step::Type(keys.as_bytes().to_vec())];
            compare(&steps).unwrap_or_else(|why| panic!("{keys:?}: {why}"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn cooked_as_on_the_host(steps in steps(Just(COOKED).boxed(), false)) {
        compare(&steps)?;
    }

    #[test]
    fn any_modes_as_on_the_host(steps in steps(modes().boxed(), false)) {
        compare(&steps)?;
    }

    #[test]
    fn changing_modes_as_on_the_host(steps in steps(modes().boxed(), true)) {
        compare(&steps)?;
    }
}

#[test]
fn a_line_has_at_most_4095_bytes_and_its_end() {
    let long = std::vec![b'x'; 4090];
    let steps = [
        Step::Set(Modes { lflag: ICANON, ..COOKED }),
        Step::Type(long),
        Step::Type(std::vec![b'y'; 10]),
        Step::Type(b"\n".to_vec()),
        Step::Read(5000),
        Step::Read(10),
    ];
    compare(&steps).unwrap();
}
