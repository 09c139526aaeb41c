//! Processes and threads: born, replaced, ended and waited for.

use std::ffi::{CStr, CString};
use std::mem::zeroed;
use std::ptr;

use crate::area::{Area, MIB};
use crate::meter::{Cost, Failure, begin, each, end, rounds};
use crate::rows::Rows;
use crate::sys::{Child, Pipe, c, ends_well, ok, sure};

/// Adds the group's rows.
pub fn add(rows: &mut Rows) {
    forks(rows);
    programs(rows);
    ends(rows);
    threads(rows);
    numbers(rows);
}

fn forks(rows: &mut Rows) {
    rows.add("fork+exit", || each(200, forks_and_waits));
    for (mib, count) in [(16, 150), (64, 130), (256, 70)] {
        rows.add(format!("fork+exit of {mib} MiB"), move || {
            let _area = Area::filled(mib * MIB)?;
            each(count, forks_and_waits)
        });
    }
    rows.add("fork+exit of 64 MiB in 4 KiB pages", || {
        let area = Area::anonymous(64 * MIB)?;
        area.advise(libc::MADV_NOHUGEPAGE);
        area.write();
        each(10, forks_and_waits)
    });
    rows.add("vfork+exit", || each(800, || ends_well(vfork_and_exit())));
}

fn forks_and_waits() -> bool {
    // SAFETY: the program has one thread, and the child does nothing but end.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(0);
        }
        ends_well(child)
    }
}

/// A child that ends at once, by `vfork(2)`, which is `clone(2)` with these flags. The wrapper of libc
/// returns twice, which Rust does not allow for; here the child has gone when the block ends, and uses
/// no stack before.
#[inline(always)]
fn vfork_and_exit() -> libc::pid_t {
    let child: i64;
    let flags = i64::from(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD);
    // SAFETY: the child changes no memory, and all registers of its own end with it.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test eax, eax",
            "jnz 2f",
            "xor edi, edi",
            "mov eax, {exit}",
            "syscall",
            "2:",
            exit = const libc::SYS_exit_group,
            inlateout("rax") libc::SYS_clone => child,
            inlateout("rdi") flags => _,
            in("rsi") 0, in("rdx") 0, in("r10") 0, in("r8") 0,
            out("rcx") _, out("r11") _,
            options(nostack),
        );
    }
    child as libc::pid_t
}

fn programs(rows: &mut Rows) {
    rows.add("fork+exec", || {
        let words = [own_path()?, c("--exit")];
        executes(40, &words)
    });
    rows.add("fork+exec /bin/true", || executes(40, &[c("/bin/true")]));
    rows.add("fork+exec /bin/sh", || executes(15, &[c("/bin/sh"), c("-c"), c(":")]));
    rows.add("posix_spawn", || {
        let words = [own_path()?, c("--exit")];
        let (list, none) = (pointers(&words), [ptr::null_mut()]);
        // SAFETY: lists of valid C strings that end with null.
        each(40, || unsafe {
            let (mut child, path) = (0, words[0].as_ptr());
            let words = list.as_ptr().cast();
            libc::posix_spawn(&mut child, path, ptr::null(), ptr::null(), words, none.as_ptr()) == 0
                && ends_well(child)
        })
    });
}

/// The path of this program.
fn own_path() -> Result<CString, Failure> {
    Ok(c(std::env::current_exe()?.to_string_lossy()))
}

/// A list as `execve(2)` wants it.
fn pointers(words: &[CString]) -> Vec<*const libc::c_char> {
    let words = words.iter().map(|word| word.as_ptr());
    words.chain([ptr::null()]).collect()
}

/// A program that is started in a child and ends well.
fn executes(count: u64, words: &[CString]) -> Cost {
    let (path, list): (&CStr, _) = (&words[0], pointers(words));
    let none = [ptr::null()];
    // SAFETY: lists of valid C strings that end with null.
    each(count, || unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::execve(path.as_ptr(), list.as_ptr(), none.as_ptr());
            libc::_exit(1);
        }
        ends_well(child)
    })
}

fn ends(rows: &mut Rows) {
    rows.add("exit with 64 MiB", || exits_with(64 * MIB, 30));
    rows.add("wait of an ended child", || waits(16, 12));
    rows.add("waitpid without hanging", || {
        let child = Child::start(|| {
            // SAFETY: no pointers.
            unsafe { libc::pause() };
            false
        })?;
        let (pid, mut status) = (child.pid(), 0);
        // SAFETY: the status is there.
        each(36_000, || unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) == 0 })
    });
}

/// From the word to end to the return of `waitpid(2)`, for a child with its own touched memory.
fn exits_with(len: usize, count: usize) -> Cost {
    rounds(count, 1, || {
        let (ready, go) = (Pipe::new()?, Pipe::new()?);
        let child = Child::start(|| {
            let area = Area::filled(len);
            let is_told = area.is_ok() && ready.to.put() && go.from.take();
            std::mem::forget(area);
            is_told
        })?;
        sure("read", ready.from.take())?;
        let start = begin();
        let is_told = go.to.put();
        child.finish()?;
        let elapsed_ns = end(start);
        sure("write", is_told).map(|()| elapsed_ns)
    })
}

/// `waitpid(2)` for children that have all ended before.
fn waits(children: usize, count: usize) -> Cost {
    rounds(count, children as u64, || {
        let born: Result<Vec<Child>, Failure> =
            (0..children).map(|_| Child::start(|| true)).collect();
        let born = born?;
        for child in &born {
            // SAFETY: room for the result.
            unsafe {
                let mut info: libc::siginfo_t = zeroed();
                let how = libc::WEXITED | libc::WNOWAIT;
                ok("waitid", libc::waitid(libc::P_PID, child.pid() as u32, &mut info, how))?;
            }
        }
        // Ended is who has left the processor and been freed as far as can be: else the row tells whose turn it was.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let start = begin();
        for child in born {
            child.finish()?;
        }
        Ok(end(start))
    })
}

fn threads(rows: &mut Rows) {
    rows.add("thread create+join", || each(500, || std::thread::spawn(|| ()).join().is_ok()));
    rows.add("thread create+join of 16", || {
        each(30, || {
            let threads: [_; 16] = std::array::from_fn(|_| std::thread::spawn(|| ()));
            threads.into_iter().all(|thread| thread.join().is_ok())
        })
    });
}

fn numbers(rows: &mut Rows) {
    // SAFETY: calls without pointers.
    unsafe {
        rows.add("setpgid+getpgid", || {
            let me = libc::getpid();
            each(38_000, || libc::setpgid(0, 0) == 0 && libc::getpgid(0) == me)
        });
        rows.add("kill 0", || {
            let me = libc::getpid();
            each(32_000, || libc::kill(me, 0) == 0)
        });
    }
}
