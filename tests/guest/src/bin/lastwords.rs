//! Process 1 of a machine that ends at once: prints more than the serial port's FIFO holds, then
//! has the machine end as the variable `end` says, which the kernel's command line sets.
//!
//! | `end=`             | how                                             |
//! |--------------------|-------------------------------------------------|
//! | `poweroff`         | `reboot(2)`                                     |
//! | `restart`          | `reboot(2)`                                     |
//! | `sysrq-X`          | `X` written to `/proc/sysrq-trigger`            |
//! | `exit`             | process 1 exits, which is a panic               |

use std::ffi::CString;
use std::fs;
use std::io::Write;

/// Tells whoever reads to stop reading for a while.
const PAUSE: &str = "@@PAUSE@@";
const LAST: &str = "@@LAST@@";
/// What a serial port's ring holds, less a little for line ends.
const AMOUNT: usize = 3500;

fn main() {
    let end = std::env::var("end").unwrap_or_default();
    let mut text = format!("{PAUSE}\n");
    while text.len() < AMOUNT {
        text.push_str("what was written last is what matters\n");
    }
    text.push_str(LAST);
    text.push('\n');
    mount("proc", "/proc");
    // One write: it returns when the terminal has all, not when the wire has.
    let _ = std::io::stdout().write_all(text.as_bytes());
    match end.as_str() {
        "poweroff" => reboot(libc::RB_POWER_OFF),
        "restart" => reboot(libc::RB_AUTOBOOT),
        "exit" => std::process::exit(3),
        other => {
            let key = other.strip_prefix("sysrq-").unwrap_or("o");
            let _ = fs::write("/proc/sysrq-trigger", key);
        }
    }
    loop {
        std::thread::park();
    }
}

fn mount(kind: &str, place: &str) {
    let _ = fs::create_dir(place);
    let (Ok(kind), Ok(place)) = (CString::new(kind), CString::new(place)) else { return };
    // SAFETY: all strings end in NUL, and proc takes no options.
    unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
}

fn reboot(how: libc::c_int) {
    // SAFETY: takes no pointers. It comes back only where it failed.
    unsafe { libc::reboot(how) };
}
