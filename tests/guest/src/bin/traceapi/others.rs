//! What concerns more than a tracer and one thread: processes with several threads, tracers that are
//! not the parent, filters that ask the tracer, programs that are not to be looked at.

use crate::{
    ORIG_RAX, RAX, WORD, call, child, errno, info, message, nap, peek_user, ptrace, raise, say,
    wait,
};

/// Waits for what `pid` does, and lets it go on until it has ended; says all of it.
fn follow(what: &str, pid: i32) {
    loop {
        let status = wait(what, pid);
        if status & 0xff != 0x7f {
            return;
        }
        if status >> 16 == 6 {
            println!("status {:#x}", message(pid));
        }
        ptrace(7, pid, 0, 0);
    }
}

/// What the parent sees.
fn look(what: &str, pid: i32, options: i32) -> String {
    let mut status = 0;
    // SAFETY: a pointer to a live word.
    let got = unsafe { libc::waitpid(pid, &raw mut status, options) };
    format!("parent, {what}: {} {status:#x}", got == pid)
}

/// Processes with two threads.
pub(crate) fn threads() {
    const EXITS: usize = 0x40;
    // The second one executes a program; the first is traced, and vanishes.
    let pid = child(|| {
        nap();
        let second = std::thread::spawn(|| {
            let program = c"/bin/sleep".as_ptr();
            let arguments = [program, c"1".as_ptr(), std::ptr::null()];
            // SAFETY: live strings.
            unsafe { libc::execv(program, arguments.as_ptr()) };
        });
        let _ = second.join();
    });
    let tracer = child(|| {
        say("seize", ptrace(0x4206, pid, 0, 0));
        nap();
        nap();
        nap();
        // SAFETY: no place for a status.
        let got = unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
        println!("nothing is traced: {got} {}", errno());
    });
    wait("tracer", tracer);
    wait("ended", pid);
    // The first ends the process while the second sleeps.
    let pid = child(|| {
        ptrace(0, 0, 0, 0);
        raise(libc::SIGSTOP);
        let _ = std::thread::spawn(|| {
            loop {
                call(libc::SYS_pause, 0);
            }
        });
        // SAFETY: ends the process.
        unsafe { libc::_exit(9) };
    });
    wait("stopped", pid);
    say("options", ptrace(0x4200, pid, 0, EXITS));
    ptrace(7, pid, 0, 0);
    follow("leader", pid);
}

/// Stops of a process whose tracer is not its parent, which hears of each stop once.
pub(crate) fn two_watchers() {
    let pid = child(|| {
        loop {
            call(libc::SYS_pause, 0);
        }
    });
    let tracer = child(|| {
        say("seize", ptrace(0x4206, pid, 0, 0));
        // SAFETY: no pointers.
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        wait("signal", pid);
        ptrace(7, pid, 0, libc::SIGSTOP as usize);
        wait("group stop", pid);
        nap();
        say("detach", ptrace(17, pid, 0, 0));
    });
    let stop = look("stop", pid, libc::WUNTRACED);
    wait("tracer", tracer);
    println!("{stop}");
    nap();
    println!("{}", look("no second stop", pid, libc::WUNTRACED | libc::WNOHANG));
    // SAFETY: no pointers.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait("killed", pid);
}

/// A filter that leaves getppid, with the number 5, to the tracer, and refuses umask with 77.
fn install_filter() {
    const TRACE: u32 = 0x7ff0_0000;
    const ERRNO: u32 = 0x0005_0000;
    const ALLOW: u32 = 0x7fff_0000;
    let step =
        |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        step(0x20, 0, 0, 0),
        step(0x15, 0, 1, libc::SYS_getppid as u32),
        step(0x06, 0, 0, TRACE | 5),
        step(0x15, 0, 1, libc::SYS_umask as u32),
        step(0x06, 0, 0, ERRNO | 77),
        step(0x06, 0, 0, ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: a live program.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, 2, &raw const filter);
    }
}

/// `SECCOMP_RET_TRACE`.
pub(crate) fn seccomp() {
    let pid = child(|| {
        ptrace(0, 0, 0, 0);
        raise(libc::SIGSTOP);
        install_filter();
        let ask = || {
            // SAFETY: no pointers.
            let value = unsafe { libc::syscall(libc::SYS_getppid) };
            // SAFETY: no pointers.
            let parent = i64::from(unsafe { libc::getpid() });
            println!("gets {} {}", if value > 9 { i64::from(value == parent) } else { value }, {
                if value < 0 { errno() } else { 0 }
            });
        };
        // Nobody wants to know; runs; does not; becomes getpid; becomes umask.
        (0..5).for_each(|_| ask());
    });
    wait("stopped", pid);
    ptrace(24, pid, 0, 0);
    // Without the option the call fails: shown by the first line of the child.
    for _ in 0..100 {
        let mut status = 0;
        // SAFETY: a pointer to a live word.
        unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        if peek_user(pid, ORIG_RAX) == libc::SYS_getppid as u64 {
            break;
        }
        ptrace(24, pid, 0, 0);
    }
    // From its entry to its end.
    ptrace(24, pid, 0, 0);
    wait("leaves", pid);
    println!("with {}", peek_user(pid, RAX) as i64);
    say("option", ptrace(0x4200, pid, 0, 0x80));
    for turn in 0..5 {
        ptrace(7, pid, 0, 0);
        let status = wait("asked", pid);
        if status >> 16 != 7 {
            return;
        }
        println!("for {}, {}", message(pid), peek_user(pid, RAX) as i64);
        info(pid);
        let mut data = [0u8; 88];
        let size = ptrace(0x420e, pid, data.len(), data.as_mut_ptr() as usize);
        println!("info {size} op {} {:?} {:?}", data[0], &data[24..32], &data[80..84]);
        match turn {
            1 => {
                ptrace(6, pid, ORIG_RAX, usize::MAX);
                ptrace(6, pid, RAX, 6);
            }
            2 => say("change", ptrace(6, pid, ORIG_RAX, libc::SYS_getpid as usize)),
            3 => say("change", ptrace(6, pid, ORIG_RAX, libc::SYS_umask as usize)),
            _ => {}
        }
    }
    wait("ended", pid);
}

/// What may be run but not read, and what says so itself, is not shown.
pub(crate) fn hidden() {
    let program = "/tmp/traceapi-hidden";
    std::fs::copy("/proc/self/exe", program).unwrap();
    use std::os::unix::fs::PermissionsExt;
    let user = || {
        // SAFETY: no pointers.
        unsafe {
            libc::setresgid(1000, 1000, 1000);
            libc::setresuid(1000, 1000, 1000);
        }
    };
    for mode in [0o755, 0o711] {
        std::fs::set_permissions(program, std::fs::Permissions::from_mode(mode)).unwrap();
        let pid = child(|| {
            user();
            let status = std::process::Command::new(program).arg("dumpable").status();
            println!("{mode:o}: {:?}", status.map(|status| status.code()));
        });
        wait("ended", pid);
    }
    std::fs::remove_file(program).unwrap();
    // A child that can do more than the one who is to trace it.
    let parent = child(|| {
        let pid = child(|| {
            nap();
            println!("trace me as root: {}", ptrace(0, 0, 0, 0));
        });
        user();
        wait("ended", pid);
    });
    wait("parent", parent);
    let tracer = child(|| {
        user();
        let pid = child(|| {
            println!("trace me: {}", ptrace(0, 0, 0, 0));
            for dumpable in [1, 0] {
                // SAFETY: no pointers.
                unsafe { libc::prctl(libc::PR_SET_DUMPABLE, dumpable, 0, 0, 0) };
                raise(libc::SIGSTOP);
            }
        });
        for _ in 0..2 {
            wait("stopped", pid);
            let mut word = 0u64;
            let at = &raw const WORD as usize;
            say("peek", ptrace(2, pid, at, &raw mut word as usize));
            say("poke", ptrace(5, pid, at, 3));
            let mut regs = [0u64; 27];
            say("registers", ptrace(12, pid, 0, regs.as_mut_ptr() as usize));
            ptrace(7, pid, 0, 0);
        }
        wait("ended", pid);
    });
    wait("tracer", tracer);
}
