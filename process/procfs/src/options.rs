//! What a mount of proc shows, and to whom: proc(5), "Mount options".

use abi::{Errno, Result};
use alloc::sync::Arc;
use arch::lock::{LockClass, SpinLock};
use core::fmt::{self, Write};
use process::Task;
use process::pid::PidNamespace;

static CLASS: LockClass = LockClass::new("procfs.options", 283);

/// `hidepid=`: which processes of others somebody gets to see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Hide {
    /// All.
    #[default]
    Nothing,
    /// Their directories, but not what is in them.
    Contents,
    /// None.
    Processes,
    /// None that he could not trace, whatever his groups.
    Untraceable,
}

const NAMES: [(&str, &str, Hide); 4] = [
    ("off", "0", Hide::Nothing),
    ("noaccess", "1", Hide::Contents),
    ("invisible", "2", Hide::Processes),
    ("ptraceable", "4", Hide::Untraceable),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Options {
    hide: Hide,
    /// Whose members see everything; 0 for nobody's.
    gid: u32,
    /// Only processes are shown.
    only_processes: bool,
}

impl Options {
    /// Changes what the text names. `EINVAL` for what is no option.
    fn change(&mut self, text: &[u8]) -> Result<()> {
        let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (key, value) = word.split_once('=').ok_or(Errno::EINVAL)?;
            match key {
                "hidepid" => {
                    let known = NAMES.iter().find(|(name, nr, _)| value == *name || value == *nr);
                    self.hide = known.ok_or(Errno::EINVAL)?.2;
                }
                "gid" => self.gid = value.parse().map_err(|_| Errno::EINVAL)?,
                "subset" if value == "pid" => self.only_processes = true,
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(())
    }
}

/// What a mount shows.
pub(crate) struct Shown {
    /// Whose processes.
    pub(crate) ns: Arc<PidNamespace>,
    options: SpinLock<Options>,
}

impl Shown {
    /// A mount without options.
    pub(crate) fn everything(ns: Arc<PidNamespace>) -> Arc<Shown> {
        Arc::new(Shown { ns, options: SpinLock::new(&CLASS, Options::default()) })
    }

    /// A mount with these options. `EINVAL` for what is no option.
    pub(crate) fn new(ns: Arc<PidNamespace>, text: &[u8]) -> Result<Arc<Shown>> {
        let mut options = Options::default();
        options.change(text)?;
        Ok(Arc::new(Shown { ns, options: SpinLock::new(&CLASS, options) }))
    }

    /// Whether there is more than processes.
    pub(crate) fn has_system_files(&self) -> bool {
        !self.options.lock().only_processes
    }

    /// Whether the running task sees that there is such a process.
    pub(crate) fn sees(&self, task: &Task) -> bool {
        let options = *self.options.lock();
        match options.hide {
            Hide::Nothing | Hide::Contents => true,
            Hide::Processes => is_member(options.gid) || may_look(task),
            Hide::Untraceable => may_look(task),
        }
    }

    /// Whether the running task may use what is in the process's directory.
    pub(crate) fn may_enter(&self, task: &Task) -> bool {
        let options = *self.options.lock();
        options.hide == Hide::Nothing || is_member(options.gid) || may_look(task)
    }
}

fn is_member(gid: u32) -> bool {
    gid != 0 && process::try_current().is_some_and(|own| own.creds().in_group(gid))
}

fn may_look(task: &Task) -> bool {
    process::try_current().is_none_or(|own| process::task::inspect(own, task, || ()).is_ok())
}

impl pseudo::Settings for Shown {
    fn change(&self, text: &[u8]) -> Result<()> {
        let mut options = *self.options.lock();
        options.change(text)?;
        *self.options.lock() = options;
        Ok(())
    }

    fn show(&self, out: &mut dyn Write) -> fmt::Result {
        let options = *self.options.lock();
        if options.gid != 0 {
            write!(out, ",gid={}", options.gid)?;
        }
        if options.hide != Hide::Nothing
            && let Some((name, ..)) = NAMES.iter().find(|(.., hide)| *hide == options.hide)
        {
            write!(out, ",hidepid={name}")?;
        }
        if options.only_processes {
            out.write_str(",subset=pid")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_what_the_manual_lists() {
        let parse = |text: &[u8]| {
            let mut options = Options::default();
            options.change(text).map(|()| options)
        };
        let all = parse(b"hidepid=2,gid=100,subset=pid").expect("options");
        assert_eq!((all.hide, all.gid, all.only_processes), (Hide::Processes, 100, true));
        assert_eq!(parse(b"hidepid=noaccess").expect("options").hide, Hide::Contents);
        assert_eq!(parse(b"").expect("options"), Options::default());
        for wrong in ["hidepid=3", "hidepid", "gid=x", "subset=all", "size=5", "nosuch"] {
            assert_eq!(parse(wrong.as_bytes()), Err(Errno::EINVAL), "{wrong}");
        }
    }
}
