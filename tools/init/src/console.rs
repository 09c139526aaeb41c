//! The terminal that people see.

use rustix::termios::{
    LocalModes, OptionalActions, OutputModes, Termios, Winsize, tcgetattr, tcsetattr, tcsetwinsize,
};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What opens without becoming the controlling terminal.
const NO_CONTROLLING_TERMINAL: i32 = rustix::fs::OFlags::NOCTTY.bits() as i32;

/// The device of the last `console=` on the kernel's command line. A session cannot be had on
/// `/dev/console` itself: it is the fallback.
pub(crate) fn path() -> String {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let word = line.split_whitespace().rev().find_map(|word| word.strip_prefix("console="));
    let name = word.and_then(|word| word.split(',').next()).unwrap_or("ttyS0");
    let path = format!("/dev/{name}");
    if Path::new(&path).exists() { path } else { "/dev/console".into() }
}

fn open(path: &str) -> Option<File> {
    let mut how = OpenOptions::new();
    how.read(true).write(true).custom_flags(NO_CONTROLLING_TERMINAL).open(path).ok()
}

fn change(path: &str, how: impl FnOnce(&mut Termios)) {
    let Some(terminal) = open(path) else { return };
    if let Ok(mut modes) = tcgetattr(&terminal) {
        how(&mut modes);
        let _ = tcsetattr(&terminal, OptionalActions::Now, &modes);
    }
}

/// Leaves what passes as it is: a line between programs.
pub(crate) fn make_raw(path: &str) {
    change(path, Termios::make_raw);
}

/// Lets line ends out as the program wrote them: the host has a terminal of its own, or a file.
pub(crate) fn keep_line_ends(path: &str) {
    change(path, |modes| {
        modes.output_modes.remove(OutputModes::OPOST);
        modes.local_modes.insert(LocalModes::ICANON | LocalModes::ISIG);
    });
}

/// Sets the window's size, of which the foreground processes hear by `SIGWINCH`.
pub(crate) fn set_size(path: &str, rows: u16, columns: u16) {
    if let Some(terminal) = open(path) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let _ = tcsetwinsize(&terminal, size);
    }
}

/// Sets the size that the kernel's command line names in `LINES=` and `COLUMNS=`, else 24 by 80.
pub(crate) fn set_size_from_environment(path: &str) {
    let number = |name, default| {
        let text = std::env::var(name).ok();
        text.and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    set_size(path, number("LINES", 24), number("COLUMNS", 80));
}
