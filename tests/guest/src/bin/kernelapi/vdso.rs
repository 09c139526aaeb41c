//! The vDSO and the vsyscall page: found by `AT_SYSINFO_EHDR`, listed in `maps`, agreeing with the
//! system calls, and never running backwards on any processor.

use std::collections::BTreeMap;

type ClockFn = unsafe extern "C" fn(i32, *mut libc::timespec) -> i32;
type GettimeofdayFn = unsafe extern "C" fn(*mut libc::timeval, *mut i32) -> i32;
type TimeFn = unsafe extern "C" fn(*mut i64) -> i64;
type GetcpuFn = unsafe extern "C" fn(*mut u32, *mut u32, usize) -> i64;

/// A 64-bit word of the mapped object.
unsafe fn word(base: u64, at: u64) -> u64 {
    // SAFETY: the caller stays inside of the object.
    unsafe { ((base + at) as *const u64).read_unaligned() }
}

/// The functions by name, from the object's dynamic section.
unsafe fn symbols(base: u64) -> BTreeMap<String, u64> {
    // SAFETY: the kernel's own ELF object, as long as its tables say.
    unsafe {
        let headers = word(base, 32);
        let count = word(base, 56) & 0xffff;
        let header = |n: u64| headers + n * 56;
        let kind = |n: u64| word(base, header(n)) & 0xffff_ffff;
        let Some(dynamic) = (0..count).find(|&n| kind(n) == 2) else { return BTreeMap::new() };
        let Some(load) = (0..count).find(|&n| kind(n) == 1) else { return BTreeMap::new() };
        let slide = base.wrapping_sub(word(base, header(load) + 16));
        let table = base + word(base, header(dynamic) + 8);
        let tag = |tag: u64| {
            (0..).map(|n| table + n * 16).find(|&at| word(at, 0) == tag || word(at, 0) == 0)
        };
        let value = |wanted| tag(wanted).map_or(0, |at| word(at, 8)).wrapping_add(slide);
        let (names, entries, hash) = (value(5), value(6), value(4));
        let chains = word(hash, 4) & 0xffff_ffff;
        let mut found = BTreeMap::new();
        for n in 1..chains {
            let entry = entries + n * 24;
            let name = names + (word(entry, 0) & 0xffff_ffff);
            let name = std::ffi::CStr::from_ptr(name as *const libc::c_char);
            if word(entry, 8) != 0 {
                found.insert(
                    name.to_string_lossy().into_owned(),
                    word(entry, 8).wrapping_add(slide),
                );
            }
        }
        found
    }
}

fn nanoseconds(t: &libc::timespec) -> i128 {
    i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec)
}

/// Reads the clock both ways in turn: each reading must not be before the one it follows.
fn agrees(clock: i32, function: ClockFn) -> bool {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut last = 0;
    for round in 0..2000 {
        // SAFETY: `t` is a timespec.
        let result = unsafe {
            if round % 2 == 0 {
                i64::from(function(clock, &mut t))
            } else {
                libc::syscall(libc::SYS_clock_gettime, clock, &mut t)
            }
        };
        if result != 0 || nanoseconds(&t) < last {
            return false;
        }
        last = nanoseconds(&t);
    }
    true
}

/// Threads pass the latest reading around: what one saw, another's next reading must not precede.
fn monotonic_across_threads(function: ClockFn) -> bool {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let latest = AtomicU64::new(0);
    let good = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50_000 {
                    let before = latest.load(Ordering::SeqCst);
                    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                    // SAFETY: `t` is a timespec.
                    unsafe { function(libc::CLOCK_MONOTONIC, &mut t) };
                    let now = nanoseconds(&t) as u64;
                    if now < before {
                        good.store(false, Ordering::SeqCst);
                    }
                    latest.fetch_max(now, Ordering::SeqCst);
                }
            });
        }
    });
    good.load(Ordering::SeqCst)
}

fn areas() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for name in ["[vvar]", "[vdso]"] {
        for line in maps.lines().filter(|line| line.ends_with(name)) {
            let words: Vec<&str> = line.split_whitespace().collect();
            println!("{name} {}", words[1..].join(" "));
        }
    }
}

/// `getcpu` while pinned to each processor.
fn getcpu(function: GetcpuFn) -> bool {
    // SAFETY: plain system calls on local structures.
    unsafe {
        let count = libc::sysconf(libc::_SC_NPROCESSORS_ONLN) as usize;
        (0..count).all(|cpu| {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
            let (mut seen, mut node) = (99, 99);
            function(&mut seen, &mut node, 0) == 0 && seen as usize == cpu && node == 0
        })
    }
}

/// Runs everything.
pub fn run() {
    // SAFETY: the symbols are functions of the types that vdso(7) gives.
    unsafe {
        let base = libc::getauxval(libc::AT_SYSINFO_EHDR);
        println!("mapped: {}", base != 0 && word(base, 0) as u32 == 0x464c_457f);
        areas();
        let symbols = symbols(base);
        let at = |name: &str| symbols.get(name).copied().unwrap_or(0) as *const ();
        let names = ["clock_gettime", "gettimeofday", "time", "getcpu", "clock_getres"];
        for name in names {
            println!("{name}: {}", !at(&format!("__vdso_{name}")).is_null());
        }
        let clock: ClockFn = std::mem::transmute(at("__vdso_clock_gettime"));
        for id in 0..14 {
            let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            let result = clock(id, &mut t);
            let agrees = result == 0 && (id == 10 || agrees(id, clock));
            println!("clock {id}: {result} {agrees}");
        }
        println!("never backwards: {}", monotonic_across_threads(clock));
        let getres: ClockFn = std::mem::transmute(at("__vdso_clock_getres"));
        for id in [0, 1, 2, 4, 5, 7, 99] {
            let mut t = libc::timespec { tv_sec: 9, tv_nsec: 9 };
            println!("resolution {id}: {} {} {}", getres(id, &mut t), t.tv_sec, t.tv_nsec);
        }
        println!("resolution to nowhere: {}", getres(0, std::ptr::null_mut()));
        let gettimeofday: GettimeofdayFn = std::mem::transmute(at("__vdso_gettimeofday"));
        let time: TimeFn = std::mem::transmute(at("__vdso_time"));
        let mut tv = libc::timeval { tv_sec: 0, tv_usec: -1 };
        let mut zone = [7; 2];
        println!("gettimeofday: {}", gettimeofday(&mut tv, zone.as_mut_ptr()));
        println!("zone {zone:?}, microseconds {}", (0..1_000_000).contains(&tv.tv_usec));
        let mut stored = 0;
        let now = time(&mut stored);
        println!("time: {} {}", now == stored, (now - tv.tv_sec).abs() <= 1);
        let getcpu_entry: GetcpuFn = std::mem::transmute(at("__vdso_getcpu"));
        println!("getcpu: {}", getcpu(getcpu_entry));
    }
}

/// How a child ends that does something to the vsyscall page.
fn child(what: &str, body: impl Fn() -> i32) {
    // SAFETY: the child only runs `body` and leaves.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::_exit(body());
        }
        let mut status = 0;
        libc::waitpid(pid, &mut status, 0);
        println!("{what}: {status:#x}");
    }
}

/// The page of the three old calls: listed last in `maps`, can be called at its entries only.
pub fn vsyscall() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    println!("{}", maps.lines().last().unwrap_or_default());
    const PAGE: usize = 0xffff_ffff_ff60_0000;
    const BAD: usize = 8;
    // SAFETY: the calls fault and are emulated; what goes wrong kills a child.
    unsafe {
        let gettimeofday: GettimeofdayFn = std::mem::transmute(PAGE);
        let time: TimeFn = std::mem::transmute(PAGE + 0x400);
        let getcpu: GetcpuFn = std::mem::transmute(PAGE + 0x800);
        let beyond: TimeFn = std::mem::transmute(PAGE + 0xc00);
        let inside: TimeFn = std::mem::transmute(PAGE + 0x401);
        child("gettimeofday", || {
            let mut tv = libc::timeval { tv_sec: 0, tv_usec: 0 };
            let result = gettimeofday(&mut tv, std::ptr::null_mut());
            i32::from(result == 0 && (tv.tv_sec - libc::time(std::ptr::null_mut())).abs() <= 1)
        });
        child("time", || {
            let now = libc::time(std::ptr::null_mut());
            i32::from((time(std::ptr::null_mut()) - now).abs() <= 1)
        });
        child("getcpu", || {
            let (mut cpu, mut node) = (99, 99);
            let result = getcpu(&mut cpu, &mut node, 0);
            i32::from(result == 0 && cpu < 64 && node == 0)
        });
        child("bad pointer", || {
            gettimeofday(BAD as *mut libc::timeval, std::ptr::null_mut()) as i32
        });
        child("fourth entry", || beyond(std::ptr::null_mut()) as i32);
        child("inside an entry", || inside(std::ptr::null_mut()) as i32);
        child("read", || (PAGE as *const u8).read_volatile().into());
    }
}
