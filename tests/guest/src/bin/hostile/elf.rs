//! Broken programs: what `execve(2)` says to each, or how it ended.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::ptr;

use crate::Random;

/// Numbers that a header's field may have instead of a good one.
const FIELD_VALUES: [u64; 18] = [
    0,
    1,
    2,
    3,
    0xfff,
    0x1000,
    0x1001,
    0x20_0000,
    0x7fff_f000,
    0x8000_0000,
    0xffff_f000,
    0xffff_ffff,
    1 << 40,
    0x7fff_ffff_e000,
    0x8000_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Scripts, and files that are neither.
const TEXTS: [(&str, &[u8]); 20] = [
    ("empty", b""),
    ("one byte", b"#"),
    ("bare", b"#!"),
    ("newline", b"#!\n"),
    ("blanks", b"#!   \t \n"),
    ("missing", b"#!/no/such/program\n"),
    ("relative", b"#!no-such\n"),
    ("directory", b"#!/\n"),
    ("not executable", b"#!/proc/version\n"),
    ("itself", b"#!./t9\n"),
    ("other", b"#!./t11\n"),
    ("back", b"#!./t10\n"),
    ("no newline", b"#!./t0"),
    ("to empty", b"#!./t0\n"),
    ("nul", b"#!/no\0such\n"),
    ("text", b"hello\n"),
    ("nuls", &[0; 200]),
    ("short elf", b"\x7fELF"),
    ("elf class", b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00"),
    ("long line", &[b'#'; 400]),
];

/// Runs `count` damaged copies of each of `programs`.
pub(crate) fn run(count: usize, seed: u64, programs: &[String]) {
    let directory = std::env::temp_dir().join("broken");
    fs::create_dir_all(&directory).expect("scratch directory");
    std::env::set_current_dir(&directory).expect("scratch directory");
    for (index, (_, text)) in TEXTS.iter().enumerate() {
        store(&format!("t{index}"), text);
    }
    let mut long = b"#!".to_vec();
    long.extend([b'/'; 400]);
    store("t19", &long);
    for (index, (name, _)) in TEXTS.iter().enumerate() {
        println!("text {name}: {}", execute(&format!("./t{index}")));
    }
    // A chain of scripts: as deep as is allowed, and deeper.
    store("c0", b"#!/bin/true\n");
    for depth in 1..8 {
        store(&format!("c{depth}"), format!("#!./c{}\n", depth - 1).as_bytes());
    }
    for depth in 0..8 {
        println!("chain {depth}: {}", execute(&format!("./c{depth}")));
    }
    println!("directory: {}", execute("."));
    println!("device: {}", execute("/dev/null"));
    for path in programs {
        let good = fs::read(path).expect("a program");
        let mut random = Random(seed);
        for round in 0..count {
            let mut bytes = good.clone();
            let what = damage(&mut bytes, round, &mut random);
            store("e", &bytes);
            println!("{path} {round} {what}: {}", execute("./e"));
        }
    }
}

/// Spoils `bytes`; says how.
fn damage(bytes: &mut Vec<u8>, round: usize, random: &mut Random) -> String {
    let headers = usize::from(u16::from_le_bytes([bytes[56], bytes[57]]));
    match round % 4 {
        0 => {
            let to = if random.below(2) == 0 {
                random.below(64 + 56 * headers)
            } else {
                random.below(bytes.len())
            };
            bytes.truncate(to);
            format!("cut to {to}")
        }
        1 => {
            let mut text = String::from("flips");
            for _ in 0..1 + random.below(8) {
                let at = random.below(64 + 56 * headers);
                bytes[at] ^= 1 << random.below(8);
                text += &format!(" {at}");
            }
            text
        }
        2 => {
            // A field of a program header: (offset in it, length).
            let fields = [(0, 4), (4, 4), (8, 8), (16, 8), (32, 8), (40, 8), (48, 8)];
            let (at, len) = fields[random.below(fields.len())];
            let header = random.below(headers);
            let value = FIELD_VALUES[random.below(FIELD_VALUES.len())];
            let start = 64 + 56 * header + at;
            bytes[start..start + len].copy_from_slice(&value.to_le_bytes()[..len]);
            format!("header {header} field {at} = {value:x}")
        }
        _ => {
            // A field of the file's header.
            let fields = [
                (4, 1),
                (5, 1),
                (16, 2),
                (18, 2),
                (20, 4),
                (24, 8),
                (32, 8),
                (48, 4),
                (52, 2),
                (54, 2),
                (56, 2),
            ];
            let (at, len) = fields[random.below(fields.len())];
            let value = FIELD_VALUES[random.below(FIELD_VALUES.len())];
            bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
            format!("field {at} = {value:x}")
        }
    }
}

fn store(name: &str, bytes: &[u8]) {
    let _ = fs::remove_file(name);
    fs::write(name, bytes).expect("write");
    fs::set_permissions(Path::new(name), fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// The errno of `execve`, the signal or the status.
fn execute(path: &str) -> String {
    let name = CString::new(path).expect("no NUL");
    let mut status = 0;
    let mut errno = 0i32;
    // SAFETY: the child execs or leaves; every pointer is valid.
    unsafe {
        let mut pipe = [0; 2];
        libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC);
        let child = libc::fork();
        if child == 0 {
            libc::alarm(2);
            libc::close(0);
            libc::close(1);
            libc::close(2);
            let arguments = [name.as_ptr(), ptr::null()];
            libc::execve(name.as_ptr(), arguments.as_ptr(), [ptr::null()].as_ptr());
            let why = *libc::__errno_location();
            libc::write(pipe[1], (&raw const why).cast(), 4);
            libc::_exit(126);
        }
        libc::close(pipe[1]);
        libc::read(pipe[0], (&raw mut errno).cast(), 4);
        libc::close(pipe[0]);
        libc::waitpid(child, &mut status, 0);
    }
    if errno != 0 {
        format!("errno {errno}")
    } else if libc::WIFSIGNALED(status) {
        format!("signal {}", libc::WTERMSIG(status))
    } else {
        format!("status {}", libc::WEXITSTATUS(status))
    }
}
