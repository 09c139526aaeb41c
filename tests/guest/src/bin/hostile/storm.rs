//! A storm: processes that call everything with anything, some with a second thread that unmaps and
//! protects the memory under the arguments meanwhile. The machine has to outlive it.

use std::ptr;
use std::time::{Duration, Instant};

use crate::Random;
use crate::table;

/// Runs for `seconds` with `workers` processes at a time, as `user` if it is not 0.
pub(crate) fn run(seconds: usize, workers: usize, seed: u64, user: u32) {
    let end = Instant::now() + Duration::from_secs(seconds as u64);
    let mut random = Random(seed + 1);
    let mut started = 0;
    let mut running = 0;
    table::prepare_memory();
    while Instant::now() < end {
        if running < workers {
            let seed = random.next() | 1;
            // SAFETY: the child leaves by _exit.
            if unsafe { libc::fork() } == 0 {
                child(seed, (user != 0).then_some(user));
            }
            started += 1;
            running += 1;
            continue;
        }
        // SAFETY: a plain call.
        if unsafe { libc::waitpid(-1, ptr::null_mut(), libc::__WALL) } > 0 {
            running -= 1;
        }
    }
    // SAFETY: plain calls.
    unsafe { while libc::waitpid(-1, ptr::null_mut(), libc::__WALL) > 0 {} }
    println!("{} processes of the storm", if started > 0 { "all" } else { "no" });
}

/// One process, in a process namespace of its own, with a life of a second at most.
fn child(seed: u64, user: Option<u32>) -> ! {
    // SAFETY: that the arguments are wild is the point.
    unsafe {
        libc::unshare(
            libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWPID,
        );
        libc::mount(
            ptr::null(),
            c"/".as_ptr(),
            ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            ptr::null(),
        );
        let inner = libc::fork();
        if inner != 0 {
            for _ in 0..200 {
                if libc::waitpid(inner, ptr::null_mut(), libc::WNOHANG) != 0 {
                    libc::_exit(0);
                }
                libc::usleep(10_000);
            }
            libc::kill(inner, libc::SIGKILL);
            libc::waitpid(inner, ptr::null_mut(), 0);
            libc::_exit(0);
        }
        table::enter_sandbox(user);
        let bound = libc::rlimit { rlim_cur: 64 << 20, rlim_max: 64 << 20 };
        libc::setrlimit(libc::RLIMIT_FSIZE, &bound);
        let mut random = Random(seed);
        if random.below(2) == 0 {
            std::thread::spawn(move || disturb(seed ^ 0x55aa));
        }
        for _ in 0..2000 {
            let call = random.below(451) as i64;
            if !table::SKIPPED.contains(&call) {
                table::call_raw(
                    call,
                    &[0; 6].map(|_: u64| table::VALUES[random.below(table::VALUES.len())]),
                );
            }
        }
        libc::_exit(0)
    }
}

/// Changes the argument memory for ever.
fn disturb(seed: u64) {
    let mut random = Random(seed | 1);
    loop {
        let at = (table::ARENA + 0x1000 * random.below(0x50)) as *mut libc::c_void;
        // SAFETY: only the argument memory changes, which nothing but the wild calls uses.
        unsafe {
            match random.below(4) {
                0 => _ = libc::munmap(at, 4096),
                1 => _ = libc::mprotect(at, 4096, random.below(8) as i32),
                2 => _ = libc::madvise(at, 4096, libc::MADV_DONTNEED),
                _ => {
                    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                    libc::mmap(at, 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
                }
            }
        }
    }
}
