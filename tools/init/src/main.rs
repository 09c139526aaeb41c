//! Process 1 of a test machine; see the README.

mod console;
mod machine;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where status and window size go; not there in every machine.
const CONTROL: &str = "/dev/ttyS1";
/// The first argument when this program prepares a session for the program it then becomes.
const SESSION: &str = "--session";
/// The first argument when this program leads a session until the program in it has ended.
const COMMAND: &str = "--command";
/// Where a shell looks for programs.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a shell answers when a program cannot be started.
const STATUS_NOT_FOUND: i32 = 127;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, terminal, program, arguments @ ..] = words.as_slice() {
        match word.as_str() {
            SESSION => become_session(terminal, program, arguments),
            COMMAND => lead_session(terminal, program, arguments),
            _ => {}
        }
    }
    if std::process::id() != 1 {
        eprintln!("init: is process 1 of a test machine and nothing else");
        std::process::exit(2);
    }
    let own_path = PathBuf::from(words.first().map_or("/.xtask/init", String::as_str));
    machine::mount_everything();
    machine::name_host();
    machine::raise_loopback();
    let status = run(&own_path);
    if let Ok(mut control) = OpenOptions::new().write(true).open(CONTROL) {
        let _ = writeln!(control, "status {status}");
        // Gone from the process is not gone from the wire.
        let _ = rustix::termios::tcdrain(&control);
    }
    machine::power_off();
}

/// Runs the command, or a shell, and answers its status as a shell has it.
fn run(own_path: &Path) -> i32 {
    let terminal = console::path();
    let script = own_path.with_file_name("command");
    console::make_raw(CONTROL);
    let (word, program) = if script.is_file() {
        console::keep_line_ends(&terminal);
        (COMMAND, vec!["/bin/sh".into(), script.display().to_string()])
    } else {
        console::set_size_from_environment(&terminal);
        follow_size(terminal.clone());
        let shells = ["/bin/bash", "/bin/sh"];
        let shell = shells.into_iter().find(|path| Path::new(path).exists());
        (SESSION, vec![shell.unwrap_or("/bin/sh").into(), "-l".into()])
    };
    let mut command = Command::new(own_path);
    command.arg(word).arg(&terminal).args(program);
    command.env("PATH", SEARCH_PATH).env("HOME", "/root");
    command.env_remove("LINES").env_remove("COLUMNS");
    match command.spawn() {
        Ok(child) => machine::reap_until(child.id()),
        Err(error) => {
            eprintln!("init: {}: {error}", own_path.display());
            STATUS_NOT_FOUND
        }
    }
}

/// Starts a session on the terminal.
fn start_session(terminal: &str) {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/root").or_else(|_| rustix::process::chdir("/"));
    match OpenOptions::new().read(true).write(true).open(terminal) {
        Ok(file) => {
            let _ = rustix::process::ioctl_tiocsctty(&file);
            let _ = rustix::stdio::dup2_stdin(&file);
            let _ = rustix::stdio::dup2_stdout(&file);
            let _ = rustix::stdio::dup2_stderr(&file);
        }
        Err(error) => eprintln!("init: {terminal}: {error}"),
    }
}

/// Starts a session on the terminal and becomes the program.
fn become_session(terminal: &str, program: &str, arguments: &[String]) -> ! {
    start_session(terminal);
    let error = Command::new(program).args(arguments).exec();
    eprintln!("init: {program}: {error}");
    end_session(STATUS_NOT_FOUND)
}

/// Runs the program in a session on the terminal, which ends when all that it wrote is out.
fn lead_session(terminal: &str, program: &str, arguments: &[String]) -> ! {
    start_session(terminal);
    // Keys are meant for the program, not for who waits for it.
    let set_keys = |action| {
        for signal in [libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: no handler is installed, and signal(2) may be called between fork and exec.
            unsafe { libc::signal(signal, action) };
        }
    };
    set_keys(libc::SIG_IGN);
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: the closure calls signal(2) and nothing else.
    unsafe {
        command.pre_exec(move || {
            set_keys(libc::SIG_DFL);
            Ok(())
        });
    }
    let status = command.status().map(|status| shell_status(status.into_raw()));
    end_session(status.unwrap_or_else(|error| {
        eprintln!("init: {program}: {error}");
        STATUS_NOT_FOUND
    }))
}

/// The end of the session hangs the line up, which discards what is still on its way.
fn end_session(status: i32) -> ! {
    let _ = rustix::termios::tcdrain(std::io::stderr());
    std::process::exit(status)
}

/// Sets the console's window size whenever the host tells a new one.
fn follow_size(terminal: String) {
    std::thread::spawn(move || {
        let Ok(control) = File::open(CONTROL) else { return };
        for line in BufReader::new(control).lines().map_while(std::io::Result::ok) {
            let mut words = line.split_whitespace();
            if words.next() == Some("size")
                && let (Some(Ok(rows)), Some(Ok(columns))) =
                    (words.next().map(str::parse), words.next().map(str::parse))
            {
                console::set_size(&terminal, rows, columns);
            }
        }
    });
}

/// The status that a shell would show: 128 and the signal's number for a process that was killed.
fn shell_status(raw: i32) -> i32 {
    let status = std::process::ExitStatus::from_raw(raw);
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
