//! `make run` as a person uses it: a terminal is opened, keys are pressed, and the screen is looked
//! at. Each step tells what it pressed and shows the screen if that did not come which should.

use crate::screen::Screen;
use crate::tally::Tally;
use crate::{Result, options::Options};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long a machine may take to its first prompt: it emulates, and may make its root first.
const BOOT_PATIENCE: Duration = Duration::from_secs(400);
/// How long anything else may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Looked for at the cursor.
const PROMPT: &str = "ready> ";
/// What the shell is told to end with.
const LAST_STATUS: i32 = 7;
/// Bytes of the paste.
const PASTE_LEN: usize = 64 << 10;

/// A machine on a terminal.
struct Session {
    child: Child,
    terminal: File,
    output: Receiver<Vec<u8>>,
    screen: Screen,
    /// Whether anything came since keys were pressed: until then the screen shows the past.
    is_fresh: bool,
}

/// Runs all steps on one machine; each counts.
pub(crate) fn cases() -> Result<Tally> {
    // Made before the clock runs, and with its progress on our own terminal.
    crate::image::ensure(&Options::from_env(&[])?)?;
    let mut session = Session::start()?;
    let mut tally = Tally::default();
    for (name, step) in STEPS {
        let outcome = step(&mut session)
            .map_err(|failure| format!("{failure}\n{}", session.picture()).into());
        let has_failed = outcome.is_err();
        tally.count(&format!("shell: {name}"), outcome);
        if has_failed && session.recover().is_err() {
            break;
        }
    }
    let _ = session.child.kill();
    let _ = session.child.wait();
    Ok(tally)
}

type Step = fn(&mut Session) -> Result;

const STEPS: &[(&str, Step)] = &[
    ("a prompt, and nothing after it", prompt),
    ("line editing", line_editing),
    ("history", history),
    ("^C", interrupt),
    ("^Z, jobs, bg, fg", job_control),
    ("^D", end_of_file),
    ("stty", terminal_modes),
    ("window size", window_size),
    ("vi", editor),
    ("less", pager),
    ("top", top),
    ("a paste of 64 KiB", paste),
    ("exit", exit),
];

fn prompt(session: &mut Session) -> Result {
    session.wait(BOOT_PATIENCE, "a prompt", |screen| screen.before_cursor().ends_with("# "))?;
    session.send("PS1='ready> '; export HISTCONTROL=; clear\r")?;
    session.wait(PATIENCE, "the new prompt alone", |screen| screen.line(0) == PROMPT.trim_end())
}

fn line_editing(session: &mut Session) -> Result {
    // Left, rubout, Home, End, and a word killed.
    session.send("cho abXd\x1b[D\x7fc\x01e\x05 gone gone\x17\x17\r")?;
    session.answer("abcd")?;
    session.send("echo one two\x1bb\x1bd\x19\x19\r")?;
    session.answer("one twotwo")
}

fn history(session: &mut Session) -> Result {
    session.command("clear", "")?;
    session.command("echo $((6*7))", "42")?;
    session.command("echo second", "second")?;
    session.send("clear\r")?;
    session.at_prompt()?;
    session.send("\x1b[A\x1b[A\x1b[A\r")?;
    session.answer("42")?;
    session.send("\x12second\r")?;
    session.answer("second")
}

fn interrupt(session: &mut Session) -> Result {
    session.send("clear; sleep 1000\r")?;
    session.pause();
    session.send("\x03")?;
    session.at_prompt()?;
    session.send("echo status $?\r")?;
    session.answer("status 130")?;
    session.send("not a command\x03")?;
    session.at_prompt()?;
    session.command("echo fine", "fine")
}

fn job_control(session: &mut Session) -> Result {
    session.send("clear; sleep 1001\r")?;
    session.pause();
    session.send("\x1a")?;
    session.shows("[1]+  Stopped                 sleep 1001")?;
    session.at_prompt()?;
    session.command("bg", "[1]+ sleep 1001 &")?;
    session.command("jobs", "[1]+  Running                 sleep 1001 &")?;
    session.send("clear; fg\r")?;
    session.shows("sleep 1001")?;
    session.pause();
    session.send("\x1a")?;
    session.shows("[1]+  Stopped                 sleep 1001")?;
    session.at_prompt()?;
    session.send("clear; kill %1; wait; clear\r")?;
    session.at_prompt()?;
    session.command("jobs; echo none", "none")?;
    // A background reader stops until it is in the foreground.
    session.send("clear; cat &\r")?;
    session.pause();
    session.send("\r")?;
    session.shows_line(|line| line.starts_with("[1]+  Stopped") && line.ends_with("cat"))?;
    session.send("fg\r")?;
    session.pause();
    session.send("typed\r\x04")?;
    session.answer("typed")
}

fn end_of_file(session: &mut Session) -> Result {
    session.send("clear; cat\r")?;
    session.pause();
    session.send("one\r\x04")?;
    session.answer("one")?;
    session.send("clear; cat\r")?;
    session.pause();
    // In a line the first only ends the read.
    session.send("two\x04\x04")?;
    session.wait(PATIENCE, "twotwo and a prompt", |screen| {
        screen.before_cursor() == format!("twotwo{PROMPT}")
    })?;
    session.send("\r")?;
    session.at_prompt()
}

fn terminal_modes(session: &mut Session) -> Result {
    session.send("clear; stty -a | tr ';' '\\n' | grep -c 'intr = ^C'\r")?;
    session.answer("1")?;
    session.send("clear; stty -echo; read -r secret; stty echo; echo got $secret\r")?;
    session.pause();
    session.send("hidden\r")?;
    session.answer("got hidden")?;
    if session.screen.lines().iter().any(|line| line == "hidden") {
        return Err("what was typed without echo is shown".into());
    }
    session.command("tty; test -t 0 && echo terminal", "terminal")
}

fn window_size(session: &mut Session) -> Result {
    session.command("stty size", "24 80")?;
    // The foreground job hears of it, so it must be the waiting shell itself.
    session.send("clear; bash -c 'trap \"echo changed; exit\" WINCH; while :; do :; done'\r")?;
    session.pause();
    session.resize(30, 100)?;
    session.answer("changed")?;
    session.command("stty size", "30 100")?;
    session.command("echo $LINES $COLUMNS", "30 100")
}

fn editor(session: &mut Session) -> Result {
    session.send("clear; vi /tmp/edited\r")?;
    session.wait(PATIENCE, "an empty buffer", |screen| {
        screen.line(1) == "~" && screen.line(28) == "~"
    })?;
    session.send("ihello word\x1b")?;
    session.wait(PATIENCE, "the text", |screen| screen.line(0) == "hello word")?;
    session.send("0cwgood\x1b")?;
    session.wait(PATIENCE, "the change", |screen| screen.line(0) == "good word")?;
    session.send("onew line\x1b")?;
    session.wait(PATIENCE, "the new line", |screen| screen.line(1) == "new line")?;
    session.send(":wq\r")?;
    session.at_prompt()?;
    session.command("cat /tmp/edited", "good word")?;
    session.shows("new line")
}

fn pager(session: &mut Session) -> Result {
    session.send("clear; seq 1 1000 | less\r")?;
    session.wait(PATIENCE, "the first page", |s| s.line(0) == "1" && s.line(28) == "29")?;
    session.send(" ")?;
    session.wait(PATIENCE, "the second page", |s| s.line(0) == "30" && s.line(28) == "58")?;
    session.send("G")?;
    session.wait(PATIENCE, "the last page", |s| s.line(28) == "1000")?;
    session.send("?55\r")?;
    session.wait(PATIENCE, "what was looked for", |s| s.line(0) == "955")?;
    session.send("q")?;
    session.at_prompt()
}

fn top(session: &mut Session) -> Result {
    session.send("clear; top -d 1\r")?;
    session.wait(PATIENCE, "the summary and itself", |screen| {
        screen.line(0).starts_with("top - ")
            && screen.line(0).contains("load average:")
            && screen.line(1).starts_with("Tasks:")
            && screen.line(6).trim_start().starts_with("PID USER")
            && screen.lines().iter().any(|line| line.ends_with(" top"))
    })?;
    session.pause();
    session.send("q")?;
    session.at_prompt()?;
    session.command("echo over", "over")
}

/// Typed faster than the machine reads: nothing may be lost.
fn paste(session: &mut Session) -> Result {
    let mut text = String::new();
    for number in 0.. {
        let line = format!("{number:06} the quick brown fox jumps over the lazy dog 0123456789\n");
        if text.len() + line.len() > PASTE_LEN {
            break;
        }
        text.push_str(&line);
    }
    let (lines, bytes) = (text.lines().count(), text.len());
    session.send("clear; stty -echo; cat > /tmp/pasted\r")?;
    session.pause();
    session.send(&text.replace('\n', "\r"))?;
    session.send("\x04")?;
    session.at_prompt()?;
    session.command("stty echo", "")?;
    session.command("wc -lc < /tmp/pasted | tr -s ' '", &format!(" {lines} {bytes}"))?;
    let check = "i=0; while read -r n rest; do [ $((10#$n)) = $i ] || echo lost $i; i=$((i+1)); \
                 done < /tmp/pasted; echo read $i";
    session.command(check, &format!("read {lines}"))?;
    if session.screen.lines().iter().any(|line| line.starts_with("lost")) {
        return Err("lines are out of order".into());
    }
    Ok(())
}

fn exit(session: &mut Session) -> Result {
    session.send(&format!("clear; exit {LAST_STATUS}\r"))?;
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        session.look(Duration::from_millis(100));
        if let Some(status) = session.child.try_wait()? {
            return match status.code() {
                Some(LAST_STATUS) => Ok(()),
                _ => Err(format!("ended with {status}").into()),
            };
        }
    }
    Err("the machine does not end".into())
}

impl Session {
    fn start() -> Result<Session> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = std::ffi::OsString::from_vec(ptsname(&master, Vec::new())?.into_bytes());
        let slave = OpenOptions::new().read(true).write(true).open(name)?;
        let terminal = File::from(master);
        tcsetwinsize(&terminal, size(24, 80))?;
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(std::env::current_exe()?).arg("run");
        command.env("TERM", "linux").env_remove("CMD").env_remove("INIT");
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let child = command.spawn().map_err(|error| format!("setsid: {error}"))?;
        // The command holds the terminal's other end: reading must fail when the machine is gone.
        drop(command);
        let mut reader = terminal.try_clone()?;
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer.iter().take(len).copied().collect()).is_err() {
                    return;
                }
            }
        });
        Ok(Session { child, terminal, output, screen: Screen::new(24, 80), is_fresh: true })
    }

    fn send(&mut self, keys: &str) -> Result {
        self.is_fresh = false;
        self.terminal.write_all(keys.as_bytes())?;
        Ok(())
    }

    fn resize(&mut self, rows: u16, columns: u16) -> Result {
        tcsetwinsize(&self.terminal, size(rows, columns))?;
        self.screen.resize(rows.into(), columns.into());
        Ok(())
    }

    /// Lets the machine act on what it has.
    fn pause(&mut self) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1500) {
            self.look(Duration::from_millis(100));
        }
    }

    /// Takes what comes within `patience`, if anything does.
    fn look(&mut self, patience: Duration) {
        if let Ok(bytes) = self.output.recv_timeout(patience) {
            self.screen.feed(&bytes);
            self.is_fresh = true;
        }
    }

    fn wait(
        &mut self,
        patience: Duration,
        what: &str,
        is_there: impl Fn(&Screen) -> bool,
    ) -> Result {
        let start = Instant::now();
        while !self.is_fresh || !is_there(&self.screen) {
            if start.elapsed() > patience {
                return Err(format!("no {what} after {} s", patience.as_secs()).into());
            }
            self.look(Duration::from_millis(100));
        }
        Ok(())
    }

    fn at_prompt(&mut self) -> Result {
        self.wait(PATIENCE, "prompt", |screen| screen.before_cursor() == PROMPT)
    }

    fn shows(&mut self, text: &str) -> Result {
        self.wait(PATIENCE, text, |screen| screen.lines().iter().any(|line| line == text))
    }

    fn shows_line(&mut self, is_it: impl Fn(&str) -> bool) -> Result {
        self.wait(PATIENCE, "such line", |screen| screen.lines().iter().any(|line| is_it(line)))
    }

    /// Leaves whatever a failed step was in.
    fn recover(&mut self) -> Result {
        self.send("\x1b:q!\r\x03")?;
        self.pause();
        self.send("q\x03")?;
        self.at_prompt()
    }

    /// A line of output, and the prompt.
    fn answer(&mut self, text: &str) -> Result {
        self.wait(PATIENCE, &format!("{text:?} and a prompt"), |screen| {
            screen.before_cursor() == PROMPT && screen.lines().iter().any(|line| line == text)
        })
    }

    /// Runs a command on an empty screen and waits for a line of its output.
    fn command(&mut self, command: &str, text: &str) -> Result {
        self.send(&format!("clear; {command}\r"))?;
        self.answer(text)
    }

    fn picture(&self) -> String {
        let lines = self.screen.lines();
        lines.iter().map(|line| format!("        |{line}\n")).collect()
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
