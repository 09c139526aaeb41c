//! A QEMU run: boots a kernel on a copy of the image and follows its report.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::image::{self, Image};
use crate::options::Options;
use crate::packages;
use crate::report::Report;

/// A run is given up when its report has not grown for this long: longer than any case may take, on
/// the debug build too.
const STALL: Duration = Duration::from_secs(240);
/// The same once the guest has reported to the end and has only to switch itself off, where its clock counts
/// instructions: while it waits for the disk, that clock leaps, and Linux may give the disk up for good.
const STALL_AT_END: Duration = Duration::from_secs(60);
/// The last line of a report.
const DONE: &str = "@@DONE";

/// Whose kernel runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kernel {
    /// Debian's cloud kernel.
    Linux,
    /// `target/vmlinuz`.
    Ours,
}

/// The disk's controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Disk {
    /// virtio-blk over PCI: `/dev/vda`.
    Virtio,
    /// NVMe: `/dev/nvme0n1`.
    Nvme,
    /// The machine's own AHCI controller: `/dev/sda`. Debian's cloud kernel has no driver for it.
    Ahci,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Disk::Virtio => "virtio",
            Disk::Nvme => "nvme",
            Disk::Ahci => "ahci",
        })
    }
}

/// CPUs, memory and disk of a virtual machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) disk: Disk,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Shape, String> {
        let wrong = || format!("a shape is CPUS:MIB:virtio|nvme|ahci, not {text:?}");
        let mut parts = text.split(':');
        let mut number = || parts.next().and_then(|p| p.parse().ok()).ok_or_else(wrong);
        let (cpus, memory_mib) = (number()?, number()?);
        let disk = match parts.next() {
            Some("virtio") => Disk::Virtio,
            Some("nvme") | None => Disk::Nvme,
            Some("ahci") => Disk::Ahci,
            _ => return Err(wrong()),
        };
        Ok(Shape { cpus, memory_mib, disk })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} CPUs, {} MiB, {}", self.cpus, self.memory_mib, self.disk)
    }
}

/// How QEMU keeps time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Clock {
    /// The host's: for tests and whole programs.
    Wall,
    /// One nanosecond an instruction: for the cost of kernel paths. One CPU only.
    Instructions,
}

/// What a run is made on, but for the kernel and the disk's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Setup {
    pub(crate) shape: Shape,
    pub(crate) clock: Clock,
    /// Added to the command line of both kernels.
    pub(crate) words: &'static str,
    /// A virtio network card on QEMU's user network, where the host is 10.0.2.2.
    pub(crate) has_network: bool,
    /// The cases that it runs, where the image holds some.
    pub(crate) share: Share,
}

impl Setup {
    /// A machine whose clock is the host's.
    pub(crate) fn wall(shape: Shape) -> Setup {
        Setup { shape, clock: Clock::Wall, words: "", has_network: false, share: Share::ALL }
    }
}

/// Adjacent cases that one of several machines runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Share {
    from: usize,
    to: usize,
}

impl Share {
    /// One machine runs all.
    pub(crate) const ALL: Share = Share { from: 0, to: usize::MAX };

    /// A share of `count` cases for each of so many machines.
    pub(crate) fn each(count: usize, machines: usize) -> impl Iterator<Item = Share> {
        let bound = move |machine| count * machine / machines;
        (0..machines).map(move |machine| Share { from: bound(machine), to: bound(machine + 1) })
    }

    /// What init hears of it, as environment variables.
    fn words(self) -> String {
        if self == Share::ALL {
            return String::new();
        }
        format!("CASES_FROM={} CASES_TO={}", self.from, self.to)
    }
}

/// Boots `kernel` on a copy of `base`, waits for the end and reads the report.
pub(crate) fn run(
    kernel: Kernel,
    shape: &Shape,
    share: Share,
    options: &Options,
    base: &Image,
) -> Result<Report, String> {
    let setup = Setup { share, ..Setup::wall(*shape) };
    let raw = run_raw(kernel, &setup, options, base, &mut |_| {})?;
    let mut report = Report::parse(&raw.report);
    if !report.is_complete && raw.trouble.is_empty() {
        report.trouble.push("the guest stopped early".into());
    }
    report.trouble.extend(raw.trouble);
    Ok(report)
}

/// What a run left.
pub(crate) struct Raw {
    /// What the guest reported.
    pub(crate) report: String,
    /// What came out of its console.
    pub(crate) console: String,
    /// What went wrong.
    pub(crate) trouble: Vec<String>,
    /// The time from the start of QEMU until the report began.
    pub(crate) began_after: Option<Duration>,
}

impl Raw {
    /// Whether the guest reported to the end.
    pub(crate) fn is_complete(&self) -> bool {
        self.report.lines().any(|line| line.trim_end() == DONE)
    }

    /// An error unless the run had no trouble and the guest reported to the end.
    pub(crate) fn sound(&self) -> Result<(), String> {
        match self.trouble.first() {
            Some(trouble) => Err(trouble.clone()),
            None if self.is_complete() => Ok(()),
            None => Err("the guest stopped early".into()),
        }
    }
}

/// Boots `kernel` on a copy of `base`; `on_line` sees the report's lines as they come.
pub(crate) fn run_raw(
    kernel: Kernel,
    setup: &Setup,
    options: &Options,
    base: &Image,
    on_line: &mut dyn FnMut(&str),
) -> Result<Raw, String> {
    let shape = &setup.shape;
    let side = if kernel == Kernel::Linux { "linux" } else { "ours" };
    let mut stem = format!("{side}-{}-{}-{}", shape.cpus, shape.memory_mib, std::process::id());
    if setup.share != Share::ALL {
        stem.push_str(&format!("-{}", setup.share.from));
    }
    let file = |end: &str| options.work_dir.join(format!("{stem}.{end}"));
    let (disk, report_path, console) = (file("img"), file("report"), file("console"));
    base.copy_to(&disk)?;
    let _ = fs::remove_file(&report_path);

    let mut command = qemu(kernel, setup, options, &disk, &report_path, &console)?;
    match setup.clock {
        Clock::Wall => command.args(["-accel", "tcg,thread=multi"]),
        Clock::Instructions => command.args(["-accel", "tcg", "-icount", "shift=0,sleep=off"]),
    };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| format!("qemu-system-x86_64: {e}"))?;
    let mut follower = Follower::new(&report_path, side, setup.clock);
    let ended = follower.follow(&mut child, on_line);
    let text = String::from_utf8_lossy(&fs::read(&report_path).unwrap_or_default()).into_owned();
    let mut trouble = Vec::new();
    if let Err(why) = ended {
        trouble.push(format!("{why} (console: {})", console.display()));
    }
    match image::check(&disk) {
        Ok(()) => {
            let _ = fs::remove_file(&disk);
        }
        Err(why) => trouble.push(format!("{why}\n    (kept: {})", disk.display())),
    }
    let log = fs::read(&console).unwrap_or_default();
    let log = String::from_utf8_lossy(&log).into_owned();
    if kernel == Kernel::Ours {
        trouble.extend(complaints(&log));
    }
    Ok(Raw { report: text, console: log, trouble, began_after: follower.began_after })
}

/// What the kernel's log says of its own mistakes: reports of the lock checker, which is part of
/// debug builds, and panics.
fn complaints(log: &str) -> Vec<String> {
    let is_complaint = |line: &&str| {
        ["lock check:", "panicked at", "Kernel panic", "BUG"].iter().any(|sign| line.contains(sign))
    };
    log.lines().filter(is_complaint).map(|line| format!("kernel log: {line}")).collect()
}

fn qemu(
    kernel: Kernel,
    setup: &Setup,
    options: &Options,
    disk: &Path,
    report: &Path,
    console: &Path,
) -> Result<Command, String> {
    let shape = &setup.shape;
    let (device, root) = match shape.disk {
        Disk::Virtio => ("virtio-blk-pci,drive=d", "/dev/vda"),
        Disk::Nvme => ("nvme,drive=d,serial=1", "/dev/nvme0n1"),
        Disk::Ahci => ("ide-hd,drive=d", "/dev/sda"),
    };
    let (image, extra) = match kernel {
        // What our kernel always has and Debian's configuration leaves out.
        Kernel::Linux => (linux_kernel()?, "mitigations=off vsyscall=xonly"),
        Kernel::Ours => (options.vmlinuz.clone(), options.append.as_str()),
    };
    let words = format!(
        "console=ttyS0 root={root} rw panic=-1 init=/oracle/init.sh {} {} {extra}",
        setup.words,
        setup.share.words()
    );
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-machine", "q35", "-cpu", "max,-erms,-fsrm"])
        .args(["-display", "none", "-no-reboot", "-nodefaults", "-monitor", "none"])
        .args(["-smp", &shape.cpus.to_string(), "-m", &shape.memory_mib.to_string()])
        .arg("-kernel")
        .arg(image)
        .args(["-append", &words])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", report.display()))
        .args(["-drive", &format!("file={},if=none,id=d,format=raw", disk.display())])
        .args(["-device", device, "-device", "virtio-rng-pci"]);
    if setup.has_network {
        command.args(["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"]);
    }
    // As for `make run`: a gdb stub, a trace of the processor.
    command.args(std::env::var("QEMU_ARGS").unwrap_or_default().split_whitespace());
    Ok(command)
}

/// Debian's newest cloud kernel, installed if need be.
pub(crate) fn linux_kernel() -> Result<PathBuf, String> {
    const PACKAGE: &str = "linux-image-cloud-amd64";
    if let Some(kernel) = installed_kernel() {
        return Ok(kernel);
    }
    packages::install(PACKAGE);
    installed_kernel().ok_or_else(|| format!("no /boot/vmlinuz-*-cloud-amd64: install {PACKAGE}"))
}

fn installed_kernel() -> Option<PathBuf> {
    let is_kernel = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("vmlinuz-") && name.ends_with("-cloud-amd64")
    };
    let entries = fs::read_dir("/boot").ok()?;
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_kernel).max()
}

/// Follows a report while QEMU writes it.
struct Follower<'a> {
    report: &'a Path,
    side: &'a str,
    started: Instant,
    began_after: Option<Duration>,
    /// How much of the report has been read, to the end of a line.
    seen: usize,
    /// The report is complete.
    is_done: bool,
    clock: Clock,
}

/// How often the report is looked at: until it begins, whose time is measured, and from then on.
const EAGER_LOOK: Duration = Duration::from_millis(5);
const LOOK: Duration = Duration::from_millis(200);

impl Follower<'_> {
    fn new<'a>(report: &'a Path, side: &'a str, clock: Clock) -> Follower<'a> {
        Follower {
            report,
            side,
            started: Instant::now(),
            began_after: None,
            seen: 0,
            is_done: false,
            clock,
        }
    }

    /// Waits until QEMU ends; kills it when the report has stalled.
    fn follow(&mut self, child: &mut Child, on_line: &mut dyn FnMut(&str)) -> Result<(), String> {
        let mut size = 0;
        let mut last_growth = Instant::now();
        loop {
            let has_ended = child.try_wait().map_err(|e| e.to_string())?.is_some();
            let now = fs::metadata(self.report).map_or(0, |m| m.len());
            if now != size {
                size = now;
                last_growth = Instant::now();
                self.began_after.get_or_insert(self.started.elapsed());
                self.pass_lines(on_line);
            }
            if has_ended {
                return Ok(());
            }
            let patience = self.patience();
            if last_growth.elapsed() > patience {
                let _ = child.kill();
                let _ = child.wait();
                let (side, at) = (self.side, self.stage());
                return Err(format!("{side}: no progress for {} s in {at}", patience.as_secs()));
            }
            std::thread::sleep(if self.began_after.is_some() { LOOK } else { EAGER_LOOK });
        }
    }

    fn patience(&self) -> Duration {
        if self.is_done && self.clock == Clock::Instructions { STALL_AT_END } else { STALL }
    }

    /// What the guest is at.
    fn stage(&self) -> String {
        if self.is_done {
            return "the end".into();
        }
        let text = fs::read_to_string(self.report).unwrap_or_default();
        text.lines().rev().find(|l| l.starts_with("@@BEGIN")).unwrap_or("boot").into()
    }

    fn pass_lines(&mut self, on_line: &mut dyn FnMut(&str)) {
        let text = fs::read(self.report).unwrap_or_default();
        let fresh = text.get(self.seen..).unwrap_or_default();
        let Some(end) = fresh.iter().rposition(|byte| *byte == b'\n') else { return };
        let whole = fresh.get(..=end).unwrap_or_default();
        self.seen += whole.len();
        for line in String::from_utf8_lossy(whole).lines().map(str::trim_end) {
            self.is_done |= line == DONE;
            on_line(line);
        }
    }
}
