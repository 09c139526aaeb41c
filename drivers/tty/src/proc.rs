//! What `/proc/tty` shows.

use alloc::string::String;
use core::fmt::Write;

/// The contents of `/proc/tty/drivers`: name, node, major, minors and kind.
pub fn describe_drivers() -> String {
    let drivers = [
        ("/dev/tty", "/dev/tty", 5, "0", "system:/dev/tty"),
        ("/dev/console", "/dev/console", 5, "1", "system:console"),
        ("/dev/ptmx", "/dev/ptmx", 5, "2", "system"),
        ("hvc", "/dev/hvc", 229, "0-255", "system"),
        ("serial", "/dev/ttyS", 4, "64-67", "serial"),
        ("pty_slave", "/dev/pts", 136, "0-1048575", "pty:slave"),
        ("pty_master", "/dev/ptm", 128, "0-1048575", "pty:master"),
    ];
    let mut text = String::new();
    for (name, node, major, minors, kind) in drivers {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<20} {node:<13} {major:>3} {minors:>7} {kind}");
    }
    text
}
