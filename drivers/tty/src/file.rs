//! Open files of terminals, and the numbers under which they are opened.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::Ordering;

use abi::fcntl::{O_ACCMODE, O_NOCTTY, O_NONBLOCK, O_WRONLY};
use abi::termios::CLOCAL;
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use arch::uio::{Sink, Source};
use vfs::dev::{DeviceNode, DeviceOpen, Opened};
use vfs::poll::PollTable;
use vfs::{Context, DeviceNumber, File, FileKind, FileMode, FileOps, Inode};

use crate::Tty;
use crate::console;
use crate::control::is_admin;
use crate::io::Mode;
use crate::jobs::jobs;
use crate::wait;

static REGISTRY: LockClass = LockClass::new("tty.registry", 558);

/// Terminals with a number of their own, by (major, minor).
static TERMINALS: SpinLock<BTreeMap<(u32, u32), Arc<Tty>>> =
    SpinLock::new(&REGISTRY, BTreeMap::new());

/// Major number of `/dev/tty`, `/dev/console` and `/dev/ptmx`.
pub(crate) const AUX_MAJOR: u32 = 5;

const CONSOLE_MINOR: u32 = 1;

/// Makes a terminal known under its number, and appear in `/dev`.
pub fn register(tty: &Arc<Tty>) {
    let dev = tty.dev();
    TERMINALS.lock().insert((dev.major(), dev.minor()), tty.clone());
    vfs::dev::add_node(DeviceNode {
        name: tty.name().into(),
        kind: FileKind::CharDevice,
        dev,
        mode: 0o600,
        class: "tty",
        attributes: alloc::vec::Vec::new(),
    });
    let console = DeviceNumber::new(AUX_MAJOR, CONSOLE_MINOR);
    let active = crate::console::active();
    vfs::dev::set_attribute(FileKind::CharDevice, console, "active", active);
}

/// Serves `/dev/tty` and `/dev/console`.
///
/// # Errors
/// `EBUSY` when somebody else does.
pub fn init() -> Result<()> {
    let nodes = [("tty", 0, 0o666), ("console", CONSOLE_MINOR, 0o600)];
    for (name, minor, mode) in nodes {
        let dev = DeviceNumber::new(AUX_MAJOR, minor);
        vfs::dev::register_char(dev, 1, &alloc::format!("/dev/{name}"), Arc::new(Opener))?;
        vfs::dev::add_node(DeviceNode {
            name: name.into(),
            kind: FileKind::CharDevice,
            dev,
            mode,
            class: "tty",
            attributes: alloc::vec::Vec::new(),
        });
    }
    Ok(())
}

/// The terminal with this number.
pub fn find(dev: DeviceNumber) -> Option<Arc<Tty>> {
    TERMINALS.lock().get(&(dev.major(), dev.minor())).cloned()
}

/// The registered terminal with this name below `/dev`.
pub fn find_by_name(name: &str) -> Option<Arc<Tty>> {
    TERMINALS.lock().values().find(|tty| tty.name() == name).cloned()
}

/// Every registered terminal.
pub fn all() -> alloc::vec::Vec<Arc<Tty>> {
    TERMINALS.lock().values().cloned().collect()
}

/// Opens registered terminals, `/dev/tty` and `/dev/console`.
pub(crate) struct Opener;

impl DeviceOpen for Opener {
    fn open(
        &self,
        dev: DeviceNumber,
        _: &Arc<Inode>,
        flags: u32,
        _: &Context<'_>,
    ) -> Result<Opened> {
        let (tty, may_control) = match (dev.major(), dev.minor()) {
            (AUX_MAJOR, 0) => {
                let tty = jobs().and_then(|jobs| jobs.controlling_tty());
                (tty.ok_or(Errno::ENXIO)?, false)
            }
            (AUX_MAJOR, 1) => (console::terminal().ok_or(Errno::ENODEV)?, false),
            _ => (find(dev).ok_or(Errno::ENXIO)?, true),
        };
        let ops = open(&tty, flags, may_control)?;
        Ok(Opened { ops, mode: FileMode::empty() })
    }
}

/// Opens a terminal. `may_control`: a session leader without a controlling terminal gets it.
///
/// # Errors
/// `EBUSY` when it is exclusive, `EIO` when its other side is gone, `ERESTARTSYS`, and the
/// device's own.
pub fn open(tty: &Arc<Tty>, flags: u32, may_control: bool) -> Result<Arc<TtyFile>> {
    let file = {
        let mut opens = tty.opens.lock();
        if *opens > 0 && tty.is_exclusive.load(Ordering::Relaxed) && !is_admin() {
            return Err(Errno::EBUSY);
        }
        tty.driver().open(*opens == 0)?;
        *opens += 1;
        Arc::new(TtyFile { tty: tty.clone(), generation: tty.generation() })
    };
    if flags & O_NONBLOCK == 0 {
        // The file's drop undoes the open when the wait is interrupted.
        wait_for_carrier(tty, file.generation)?;
    }
    if may_control && flags & O_NOCTTY == 0 && flags & O_ACCMODE != O_WRONLY {
        tty.adopt_on_open();
    }
    Ok(file)
}

fn wait_for_carrier(tty: &Arc<Tty>, generation: u32) -> Result<()> {
    let look = || {
        if tty.generation() != generation {
            return Some(Err(Errno::EIO));
        }
        let is_local = tty.termios().cflag & CLOCAL != 0;
        (is_local || tty.driver().has_carrier()).then_some(Ok(()))
    };
    if let Some(result) = look() {
        return result;
    }
    wait::until(&tty.read_wait, None, look)?.unwrap_or(Ok(()))
}

/// An open file of a terminal.
pub struct TtyFile {
    tty: Arc<Tty>,
    generation: u32,
}

impl TtyFile {
    /// The terminal.
    pub fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }

    fn mode(&self, file: &File) -> Mode {
        Mode::new(self.generation, file.flags())
    }
}

impl Drop for TtyFile {
    fn drop(&mut self) {
        let mut opens = self.tty.opens.lock();
        *opens = opens.saturating_sub(1);
        if *opens == 0 {
            self.tty.is_exclusive.store(false, Ordering::Relaxed);
            self.tty.driver().close();
        }
    }
}

impl FileOps for TtyFile {
    fn read_at(&self, file: &File, _: u64, sink: &mut Sink<'_>) -> Result<usize> {
        self.tty.read(self.mode(file), sink)
    }

    fn write_at(&self, file: &File, _: u64, source: &mut Source<'_>) -> Result<usize> {
        self.tty.write(self.mode(file), source)
    }

    fn seek(&self, _: &File, _: u64, _: i64, _: u32) -> Result<u64> {
        Err(Errno::ESPIPE)
    }

    fn poll(&self, file: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        self.tty.poll(self.mode(file), table)
    }

    fn ioctl(&self, file: &Arc<File>, _: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        self.tty.ioctl(self.mode(file), file.can_read(), cmd, arg)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The terminal behind an open file, for the process layer and `ttyname`-like uses.
pub fn terminal_of(file: &File) -> Option<Arc<Tty>> {
    file.private::<TtyFile>().map(|file| file.tty.clone())
}
