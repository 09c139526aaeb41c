//! Corner cases of the calls that change address spaces. `mmapapi NAME` prints what each call
//! returned: the same text on every kernel.

use std::ffi::c_void;
use std::ptr;

const PAGE: usize = 4096;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const ANON: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
/// Far from everything that the loader and malloc use.
const BASE: usize = 0x5000_0000_0000;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("map") => map(),
        Some("protect") => protect(),
        Some("remap") => remap(),
        Some("advise") => advise(),
        Some("lock") => lock(),
        Some("limits") => limits(),
        Some("files") => files(),
        Some("stack") => stack(),
        Some("huge") => huge(),
        other => {
            eprintln!("mmapapi: unknown scenario {other:?}");
            std::process::exit(2);
        }
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// 0 or the error of a call that returns -1.
fn code(result: i32) -> i32 {
    if result == -1 { errno() } else { result }
}

/// The address relative to `BASE` in pages, or the error.
fn place(at: *mut c_void) -> String {
    if at == libc::MAP_FAILED {
        return format!("error {}", errno());
    }
    let at = at as usize;
    if (BASE..BASE + (1 << 30)).contains(&at) {
        format!("+{}", (at - BASE) / PAGE)
    } else {
        String::from("elsewhere")
    }
}

fn at(page: usize) -> *mut c_void {
    (BASE + page * PAGE) as *mut c_void
}

fn mmap(addr: *mut c_void, len: usize, prot: i32, flags: i32, fd: i32, off: i64) -> *mut c_void {
    // SAFETY: at `BASE` nothing else lives; elsewhere the kernel chooses.
    unsafe { libc::mmap(addr, len, prot, flags, fd, off) }
}

fn fixed(page: usize, pages: usize) -> *mut c_void {
    mmap(at(page), pages * PAGE, RW, ANON | libc::MAP_FIXED, -1, 0)
}

fn munmap(page: usize, pages: usize) -> i32 {
    // SAFETY: only our own area.
    code(unsafe { libc::munmap(at(page), pages * PAGE) })
}

fn mprotect(page: usize, pages: usize, prot: i32) -> i32 {
    // SAFETY: only our own area.
    code(unsafe { libc::mprotect(at(page), pages * PAGE, prot) })
}

fn madvise(page: usize, pages: usize, advice: i32) -> i32 {
    // SAFETY: only our own area.
    code(unsafe { libc::madvise(at(page), pages * PAGE, advice) })
}

fn poke(page: usize, value: u8) {
    // SAFETY: the page is mapped and writable, or the signal is what the child is to show.
    unsafe { at(page).cast::<u8>().write_volatile(value) };
}

fn peek(page: usize) -> u8 {
    // SAFETY: as in `poke`.
    unsafe { at(page).cast::<u8>().read_volatile() }
}

/// How a child that runs `work` ends: "ok" or the signal.
fn fate(work: impl FnOnce()) -> String {
    // SAFETY: one thread; the child only runs `work` and leaves.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            work();
            libc::_exit(0);
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        if libc::WIFSIGNALED(status) {
            format!("signal {}", libc::WTERMSIG(status))
        } else {
            format!("ok {}", libc::WEXITSTATUS(status))
        }
    }
}

fn areas() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        let Some((start, end)) = range.split_once('-') else { continue };
        let page = |text: &str| usize::from_str_radix(text, 16).unwrap_or(0);
        let (start, end) = (page(start), page(end));
        if (BASE..BASE + (1 << 30)).contains(&start) {
            found.push(format!("{}-{} {rights}", (start - BASE) / PAGE, (end - BASE) / PAGE));
        }
    }
    found
}

fn map() {
    println!("length 0: {}", place(mmap(ptr::null_mut(), 0, RW, ANON, -1, 0)));
    println!("no type: {}", place(mmap(ptr::null_mut(), PAGE, RW, libc::MAP_ANONYMOUS, -1, 0)));
    println!("both: {}", place(mmap(at(0), PAGE, RW, libc::MAP_ANONYMOUS | 3, -1, 0)));
    println!("offset: {}", place(mmap(at(0), PAGE, RW, libc::MAP_PRIVATE, 0, 5)));
    println!("fd: {}", place(mmap(at(0), PAGE, RW, libc::MAP_PRIVATE, 999, 0)));
    println!("huge: {}", place(mmap(ptr::null_mut(), usize::MAX - PAGE, RW, ANON, -1, 0)));
    println!("half: {}", place(mmap(ptr::null_mut(), 1 << 47, libc::PROT_NONE, ANON, -1, 0)));
    println!(
        "unaligned: {}",
        place(mmap(std::ptr::dangling_mut::<c_void>(), PAGE, RW, ANON | 0x10, -1, 0))
    );
    println!(
        "kernel: {}",
        place(mmap((1usize << 62) as *mut c_void, PAGE, RW, ANON | 0x10, -1, 0))
    );
    println!("fixed: {}", place(fixed(0, 8)));
    println!("noreplace: {}", place(mmap(at(7), 2 * PAGE, RW, ANON | 0x10_0000, -1, 0)));
    println!("noreplace: {}", place(mmap(at(8), 2 * PAGE, RW, ANON | 0x10_0000, -1, 0)));
    println!("hint taken: {}", place(mmap(at(100), PAGE, RW, ANON, -1, 0)));
    println!("hint used: {}", place(mmap(at(1), PAGE, RW, ANON, -1, 0)));
    println!(
        "munmap unaligned: {}",
        code(unsafe { libc::munmap(std::ptr::dangling_mut::<c_void>(), PAGE) })
    );
    println!("munmap 0: {}", munmap(0, 0));
    println!("munmap hole: {} {}", munmap(3, 2), munmap(3, 2));
    println!(
        "munmap kernel: {}",
        code(unsafe { libc::munmap((1usize << 62) as *mut c_void, PAGE) })
    );
    println!("{:?}", areas());
    println!("fill: {}", place(fixed(3, 2)));
    println!("{:?}", areas());
    println!("hole: {}", fate(|| poke(200, 1)));
    println!("zero: {}", peek(0));
    println!("32 bit: {}", {
        let low = mmap(ptr::null_mut(), PAGE, RW, ANON | libc::MAP_32BIT, -1, 0);
        (low as usize) < 1 << 31
    });
    println!("munmap all: {} {:?}", munmap(0, 1000), areas());
}

fn protect() {
    fixed(0, 8);
    println!(
        "unaligned: {}",
        code(unsafe { libc::mprotect(std::ptr::dangling_mut::<c_void>(), PAGE, 1) })
    );
    println!("bad: {}", mprotect(0, 1, 0x100));
    println!("grows: {} {}", mprotect(0, 1, 0x0300_0000), mprotect(0, 1, 0x0100_0000));
    println!("empty: {}", mprotect(50, 0, 1));
    println!("nothing: {}", mprotect(50, 1, 1));
    println!("hole: {}", mprotect(6, 4, libc::PROT_READ));
    println!("{:?}", areas());
    println!("read only: {}", fate(|| poke(7, 1)));
    println!("middle: {} {:?}", mprotect(2, 2, libc::PROT_NONE), areas());
    println!("none: {}", fate(|| _ = peek(2)));
    // SAFETY: the kernel looks at the pages itself.
    let written = unsafe { libc::write(1, at(2), 1) };
    println!("write from none: {written} {}", errno());
    // SAFETY: likewise.
    let read = unsafe { libc::read(0, at(7), 1) };
    println!("read to read-only: {}", if read == -1 { errno() } else { 0 });
    println!("back: {} {}", mprotect(0, 8, RW), areas().join(","));
    println!("overflow: {}", code(unsafe { libc::mprotect(at(0), usize::MAX - PAGE, 1) }));
    println!(
        "exec: {}",
        fate(|| {
            // SAFETY: the page holds a return instruction, and has no right to run.
            unsafe {
                at(0).cast::<u8>().write(0xc3);
                core::mem::transmute::<*mut c_void, extern "C" fn()>(at(0))();
            }
        })
    );
}

fn mremap(page: usize, old: usize, new: usize, flags: i32, to: usize) -> String {
    // SAFETY: only our own area.
    place(unsafe { libc::mremap(at(page), old * PAGE, new * PAGE, flags, at(to)) })
}

fn remap() {
    fixed(0, 4);
    (0..4).for_each(|page| poke(page, page as u8 + 1));
    println!("in place: {}", mremap(0, 4, 8, 0, 0));
    fixed(8, 1);
    println!("blocked: {}", mremap(0, 8, 16, 0, 0));
    println!("shrink: {} {:?}", mremap(0, 8, 2, 0, 0), areas());
    println!("fixed alone: {}", mremap(0, 2, 2, 2, 20));
    println!("fixed: {} {:?} {}", mremap(0, 2, 4, 3, 20), areas(), peek(21));
    println!("overlap: {}", mremap(20, 4, 4, 3, 22));
    println!("old 0 private: {}", mremap(20, 0, 4, 1, 0));
    println!("new 0: {}", mremap(20, 4, 0, 1, 0));
    println!("unmapped: {}", mremap(100, 1, 2, 1, 0));
    println!("flags: {}", mremap(20, 1, 1, 64, 0));
    println!(
        "unaligned: {}",
        place(unsafe { libc::mremap(std::ptr::dangling_mut::<c_void>(), PAGE, PAGE, 1) })
    );
    fixed(40, 2);
    mprotect(41, 1, libc::PROT_READ);
    println!("two areas: {}", mremap(40, 2, 3, 1, 0));
    println!("onto another: {} {:?}", mremap(20, 1, 1, 3, 40), areas());
    mmap(at(60), 4 * PAGE, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS | 0x10, -1, 0);
    poke(60, 9);
    println!("duplicate: {} {}", mremap(60, 0, 4, 3, 70), peek(70));
    println!("duplicate, fixed: {} {:?}", mremap(70, 0, 1, 3, 40), areas());
    println!("old 0 private, fixed: {} {:?}", mremap(8, 0, 1, 3, 60), areas());
    println!("unmapped, fixed: {} {:?}", mremap(200, 1, 1, 3, 70), areas());
    println!("unmap: {}", munmap(0, 1000));
}

fn advise() {
    fixed(0, 8);
    (0..8).for_each(|page| poke(page, 7));
    println!("unknown: {} {} {}", madvise(0, 1, 77), madvise(0, 1, -1), madvise(0, 1, 5));
    println!(
        "unaligned: {}",
        code(unsafe { libc::madvise(std::ptr::dangling_mut::<c_void>(), PAGE, 4) })
    );
    println!("empty: {}", madvise(50, 0, 4));
    println!("unmapped: {}", madvise(50, 1, 4));
    println!("overflow: {}", code(unsafe { libc::madvise(at(0), usize::MAX - PAGE, 4) }));
    println!("dontneed: {} {} {}", madvise(2, 2, 4), peek(2), peek(4));
    println!("with hole: {} {}", madvise(6, 4, 4), peek(6));
    println!(
        "normal random sequential: {} {} {}",
        madvise(0, 8, 0),
        madvise(0, 4, 1),
        madvise(0, 8, 2)
    );
    println!("willneed: {} {}", madvise(0, 8, 3), madvise(6, 4, 3));
    println!("free: {}", madvise(0, 2, 8));
    println!("remove private: {}", madvise(0, 2, 9));
    println!("fork: {} {}", madvise(0, 1, 10), fate(|| _ = peek(0)));
    println!("fork again: {} {}", madvise(0, 1, 11), fate(|| _ = peek(0)));
    poke(1, 5);
    println!("wipe: {} {}", madvise(1, 1, 18), fate(|| std::process::exit(peek(1).into())));
    println!("keep: {} {}", madvise(1, 1, 19), fate(|| std::process::exit(peek(1).into())));
    println!("dump: {} {}", madvise(0, 8, 16), madvise(0, 8, 17));
    println!("huge: {} {}", madvise(0, 8, 14), madvise(0, 8, 15));
    println!("cold pageout: {} {}", madvise(0, 8, 20), madvise(0, 8, 21));
    mmap(at(20), 4 * PAGE, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS | 0x10, -1, 0);
    poke(20, 3);
    println!("shared dontneed: {} {}", madvise(20, 4, 4), peek(20));
    println!("shared free: {} wipe: {}", madvise(20, 4, 8), madvise(20, 4, 18));
    println!("shared remove: {} {}", madvise(20, 4, 9), peek(20));
    let mut seen = [9u8; 8];
    // SAFETY: the vector has a byte for each page.
    println!("mincore: {}", code(unsafe { libc::mincore(at(0), 8 * PAGE, seen.as_mut_ptr()) }));
    // SAFETY: likewise.
    let bad = unsafe { libc::mincore(at(6), 8 * PAGE, seen.as_mut_ptr()) };
    println!("mincore hole: {}", code(bad));
    // SAFETY: a bad vector is refused.
    println!("mincore vector: {}", code(unsafe { libc::mincore(at(0), PAGE, 8 as *mut u8) }));
    println!(
        "mincore unaligned: {}",
        code(unsafe { libc::mincore(std::ptr::dangling_mut::<c_void>(), 1, seen.as_mut_ptr()) })
    );
    println!("unmap: {}", munmap(0, 1000));
}

fn lock() {
    let page = |n: usize| at(n);
    fixed(0, 8);
    // SAFETY: plain calls on our own area.
    unsafe {
        println!(
            "mlock: {} {}",
            code(libc::mlock(page(0), 4 * PAGE)),
            code(libc::mlock(page(0), 0))
        );
        println!("hole: {}", code(libc::mlock(page(6), 4 * PAGE)));
        println!("wrap: {}", code(libc::mlock(page(0), usize::MAX - PAGE)));
        println!("kernel: {}", code(libc::mlock((1usize << 62) as *mut c_void, PAGE)));
        println!("dontneed: {}", madvise(0, 1, 4));
        println!("munlock: {}", code(libc::munlock(page(0), 8 * PAGE)));
        println!("munlock hole: {}", code(libc::munlock(page(50), PAGE)));
        mprotect(5, 1, libc::PROT_NONE);
        println!("none: {}", code(libc::mlock(page(5), PAGE)));
        libc::munlock(page(0), 8 * PAGE);
        println!("mlock2: {}", libc::syscall(325, page(0), PAGE, 2) as i32);
        println!("mlockall: {} {}", code(libc::mlockall(0)), code(libc::mlockall(8)));
        println!(
            "msync: {} {} {}",
            code(libc::msync(page(0), PAGE, 5)),
            code(libc::msync(page(0), PAGE, 8)),
            code(libc::msync(page(0), PAGE, 4))
        );
        println!(
            "msync hole: {} {}",
            code(libc::msync(page(6), 4 * PAGE, 1)),
            code(libc::msync(std::ptr::dangling_mut::<c_void>(), PAGE, 1))
        );
        libc::mlock(page(0), PAGE);
        println!("msync locked: {}", code(libc::msync(page(0), PAGE, 2)));
        libc::munlockall();
        libc::setgid(12345);
        libc::setuid(12345);
        let bound = |value| libc::rlimit { rlim_cur: value, rlim_max: 1 << 20 };
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &bound(4 * PAGE as u64));
        println!(
            "user: {} {}",
            code(libc::mlock(page(0), 4 * PAGE)),
            code(libc::mlock(page(0), 4 * PAGE))
        );
        println!("past: {}", code(libc::mlock(page(0), 5 * PAGE)));
        println!("map locked: {}", place(mmap(page(20), PAGE, RW, ANON | libc::MAP_LOCKED, -1, 0)));
        println!("grow: {}", mremap(0, 4, 5, 1, 0));
        println!("all: {}", code(libc::mlockall(libc::MCL_CURRENT)));
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &bound(0));
        println!("zero: {}", code(libc::mlock(page(5), PAGE)));
        println!("zero map: {}", place(mmap(page(20), PAGE, RW, ANON | libc::MAP_LOCKED, -1, 0)));
    }
}

fn bound(resource: libc::__rlimit_resource_t, value: usize) {
    let limit = libc::rlimit { rlim_cur: value as u64, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is valid.
    unsafe { libc::setrlimit(resource, &limit) };
}

fn kib(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn limits() {
    let all = libc::RLIM_INFINITY as usize;
    fixed(0, 256);
    bound(libc::RLIMIT_AS, kib("VmSize") * 1024 + 64 * PAGE);
    println!("as: {} {}", place(fixed(1000, 65)), place(fixed(1000, 60)));
    println!("as over: {}", place(fixed(0, 256)));
    println!("as remap: {}", mremap(0, 256, 300, 1, 0));
    bound(libc::RLIMIT_AS, all);
    bound(libc::RLIMIT_DATA, kib("VmData") * 1024 + 64 * PAGE);
    println!("data: {} {}", place(fixed(2000, 80)), place(fixed(2000, 40)));
    println!("data none: {}", place(mmap(at(3000), 80 * PAGE, 0, ANON | 0x10, -1, 0)));
    println!("data protect: {}", mprotect(3000, 80, RW));
    println!(
        "data shared: {}",
        place(mmap(at(4000), 80 * PAGE, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS | 0x10, -1, 0))
    );
    bound(libc::RLIMIT_DATA, all);
    // SAFETY: asks where the heap ends.
    let end = unsafe { libc::sbrk(0) } as usize;
    bound(libc::RLIMIT_DATA, 0);
    // SAFETY: refused.
    println!("brk: {}", unsafe { libc::brk((end + 64 * PAGE) as *mut c_void) });
    bound(libc::RLIMIT_DATA, all);
    // SAFETY: the heap grows and shrinks by what nobody uses.
    unsafe {
        println!("brk: {}", libc::brk((end + 64 * PAGE) as *mut c_void));
        println!("brk back: {}", libc::brk(end as *mut c_void));
        println!("brk low: {}", libc::syscall(12, PAGE) as usize == end);
    }
}

fn files() {
    // SAFETY: plain calls; the mappings are our own.
    unsafe {
        let memory = c"/dev/shm/mmapapi";
        let fd = libc::open(memory.as_ptr(), libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC, 0o600);
        libc::ftruncate(fd, 3 * PAGE as i64 + 100);
        println!("shared: {}", place(mmap(at(0), 6 * PAGE, RW, libc::MAP_SHARED | 0x10, fd, 0)));
        println!("private: {}", place(mmap(at(10), 6 * PAGE, RW, libc::MAP_PRIVATE | 0x10, fd, 0)));
        poke(0, 1);
        println!("coherent: {}", peek(10));
        let mut byte = 0u8;
        libc::pread(fd, (&raw mut byte).cast(), 1, 0);
        println!("read: {byte}");
        libc::pwrite(fd, c"A".as_ptr().cast(), 1, PAGE as i64);
        println!("written: {} {}", peek(1), peek(11));
        poke(11, 7);
        println!("own: {} {}", peek(1), peek(11));
        println!("tail: {}", fate(|| poke(3, 1)));
        println!("beyond: {} {}", fate(|| poke(4, 1)), fate(|| _ = peek(14)));
        libc::ftruncate(fd, PAGE as i64);
        println!("cut: {} {}", fate(|| _ = peek(1)), fate(|| _ = peek(11)));
        libc::ftruncate(fd, 3 * PAGE as i64);
        println!("grown: {} {}", peek(1), peek(11));
        println!("kernel beyond: {} {}", libc::write(1, at(4), 1), errno());
        println!("msync: {}", code(libc::msync(at(0), 6 * PAGE, libc::MS_SYNC)));
        let path = c"/root/mmapapi";
        let fd = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC, 0o600);
        libc::pwrite(fd, c"hello".as_ptr().cast(), 5, 0);
        println!("ext4: {}", place(mmap(at(20), 2 * PAGE, RW, libc::MAP_SHARED | 0x10, fd, 0)));
        println!("{} {}", peek(20), fate(|| _ = peek(21)));
        poke(20, b'J');
        at(20).cast::<u8>().add(10).write_volatile(9);
        libc::pread(fd, (&raw mut byte).cast(), 1, 0);
        println!("read: {byte}");
        let wo = libc::open(path.as_ptr(), libc::O_WRONLY);
        println!("write only: {}", place(mmap(at(30), PAGE, RW, libc::MAP_SHARED | 0x10, wo, 0)));
        let ro = libc::open(path.as_ptr(), libc::O_RDONLY);
        println!("read only: {}", place(mmap(at(30), PAGE, RW, libc::MAP_SHARED | 0x10, ro, 0)));
        println!("read only: {}", place(mmap(at(30), PAGE, 1, libc::MAP_SHARED | 0x10, ro, 0)));
        println!("protect: {} {}", mprotect(30, 1, RW), mprotect(30, 1, 4));
        println!(
            "private: {} {}",
            place(mmap(at(30), PAGE, RW, libc::MAP_PRIVATE | 0x10, ro, 0)),
            peek(30)
        );
        println!(
            "far: {}",
            place(mmap(at(40), PAGE, 1, libc::MAP_PRIVATE | 0x10, ro, i64::MAX - 4095))
        );
        let dir = libc::open(c"/".as_ptr(), libc::O_RDONLY);
        println!("directory: {}", place(mmap(at(40), PAGE, 1, libc::MAP_PRIVATE | 0x10, dir, 0)));
        let zero = libc::open(c"/dev/zero".as_ptr(), libc::O_RDWR);
        println!(
            "zero: {} {}",
            place(mmap(at(50), PAGE, RW, libc::MAP_PRIVATE | 0x10, zero, 0)),
            peek(50)
        );
        println!(
            "zero shared: {}",
            place(mmap(at(51), PAGE, RW, libc::MAP_SHARED | 0x10, zero, 0))
        );
        poke(51, 4);
        println!("child: {} {}", fate(|| poke(51, 5)), peek(51));
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        println!("null: {}", place(mmap(at(52), PAGE, RW, libc::MAP_PRIVATE | 0x10, null, 0)));
        libc::unlink(path.as_ptr());
        libc::unlink(memory.as_ptr());
    }
}

#[inline(never)]
fn deep(levels: usize) -> u64 {
    let page = std::hint::black_box([levels as u8; PAGE]);
    if levels == 0 { u64::from(page[7]) } else { deep(levels - 1) + u64::from(page[9]) }
}

fn stack() {
    bound(libc::RLIMIT_STACK, 4 << 20);
    println!("fits: {}", fate(|| _ = std::hint::black_box(deep(700))));
    println!("too deep: {}", fate(|| _ = std::hint::black_box(deep(3000))));
    let grows = ANON | libc::MAP_GROWSDOWN | 0x10;
    println!("grows down: {}", place(mmap(at(2000), PAGE, RW, grows, -1, 0)));
    println!("below: {} {:?}", fate(|| poke(1999, 1)), areas());
    poke(1990, 1);
    println!("{:?}", areas());
    fixed(1500, 1);
    println!("gap: {} {}", fate(|| poke(1757, 1)), fate(|| poke(1756, 1)));
    println!("near map: {}", place(mmap(at(1900), PAGE, RW, ANON, -1, 0)));
    grows_down_of_others();
}

/// `MAP_GROWSDOWN` of what is no stack: shared memory, and files.
fn grows_down_of_others() {
    let grows = libc::MAP_GROWSDOWN | 0x10;
    let shared = libc::MAP_SHARED | libc::MAP_ANONYMOUS | grows;
    println!("shared grows: {}", place(mmap(at(4000), PAGE, RW, shared, -1, 0)));
    // SAFETY: a C string.
    let fd = unsafe { libc::open(c"/bin/true".as_ptr(), libc::O_RDONLY) };
    for kind in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        println!("file grows: {}", place(mmap(at(4000), PAGE, 1, kind | grows, fd, 0)));
    }
    fixed(4000, 1);
    println!("file over: {}", place(mmap(at(4000), PAGE, 1, libc::MAP_PRIVATE | grows, fd, 0)));
    println!("{:?}", areas());
    // SAFETY: opened above.
    unsafe { libc::close(fd) };
}

/// KiB that `smaps` says of a row, over the areas at `BASE`.
fn sum_of(row: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let (mut sum, mut is_ours) = (0, false);
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let Some((start, _)) = words.first().and_then(|first| first.split_once('-')) {
            let start = usize::from_str_radix(start, 16).unwrap_or(0);
            is_ours = (BASE..BASE + (1 << 30)).contains(&start);
        } else if is_ours && words.first() == Some(&row) {
            sum += words.get(1).and_then(|kib| kib.parse::<usize>().ok()).unwrap_or(0);
        }
    }
    sum
}

/// Huge pages: what comes whole, what takes it apart, what is in it afterwards. A machine that has
/// little memory has none.
fn huge() {
    let tell = |what: &str, most: usize| {
        let (huge, all) = (sum_of("AnonHugePages:"), sum_of("Rss:"));
        let is_right = huge <= most && huge <= all && (huge == 0 || most - huge < 2048);
        println!("{what}: {}", if is_right { "right".into() } else { format!("{huge} of {all}") });
    };
    mmap(at(0), 2048 * PAGE, RW, ANON | libc::MAP_FIXED, -1, 0);
    tell("untouched", 0);
    println!("advise: {} {}", madvise(0, 1024, 14), madvise(1024, 512, 15));
    for page in [5, 600, 1030, 1031] {
        poke(page, page as u8);
    }
    tell("touched", 4096);
    println!("{} {} {} {}", peek(5), peek(6), peek(600), peek(1031));
    mprotect(0, 512, libc::PROT_READ);
    tell("protected whole", 4096);
    mprotect(0, 512, RW);
    poke(6, 66);
    tell("opened and written", 4096);
    mprotect(3, 5, libc::PROT_READ);
    tell("protected in part", 2048);
    println!("{} {} {}", peek(5), peek(6), peek(511));
    println!("drop: {}", madvise(700, 10, 4));
    tell("dropped in part", 0);
    println!("{} {}", peek(600), peek(705));
    // SAFETY: of our own memory.
    let child = unsafe { libc::fork() };
    if child == 0 {
        poke(600, 1);
        poke(601, 2);
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(peek(600) != 1 || peek(5) != 5)) };
    }
    let mut status = 0;
    // SAFETY: a word of our own.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    println!("child: {status}, ours: {} {}", peek(600), peek(601));
    munmap(0, 2048);
    tell("gone", 0);
}
