//! The configuration of a file system as a file: `fsopen(2)`, `fspick(2)`, `fsconfig(2)`,
//! `fsmount(2)`.
//!
//! A configuration gathers options one by one, makes or changes a super block from them, and keeps
//! what went wrong as messages that its descriptor is read for. One that failed is of no more use.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use abi::mount::*;
use abi::{Errno, Result};
use arch::lock::LockClass;
use arch::uio::Sink;
use sched::Mutex;

use super::ops::{self, may_mount, remount_super};
use super::{Mount, detached, tree};
use crate::context::Context;
use crate::file::{File, FileOps};
use crate::path::Path;
use crate::superblock::{
    FileSystemType, MountRequest, OptionError, OptionValue, SuperBlock, file_system,
};

static FS_CONFIG: LockClass = LockClass::new("vfs.fs_config", 202);

/// Messages that are kept; older ones are lost.
const MESSAGES: usize = 8;

/// Options of every file system: what they set in the super block's flags, and what they clear.
const SUPER_OPTIONS: [(&[u8], u64, u64); 9] = [
    (b"ro", MS_RDONLY, 0),
    (b"rw", 0, MS_RDONLY),
    (b"sync", MS_SYNCHRONOUS, 0),
    (b"async", 0, MS_SYNCHRONOUS),
    (b"dirsync", MS_DIRSYNC, 0),
    (b"lazytime", MS_LAZYTIME, 0),
    (b"nolazytime", 0, MS_LAZYTIME),
    (b"mand", MS_MANDLOCK, 0),
    (b"nomand", 0, MS_MANDLOCK),
];

/// What a configuration can do next.
enum Phase {
    /// Gathers the options of a new super block.
    Creating,
    /// Has made a super block that waits to be mounted.
    Created(Arc<Mount>),
    /// Gathers options to change the super block with.
    Changing,
    /// Something failed.
    Failed,
}

/// Keeps a super block in use.
struct Hold(Arc<SuperBlock>);

impl Hold {
    fn new(sb: &Arc<SuperBlock>) -> Hold {
        sb.activate();
        Hold(sb.clone())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.deactivate();
    }
}

struct State {
    phase: Phase,
    sb: Option<Hold>,
    source: Option<Vec<u8>>,
    options: Vec<u8>,
    flags: u64,
    /// The flags that were given, set or not.
    given: u64,
    messages: VecDeque<Vec<u8>>,
}

impl State {
    /// Keeps an error message; made of parts, as names are bytes.
    fn error(&mut self, parts: &[&[u8]]) {
        if self.messages.len() == MESSAGES {
            self.messages.pop_front();
        }
        let mut message = b"e ".to_vec();
        parts.iter().for_each(|part| message.extend_from_slice(part));
        message.push(b'\n');
        self.messages.push_back(message);
    }

    fn fail<T>(&mut self, error: Errno) -> Result<T> {
        self.phase = Phase::Failed;
        Err(error)
    }

    /// Forgets the options: they are in the super block now. Which flags were given is kept, as on
    /// Linux: what the next change does not set of them, it clears.
    fn begin_changes(&mut self) {
        self.phase = Phase::Changing;
        self.options.clear();
        self.flags = 0;
    }
}

/// The configuration of a file system, new or mounted.
pub struct FsConfig {
    fs: &'static dyn FileSystemType,
    state: Mutex<State>,
}

impl FsConfig {
    fn with(fs: &'static dyn FileSystemType, phase: Phase, sb: Option<Hold>) -> FsConfig {
        let state = State {
            phase,
            sb,
            source: None,
            options: Vec::new(),
            flags: 0,
            given: 0,
            messages: VecDeque::new(),
        };
        FsConfig { fs, state: Mutex::new(&FS_CONFIG, state) }
    }

    /// `fsopen(2)`: a file system to be made. `EPERM` without the right to mount, `ENODEV` for an
    /// unknown type.
    pub fn open(ctx: &Context<'_>, fs_type: &[u8]) -> Result<FsConfig> {
        may_mount(ctx)?;
        let fs = file_system(fs_type).ok_or(Errno::ENODEV)?;
        Ok(FsConfig::with(fs, Phase::Creating, None))
    }

    /// `fspick(2)`: the file system of a mount, to be changed. `EINVAL` if `path` is not the root of
    /// a mount.
    pub fn pick(ctx: &Context<'_>, path: &Path) -> Result<FsConfig> {
        detached::check_mounted(path, ctx.mounts)?;
        let sb = &path.mount.sb;
        let fs = file_system(sb.fs_type.as_bytes()).ok_or(Errno::EOPNOTSUPP)?;
        Ok(FsConfig::with(fs, Phase::Changing, Some(Hold::new(sb))))
    }

    /// Sets an option. `EBUSY` when options are not taken now, `EINVAL` and a message for one that
    /// the file system does not take.
    pub fn set(&self, key: &[u8], value: OptionValue<'_>) -> Result<()> {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Creating | Phase::Changing) {
            return Err(Errno::EBUSY);
        }
        if let Some((_, set, clear)) = SUPER_OPTIONS.iter().find(|(name, ..)| *name == key) {
            state.flags = (state.flags & !clear) | set;
            state.given |= set | clear;
            return Ok(());
        }
        if key == b"source" {
            return set_source(&mut state, value);
        }
        let name = self.fs.name().as_bytes();
        match self.fs.check_option(key, value) {
            Ok(()) => add_option(&mut state, key, value),
            Err(OptionError::Unknown) => {
                state.error(&[name, b": Unknown parameter '", key, b"'"]);
                Err(Errno::EINVAL)
            }
            Err(OptionError::BadValue) => {
                state.error(&[name, b": Bad value for '", key, b"'"]);
                Err(Errno::EINVAL)
            }
        }
    }

    /// `FSCONFIG_CMD_CREATE`: makes the super block.
    pub fn create(&self, ctx: &Context<'_>) -> Result<()> {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Creating) {
            return Err(Errno::EBUSY);
        }
        may_mount(ctx)?;
        if self.fs.needs_device() && state.source.is_none() {
            state.error(&[b"No source specified"]);
            return state.fail(Errno::EINVAL);
        }
        let source = state.source.clone().unwrap_or_else(|| b"none".to_vec());
        let request =
            MountRequest { source: &source, flags: state.flags, data: &state.options, ctx };
        let made = ops::make(self.fs, &request)
            .and_then(|sb| Ok(Mount::new(&sb, sb.root()?, &source, MS_RELATIME)));
        match made {
            Ok(mount) => {
                state.sb = Some(Hold::new(&mount.sb));
                state.phase = Phase::Created(mount);
                Ok(())
            }
            Err(error) => {
                let no_device =
                    matches!(error, Errno::ENOENT | Errno::ENOTBLK | Errno::EACCES | Errno::ENXIO);
                if self.fs.needs_device() && no_device {
                    state.error(&[&source, b": Can't open blockdev"]);
                }
                state.fail(error)
            }
        }
    }

    /// `FSCONFIG_CMD_RECONFIGURE`: changes the super block as the options since say.
    pub fn reconfigure(&self, ctx: &Context<'_>) -> Result<()> {
        let mut state = self.state.lock();
        let (Phase::Changing, Some(hold)) = (&state.phase, &state.sb) else {
            return Err(Errno::EBUSY);
        };
        let sb = hold.0.clone();
        sb.may_change(ctx.creds)?;
        let flags = (sb.flags() & !state.given) | state.flags;
        let changed = remount_super(&tree::lock(), &sb, flags, &state.options);
        match changed {
            Ok(()) => {
                state.begin_changes();
                Ok(())
            }
            Err(error) => state.fail(error),
        }
    }

    /// `fsmount(2)`: a detached mount of the super block with these `MS_*` flags of mounts. `EINVAL`
    /// before there is a super block, `EBUSY` if it does not wait to be mounted.
    pub fn mount(&self, ctx: &Context<'_>, flags: u64) -> Result<Arc<File>> {
        let mut state = self.state.lock();
        if state.sb.is_none() {
            return Err(Errno::EINVAL);
        }
        let Phase::Created(mount) = &state.phase else { return Err(Errno::EBUSY) };
        let mount = mount.clone();
        mount.set_flags(flags)?;
        let file = detached::detached(ctx, mount)?;
        state.begin_changes();
        Ok(file)
    }
}

fn set_source(state: &mut State, value: OptionValue<'_>) -> Result<()> {
    let OptionValue::Text(text) = value else {
        state.error(&[b"Non-string source"]);
        return Err(Errno::EINVAL);
    };
    if state.source.is_some() {
        state.error(&[b"Multiple sources"]);
        return Err(Errno::EINVAL);
    }
    state.source = Some(text.to_vec());
    Ok(())
}

/// Adds to the list that the file system gets, in which a comma ends an option.
fn add_option(state: &mut State, key: &[u8], value: OptionValue<'_>) -> Result<()> {
    let text = match value {
        OptionValue::None => None,
        OptionValue::Text(text) => Some(text),
        OptionValue::Object => return Err(Errno::EINVAL),
    };
    if key.contains(&b',') || text.is_some_and(|t| t.contains(&b',')) {
        return Err(Errno::EINVAL);
    }
    // As much as mount(2) takes.
    if state.options.len() + key.len() + text.map_or(0, <[u8]>::len) + 2 >= 4096 {
        return Err(Errno::EINVAL);
    }
    if !state.options.is_empty() {
        state.options.push(b',');
    }
    state.options.extend_from_slice(key);
    if let Some(text) = text {
        state.options.push(b'=');
        state.options.extend_from_slice(text);
    }
    Ok(())
}

impl FileOps for FsConfig {
    /// The oldest message, whole: `ENODATA` if there is none, `EMSGSIZE` if it does not fit.
    fn read_at(&self, _: &File, _: u64, sink: &mut Sink<'_>) -> Result<usize> {
        let mut state = self.state.lock();
        let message = state.messages.front().ok_or(Errno::ENODATA)?;
        if message.len() > sink.remaining() {
            return Err(Errno::EMSGSIZE);
        }
        let message = state.messages.pop_front().unwrap_or_default();
        drop(state);
        sink.put_all(&message)?;
        Ok(message.len())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl core::fmt::Debug for FsConfig {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "FsConfig({})", self.fs.name())
    }
}
