//! The built-in tracer: `tkernel.strace=NAME,…` on the command line prints the system calls of
//! programs with these names to the kernel log, `tkernel.strace=*` those of all. `NAME+` goes on with
//! whatever programs these start or become.
//!
//! A traced thread has the `SYSCALL_TRACE` flag, so that nobody else pays for it.

use crate::names;
use crate::table::{self, Arg, Kind};
use abi::Errno;
use abi::signal::Signal;
use alloc::string::String;
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::thread::flags;
use arch::trap::TrapFrame;
use arch::user;
use core::fmt::Write;
use process::Task;
use spin::Once;

static PATTERNS: Once<Vec<String>> = Once::new();

/// How much of a string or buffer is shown.
const SHOWN: usize = 48;
/// How many strings of an `argv` are shown.
const SHOWN_STRINGS: usize = 8;

/// Reads `tkernel.strace=`'s value; without one nothing is ever traced.
pub fn init(value: Option<&str>) {
    let Some(value) = value else { return };
    PATTERNS.call_once(|| value.split(',').map(String::from).collect());
    process::set_exec_hook(decide);
}

/// A task has become another program.
fn decide(task: &Task) {
    let comm = task.comm();
    let name = comm.split(|&b| b == 0).next().unwrap_or_default();
    let Some(patterns) = PATTERNS.get() else { return };
    match choose(patterns, name, task.has_flag(flags::SYSCALL_TRACE)) {
        true => task.set_flag(flags::SYSCALL_TRACE),
        false => task.clear_flag(flags::SYSCALL_TRACE),
    }
}

/// Whether a program is traced. Who is traced already got there by one of the names, perhaps that of
/// an ancestor: with a name that is followed it stays so.
fn choose(patterns: &[String], name: &[u8], is_traced: bool) -> bool {
    let is_meant = |pattern: &String| {
        pattern == "*" || pattern.strip_suffix('+').unwrap_or(pattern).as_bytes() == name
    };
    let is_followed = is_traced && patterns.iter().any(|pattern| pattern.ends_with('+'));
    is_followed || patterns.iter().any(is_meant)
}

/// A call that has been entered.
pub struct Entered {
    nr: u64,
    args: [u64; 6],
    text: String,
}

/// Notes a call before it runs, while its arguments are what the program passed.
pub fn enter(task: &Task, frame: &TrapFrame) -> Entered {
    let (nr, args) = (frame.orig_rax, frame.args());
    let text = render(nr, &args);
    // Calls that may not come back are shown at once.
    if matches!(nr, 15 | 59 | 60 | 231 | 322) {
        log::info!("{}{text}", prefix(task));
    }
    Entered { nr, args, text }
}

/// Prints a call with its result.
pub fn exit(task: &Task, frame: &TrapFrame, entered: Entered) {
    let Entered { nr, args, text } = entered;
    let mut line = prefix(task);
    let _ = write!(line, "{text} = ");
    let value = frame.rax as i64;
    if (-4095..0).contains(&value) {
        let errno = Errno::from_raw(-(value as i32));
        let _ = write!(line, "-1 {}", errno.name());
    } else if matches!(nr, 9 | 12 | 25) {
        let _ = write!(line, "{value:#x}");
    } else {
        let _ = write!(line, "{value}");
        // What was read is known only now.
        if matches!(nr, 0 | 17) && value > 0 {
            line.push(' ');
            show_bytes(&mut line, VirtAddr(args[1]), value as usize);
        }
    }
    log::info!("{line}");
}

fn prefix(task: &Task) -> String {
    let comm = task.comm();
    let name = comm.split(|&b| b == 0).next().unwrap_or_default();
    let mut line = String::new();
    let _ = write!(line, "[{}:{}] ", String::from_utf8_lossy(name), task.global_tid());
    line
}

fn render(nr: u64, args: &[u64; 6]) -> String {
    let mut text = String::new();
    let name = names::name_of(nr);
    let known = table::describe(nr);
    match name {
        Some(name) => text.push_str(name),
        None => drop(write!(text, "syscall_{nr}")),
    }
    text.push('(');
    let list: &[Arg] = known.map_or(&[], |call| call.args);
    for (i, arg) in list.iter().enumerate() {
        if i > 0 {
            text.push_str(", ");
        }
        let value = args.get(i).copied().unwrap_or(0);
        let next = args.get(i + 1).copied().unwrap_or(0);
        show(&mut text, arg.kind, value, next);
    }
    text.push(')');
    text
}

fn show(out: &mut String, kind: Kind, value: u64, next: u64) {
    let _ = match kind {
        Kind::Dec if value >> 32 != 0 => write!(out, "{}", value as i64),
        Kind::Dec | Kind::Fd => write!(out, "{}", value as i32),
        Kind::Hex => write!(out, "{value:#x}"),
        Kind::Oct => write!(out, "{value:#o}"),
        Kind::At if value as i32 == -100 => write!(out, "AT_FDCWD"),
        Kind::At => write!(out, "{}", value as i32),
        Kind::Path | Kind::Str => show_string(out, VirtAddr(value)),
        Kind::Data => {
            show_bytes(out, VirtAddr(value), next as usize);
            Ok(())
        }
        Kind::Sig => match Signal::new(value as i32) {
            Some(signal) if !signal.is_realtime() => write!(out, "{}", signal.name()),
            _ => write!(out, "{}", value as i32),
        },
        Kind::OpenFlags => show_flags(out, value, ACCESS[(value & 3) as usize], &OPEN_FLAGS, 3),
        Kind::Prot => show_flags(out, value, if value == 0 { "PROT_NONE" } else { "" }, &PROT, 0),
        Kind::MapFlags => {
            let kind = ["MAP_FILE", "MAP_SHARED", "MAP_PRIVATE", "MAP_SHARED_VALIDATE"];
            show_flags(out, value, kind[(value & 3) as usize], &MAP_FLAGS, 3)
        }
        Kind::CloneFlags => show_flags(out, value, "", &CLONE_FLAGS, 0xff),
        Kind::FutexOp => show_futex(out, value as u32),
        Kind::Timespec => show_timespec(out, VirtAddr(value)),
        Kind::Strings => show_strings(out, VirtAddr(value)),
    };
}

const ACCESS: [&str; 4] = ["O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"];
const OPEN_FLAGS: [(u64, &str); 13] = [
    (0x40, "O_CREAT"),
    (0x80, "O_EXCL"),
    (0x100, "O_NOCTTY"),
    (0x200, "O_TRUNC"),
    (0x400, "O_APPEND"),
    (0x800, "O_NONBLOCK"),
    (0x1000, "O_DSYNC"),
    (0x4000, "O_DIRECT"),
    (0x8000, "O_LARGEFILE"),
    (0x1_0000, "O_DIRECTORY"),
    (0x2_0000, "O_NOFOLLOW"),
    (0x8_0000, "O_CLOEXEC"),
    (0x20_0000, "O_PATH"),
];
const PROT: [(u64, &str); 3] = [(1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC")];
const MAP_FLAGS: [(u64, &str); 6] = [
    (0x10, "MAP_FIXED"),
    (0x20, "MAP_ANONYMOUS"),
    (0x100, "MAP_GROWSDOWN"),
    (0x800, "MAP_DENYWRITE"),
    (0x4000, "MAP_NORESERVE"),
    (0x2_0000, "MAP_STACK"),
];
const CLONE_FLAGS: [(u64, &str); 20] = [
    (0x100, "CLONE_VM"),
    (0x200, "CLONE_FS"),
    (0x400, "CLONE_FILES"),
    (0x800, "CLONE_SIGHAND"),
    (0x1000, "CLONE_PIDFD"),
    (0x4000, "CLONE_VFORK"),
    (0x8000, "CLONE_PARENT"),
    (0x1_0000, "CLONE_THREAD"),
    (0x2_0000, "CLONE_NEWNS"),
    (0x4_0000, "CLONE_SYSVSEM"),
    (0x8_0000, "CLONE_SETTLS"),
    (0x10_0000, "CLONE_PARENT_SETTID"),
    (0x20_0000, "CLONE_CHILD_CLEARTID"),
    (0x100_0000, "CLONE_CHILD_SETTID"),
    (0x400_0000, "CLONE_NEWUTS"),
    (0x800_0000, "CLONE_NEWIPC"),
    (0x1000_0000, "CLONE_NEWUSER"),
    (0x2000_0000, "CLONE_NEWPID"),
    (0x4000_0000, "CLONE_NEWNET"),
    (0x8000_0000, "CLONE_IO"),
];

fn show_flags(
    out: &mut String,
    value: u64,
    base: &str,
    flags: &[(u64, &str)],
    base_mask: u64,
) -> core::fmt::Result {
    let mut rest = value & !base_mask;
    let mut first = base.is_empty();
    out.push_str(base);
    for &(bit, name) in flags {
        if rest & bit != 0 {
            rest &= !bit;
            if !first {
                out.push('|');
            }
            first = false;
            out.push_str(name);
        }
    }
    if rest != 0 || first {
        if !first {
            out.push('|');
        }
        write!(out, "{rest:#x}")?;
    }
    Ok(())
}

fn show_futex(out: &mut String, op: u32) -> core::fmt::Result {
    const NAMES: [&str; 13] = [
        "WAIT",
        "WAKE",
        "FD",
        "REQUEUE",
        "CMP_REQUEUE",
        "WAKE_OP",
        "LOCK_PI",
        "UNLOCK_PI",
        "TRYLOCK_PI",
        "WAIT_BITSET",
        "WAKE_BITSET",
        "WAIT_REQUEUE_PI",
        "CMP_REQUEUE_PI",
    ];
    let name = NAMES.get((op & 0x7f) as usize).copied().unwrap_or("?");
    write!(out, "FUTEX_{name}")?;
    if op & 128 != 0 {
        out.push_str("_PRIVATE");
    }
    if op & 256 != 0 {
        out.push_str("|FUTEX_CLOCK_REALTIME");
    }
    Ok(())
}

fn show_timespec(out: &mut String, at: VirtAddr) -> core::fmt::Result {
    if at.is_null() {
        return write!(out, "NULL");
    }
    match user::read_val::<[i64; 2]>(at) {
        Ok([sec, nsec]) => write!(out, "{{{sec}, {nsec}}}"),
        Err(_) => write!(out, "{:#x}", at.0),
    }
}

fn show_string(out: &mut String, at: VirtAddr) -> core::fmt::Result {
    if at.is_null() {
        return write!(out, "NULL");
    }
    let mut buffer = [0u8; 256];
    match user::read_cstr_into(&mut buffer, at) {
        Ok(len) => {
            quote(out, buffer.get(..len).unwrap_or_default());
            Ok(())
        }
        Err(user::StrError::TooLong) => {
            quote(out, &buffer);
            write!(out, "...")
        }
        Err(user::StrError::Fault) => write!(out, "{:#x}", at.0),
    }
}

fn show_strings(out: &mut String, at: VirtAddr) -> core::fmt::Result {
    out.push('[');
    for i in 0..SHOWN_STRINGS {
        let Ok(pointer) = user::read_val::<u64>(at.wrapping_add(i as u64 * 8)) else { break };
        if pointer == 0 {
            return write!(out, "]");
        }
        if i > 0 {
            out.push_str(", ");
        }
        show_string(out, VirtAddr(pointer))?;
    }
    write!(out, ", ...]")
}

fn show_bytes(out: &mut String, at: VirtAddr, len: usize) {
    let mut buffer = [0u8; SHOWN];
    let want = len.min(SHOWN);
    let got = buffer.get_mut(..want).map_or(0, |b| user::copy_from_user_partial(b, at));
    quote(out, buffer.get(..got).unwrap_or_default());
    if got < len {
        out.push_str("...");
    }
}

fn quote(out: &mut String, bytes: &[u8]) {
    out.push('"');
    for &byte in bytes {
        for part in core::ascii::escape_default(byte) {
            out.push(char::from(part));
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_choose_programs() {
        let words = |text: &str| text.split(',').map(String::from).collect::<Vec<_>>();
        assert!(choose(&words("*"), b"ls", false));
        assert!(choose(&words("sh,ls"), b"ls", false) && !choose(&words("sh,ls"), b"cat", true));
        assert!(choose(&words("sh+"), b"sh", false) && !choose(&words("sh+"), b"ls", false));
        assert!(choose(&words("sh+"), b"ls", true));
    }

    #[test]
    fn flags_read_like_strace() {
        let mut text = String::new();
        show(&mut text, Kind::OpenFlags, 0x80241, 0);
        assert_eq!(text, "O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC");
        text.clear();
        show(&mut text, Kind::Prot, 0, 0);
        assert_eq!(text, "PROT_NONE");
        text.clear();
        show(&mut text, Kind::FutexOp, 129, 0);
        assert_eq!(text, "FUTEX_WAKE_PRIVATE");
        text.clear();
        show(&mut text, Kind::Dec, -5i32 as u32 as u64, 0);
        assert_eq!(text, "-5");
        text.clear();
        quote(&mut text, b"a\n\"");
        assert_eq!(text, "\"a\\n\\\"\"");
    }
}
