//! The vDSO is an ELF object that a dynamic linker understands.

#![cfg(not(target_os = "none"))]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use machine::vdso_image::bytes as image;

type ClockFn = extern "C" fn(i32, *mut [i64; 2]) -> i32;
type TimeFn = extern "C" fn(*mut i64) -> i64;

fn u16_at(at: usize) -> usize {
    u16::from_le_bytes(image()[at..at + 2].try_into().unwrap()).into()
}
fn u32_at(at: usize) -> usize {
    u32::from_le_bytes(image()[at..at + 4].try_into().unwrap()) as usize
}
fn u64_at(at: usize) -> usize {
    u64::from_le_bytes(image()[at..at + 8].try_into().unwrap()) as usize
}

fn string(at: usize) -> &'static str {
    let bytes = &image()[at..];
    let end = bytes.iter().position(|b| *b == 0).unwrap();
    std::str::from_utf8(&bytes[..end]).unwrap()
}

fn dynamic(tag: usize) -> usize {
    let headers = (0..u16_at(56)).map(|n| u64_at(32) + n * u16_at(54));
    let at = headers.filter(|at| u32_at(*at) == 2).map(|at| u64_at(at + 16)).next().unwrap();
    (0..).map(|n| at + n * 16).find(|at| u64_at(*at) == tag).map(|at| u64_at(at + 8)).unwrap()
}

/// Looks a symbol up as the dynamic linker does: hash chain, name, version.
fn lookup(name: &str) -> Option<usize> {
    let (hash, strings, symbols, versions) =
        (dynamic(4), dynamic(5), dynamic(6), dynamic(0x6fff_fff0));
    let (buckets, chains) = (u32_at(hash), u32_at(hash + 4));
    assert_eq!(buckets, 1);
    let mut index = u32_at(hash + 8);
    while index != 0 {
        assert!(index < chains);
        let symbol = symbols + index * 24;
        if string(strings + u32_at(symbol)) == name && u16_at(symbol + 6) != 0xfff1 {
            assert_eq!(u16_at(versions + index * 2), 2);
            return Some(u64_at(symbol + 8));
        }
        index = u32_at(hash + 12 + index * 4);
    }
    None
}

fn elf_hash(name: &str) -> usize {
    name.bytes().fold(0u32, |hash, byte| {
        let hash = (hash << 4).wrapping_add(byte.into());
        let high = hash & 0xf000_0000;
        (hash ^ high >> 24) & !high
    }) as usize
}

#[test]
fn versions_are_defined() {
    let strings = dynamic(5);
    let mut at = dynamic(0x6fff_fffc);
    let mut seen = Vec::new();
    for _ in 0..dynamic(0x6fff_fffd) {
        let name = string(strings + u32_at(at + u32_at(at + 12)));
        assert_eq!(u32_at(at + 8), elf_hash(name), "{name}");
        seen.push((u16_at(at + 4), name));
        at += u32_at(at + 16);
    }
    assert_eq!(seen, [(1, "linux-vdso.so.1"), (2, "LINUX_2.6")]);
    assert_eq!(string(strings + dynamic(14)), "linux-vdso.so.1");
}

/// The data page's sequence is odd here, so every function enters the (host's) kernel.
#[test]
fn functions_fall_back() {
    for name in ["clock_gettime", "gettimeofday", "time", "getcpu", "clock_getres"] {
        assert_eq!(lookup(name), lookup(&format!("__vdso_{name}")), "{name}");
        assert!(lookup(name).is_some(), "{name}");
    }
    let base = image().as_ptr() as usize;
    let find = |name| base + lookup(name).unwrap();
    let mut spec = [0i64; 2];
    // SAFETY: the symbols are functions of these types, executable in place on the host.
    let (clock_gettime, time, getres) = unsafe {
        (
            std::mem::transmute::<usize, ClockFn>(find("__vdso_clock_gettime")),
            std::mem::transmute::<usize, TimeFn>(find("__vdso_time")),
            std::mem::transmute::<usize, ClockFn>(find("__vdso_clock_getres")),
        )
    };
    assert_eq!(clock_gettime(0, &mut spec), 0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((now.as_secs() as i64 - spec[0]).abs() <= 1);
    assert!((time(std::ptr::null_mut()) - spec[0]).abs() <= 1);
    assert!(clock_gettime(77, &mut spec) < 0);
    assert_eq!((getres(1, &mut spec), spec), (0, [0, 1]));
}
