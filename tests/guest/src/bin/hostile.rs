//! Hostile behaviour that a kernel has to survive, each with the outcome that Linux gives.
//!
//! `hostile NAME` runs one scenario and prints what happened: the same text on every kernel.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::ptr;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("wild-pointers") => wild_pointers(),
        Some("many-files") => many_files(number(&words, 100_000)),
        Some("many-threads") => many_threads(number(&words, 10_000)),
        Some("sparse-mapping") => sparse_mapping(number(&words, 200)),
        Some("broken-elf") => broken_elf(number(&words, 500)),
        Some("memory-eater") => memory_eater(),
        Some("fork-bomb") => fork_bomb(number(&words, 100)),
        other => {
            eprintln!("hostile: unknown scenario {other:?}");
            std::process::exit(2);
        }
    }
}

fn number(words: &[String], default: usize) -> usize {
    words.get(1).and_then(|w| w.parse().ok()).unwrap_or(default)
}

/// A small generator (xorshift64*), seeded: a run can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Calls every system call with wild arguments, each in a child of its own.
fn wild_pointers() {
    // Calls that end the machine, wait for ever by design or only kill the caller.
    let skipped = [
        15, // rt_sigreturn
        34, // pause
        48, // shutdown
        57, 58, 56, // fork, vfork, clone
        60, 231, // exit, exit_group
        62, 200, 234, 129, 297, // kill and its relatives: -1 is everyone
        88, 169, // reboot
        101, // ptrace
        162, // sync: slow
        166, // umount2
        153, // vhangup
        435, // clone3
        424, // pidfd_send_signal
    ];
    let wild = [1u64, 8, 0xfff, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, u64::MAX, u64::MAX - 4096];
    let mut random = Random(42);
    let mut survived = 0;
    for call in 0..440i64 {
        if skipped.contains(&call) {
            continue;
        }
        let arguments: Vec<[u64; 6]> =
            (0..12).map(|_| [0; 6].map(|_: u64| wild[random.below(wild.len())])).collect();
        // SAFETY: the child has no other threads and leaves by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: that the arguments are wild is the point; only the child can suffer.
            unsafe {
                libc::alarm(2);
                for a in &arguments {
                    libc::syscall(call, a[0], a[1], a[2], a[3], a[4], a[5]);
                }
                libc::_exit(0);
            }
        }
        let mut status = 0;
        // SAFETY: `status` is valid.
        if unsafe { libc::waitpid(child, &mut status, 0) } == child {
            survived += 1;
        }
    }
    println!("{survived} system calls survived wild pointers");
}

fn many_files(count: usize) {
    raise_limit(libc::RLIMIT_NOFILE, count as u64 + 100);
    let path = CString::new("/dev/null").expect("no NUL");
    let mut opened = 0;
    for _ in 0..count {
        // SAFETY: the path is a valid C string.
        if unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) } < 0 {
            println!("open: {}", std::io::Error::last_os_error());
            break;
        }
        opened += 1;
    }
    println!("{opened} files opened");
    // SAFETY: closing descriptors of our own.
    unsafe {
        libc::close(count as i32 / 2);
        println!("lowest free is reused: {}", libc::dup(0) == count as i32 / 2);
    }
}

fn many_threads(count: usize) {
    let barrier = std::sync::Arc::new(std::sync::Barrier::new(count + 1));
    let mut threads = Vec::new();
    for _ in 0..count {
        let mine = barrier.clone();
        let builder = std::thread::Builder::new().stack_size(16 * 1024);
        match builder.spawn(move || mine.wait()) {
            Ok(handle) => threads.push(handle),
            Err(why) => {
                println!("thread {}: {why}", threads.len());
                std::process::exit(0);
            }
        }
    }
    barrier.wait();
    println!("{count} threads ran");
    threads.into_iter().for_each(|t| _ = t.join());
    println!("joined");
}

fn sparse_mapping(gibibytes: usize) {
    let len = gibibytes << 30;
    // SAFETY: a fresh mapping; the touched bytes lie inside it.
    unsafe {
        let base = libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        );
        if base == libc::MAP_FAILED {
            println!("mmap: {}", std::io::Error::last_os_error());
            return;
        }
        let bytes: *mut u8 = base.cast();
        for step in 0..100 {
            let at = bytes.add(step * (len / 100));
            at.write_volatile(step as u8);
            assert_eq!(at.read_volatile(), step as u8);
        }
        println!("touched; munmap {}", libc::munmap(base, len));
    }
}

/// Cuts and flips bits of a good ELF file and runs what comes out.
fn broken_elf(count: usize) {
    let good = fs::read("/bin/true").expect("/bin/true");
    let directory = std::env::temp_dir().join("broken-elf");
    fs::create_dir_all(&directory).expect("scratch directory");
    let mut random = Random(7);
    let mut finished = 0;
    for round in 0..count {
        let mut bytes = good.clone();
        if round % 3 == 0 {
            bytes.truncate(random.below(good.len()));
        }
        let span = if round % 2 == 0 { 1024 } else { bytes.len() };
        for _ in 0..1 + random.below(8) {
            if !bytes.is_empty() {
                let at = random.below(span.min(bytes.len()));
                bytes[at] ^= 1 << random.below(8);
            }
        }
        let path = directory.join(format!("e{round}"));
        fs::write(&path, &bytes).expect("write");
        let name = CString::new(path.to_string_lossy().into_owned()).expect("no NUL");
        // SAFETY: the child execs or leaves; `name` is a valid C string.
        unsafe {
            libc::chmod(name.as_ptr(), 0o755);
            let child = libc::fork();
            if child == 0 {
                libc::alarm(2);
                libc::close(1);
                libc::close(2);
                let arguments = [name.as_ptr(), ptr::null()];
                libc::execv(name.as_ptr(), arguments.as_ptr());
                libc::_exit(126);
            }
            let mut status = 0;
            finished += usize::from(libc::waitpid(child, &mut status, 0) == child);
        }
        let _ = fs::remove_file(&path);
    }
    println!("{finished} broken programs ended");
}

fn memory_eater() {
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![1u8; 1 << 20]);
        std::hint::black_box(&eaten);
    }
}

/// Forks without end below a process limit of `limit`, as an unprivileged user.
fn fork_bomb(limit: usize) {
    // SAFETY: plain calls; children sleep and are killed with their process group.
    unsafe {
        libc::setpgid(0, 0);
        libc::setgid(12345);
        libc::setuid(12345);
        let bound = libc::rlimit { rlim_cur: limit as u64, rlim_max: limit as u64 };
        libc::setrlimit(libc::RLIMIT_NPROC, &bound);
        let mut children = 0;
        loop {
            let child = libc::fork();
            if child == 0 {
                libc::pause();
                libc::_exit(0);
            }
            if child < 0 {
                println!("fork {children}: {}", std::io::Error::last_os_error());
                break;
            }
            children += 1;
        }
        let _ = std::io::stdout().flush();
        libc::signal(libc::SIGTERM, libc::SIG_IGN);
        libc::kill(0, libc::SIGTERM);
        let mut reaped = 0;
        while libc::waitpid(-1, ptr::null_mut(), 0) > 0 {
            reaped += 1;
        }
        println!("{reaped} reaped");
    }
}

fn raise_limit(resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limit` is valid.
    if unsafe { libc::setrlimit(resource, &limit) } != 0 {
        println!("setrlimit: {}", std::io::Error::last_os_error());
    }
}
