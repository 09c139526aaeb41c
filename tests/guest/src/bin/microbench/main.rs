//! Cost of single kernel operations, in nanoseconds of the guest's clock.
//!
//! Under QEMU's `-icount shift=0` that clock counts instructions, so a row repeats to a few tenths
//! of a percent; elsewhere its figures mean no more than the machine's noise allows.
//!
//! `microbench [--list] [WORD]...` measures every row whose `GROUP/NAME` contains a word, all of them
//! without words, and prints `GROUP<TAB>NAME<TAB>COST`. The cost is `-` where the kernel lacks what the
//! row needs (`ENOSYS`, `EAFNOSUPPORT`). Any other failure is told on the standard error output and
//! makes the exit status 1; the rows after it are measured all the same. `--list` prints
//! `GROUP<TAB>NAME` and measures nothing.
//!
//! **A row depends on nothing but itself.** Each is run in a process of its own that starts from
//! `execve(2)`, on the first processor, at fixed addresses and with an empty environment, brings its
//! own descriptors, directories and mappings and removes what would outlive it. Plain libc calls and
//! no helpers stand between the clock and the kernel: what is measured is the system call, not a
//! wrapper.
//!
//! | module | what it has |
//! | --- | --- |
//! | [`meter`] | the clock, the loop, what a cost is |
//! | [`rows`] | the list of rows |
//! | [`sys`], [`area`], [`scratch`] | owners of descriptors, children, mappings and directories |
//! | the others | a group of rows each |

mod area;
mod calls;
mod data;
mod descriptors;
mod faults;
mod files;
mod ipc;
mod memory;
mod meter;
mod paths;
mod processes;
mod procsys;
mod rows;
mod scratch;
mod signals;
mod sockets;
mod switch;
mod sys;
mod sysv;
mod timers;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode};

use meter::Failure;
use rows::{Row, Rows};

/// Seconds of the guest after which a row is taken for stuck.
const PATIENCE_S: u32 = 3600;

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        // What rows about `execve(2)` start.
        Some("--exit") => return ExitCode::SUCCESS,
        Some("--row") => return measure(words.get(1).and_then(|index| index.parse().ok())),
        _ => {}
    }
    let only_list = words.first().is_some_and(|word| word == "--list");
    if only_list {
        words.remove(0);
    }
    fix_addresses();
    let mut status = ExitCode::SUCCESS;
    for (index, row) in all().iter().enumerate().filter(|(_, row)| row.is_wanted(&words)) {
        if only_list {
            println!("{}\t{}", row.group, row.name);
        } else if let Err(why) = start(index) {
            // A row that fails by itself has told why.
            why.iter().for_each(|why| eprintln!("{}/{}: {why}", row.group, row.name));
            status = ExitCode::FAILURE;
        }
    }
    status
}

/// Every row, in the order of the report.
fn all() -> Vec<Row> {
    let mut rows = Rows::default();
    calls::add(rows.group("calls"));
    descriptors::add(rows.group("descriptors"));
    paths::add(rows.group("paths"));
    files::add(rows.group("files"));
    data::add(rows.group("data"));
    memory::add(rows.group("memory"));
    faults::add(rows.group("memory"));
    processes::add(rows.group("processes"));
    signals::add(rows.group("signals"));
    ipc::add(rows.group("ipc"));
    sysv::add(rows.group("ipc"));
    sockets::add(rows.group("ipc"));
    switch::add(rows.group("switch"));
    timers::add(rows.group("timers"));
    procsys::add(rows.group("procsys"));
    rows.list
}

/// Makes programs that are started from here begin at the same addresses every time: what a page
/// fault or a mapping costs depends on the page tables that are there.
fn fix_addresses() {
    // SAFETY: no pointers; affects what is executed later.
    unsafe {
        let old = libc::personality(0xffff_ffff);
        libc::personality(old as libc::c_ulong | libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
    }
}

/// Runs one row in a program of its own, which prints the result. An error if the row failed, with the
/// reason unless the program has told it.
fn start(index: usize) -> Result<(), Option<String>> {
    let program = std::env::current_exe().map_err(|why| format!("/proc/self/exe: {why}"))?;
    let mut child = Command::new(program)
        // Of one length: what lies on the stack must not depend on the row.
        .args(["--row", &format!("{index:03}")])
        .env_clear()
        .process_group(0)
        .spawn()
        .map_err(|why| format!("does not start: {why}"))?;
    let status = child.wait().map_err(|why| format!("wait: {why}"))?;
    if status.success() {
        return Ok(());
    }
    // SAFETY: no pointers; the group is the row's own.
    unsafe { libc::kill(-(child.id() as libc::pid_t), libc::SIGKILL) };
    Err(status.signal().map(|signal| match signal {
        libc::SIGALRM => "stuck".into(),
        _ => format!("killed by signal {signal}"),
    }))
}

/// Keeps this process and what it starts on the first processor: what several of them do to each other
/// is for `scaling` to say.
fn stay_on_one_processor() {
    // SAFETY: the set is there. Where it has no such processor, nothing changes.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

/// Measures one row in this process and prints its line.
fn measure(index: Option<usize>) -> ExitCode {
    let rows = all();
    let Some(row) = index.and_then(|index| rows.get(index)) else {
        eprintln!("microbench: no such row");
        return ExitCode::from(2);
    };
    // SAFETY: no pointers.
    unsafe { libc::alarm(PATIENCE_S) };
    stay_on_one_processor();
    let Row { group, name, .. } = row;
    match row.measure() {
        Ok(cost_ns) => println!("{group}\t{name}\t{cost_ns:.1}"),
        Err(why) if why.is_lack() => println!("{group}\t{name}\t-"),
        Err(Failure { what, errno }) => {
            let text = std::io::Error::from_raw_os_error(errno);
            eprintln!("{group}/{name}: {what}: errno {errno} ({text})");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
