//! `execve(2)`: replacing the program of a process.
//!
//! The new address space is built in full, stack included, before anything of the old program is
//! given up, so nearly every failure is an errno. What Linux discovers past its point of no return
//! (segments that cannot be mapped) kills the process here as well: [`Failure::Fatal`].

pub mod args;
pub mod elf;
mod image;
mod interpret;
mod lock;
pub mod misc;
pub mod script;
mod stack;

use crate::creds::{self, FilePrivileges};
use crate::group::MemoryLayout;
use crate::task::Task;
use abi::process::{Resource, auxv};
use abi::signal::{SS_DISABLE, SigInfo, Signal, StackT, si};
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::trap::TrapFrame;
use args::Strings;
use core::sync::atomic::Ordering;
use interpret::{Handed, Resolved};
use vfs::cred::{CapSet, Creds};
use vfs::file::File;
use vfs::types::Access;
use vfs::{DenyWrite, Shared};
use vm::AddressSpace;

pub use image::RANDOMIZE_VA_SPACE;
pub(crate) use lock::ProgramLock;

/// `READ_IMPLIES_EXEC` of `personality(2)`.
pub const READ_IMPLIES_EXEC: u32 = 0x040_0000;
/// `ADDR_NO_RANDOMIZE` of `personality(2)`.
pub const ADDR_NO_RANDOMIZE: u32 = 0x004_0000;
/// What a set-user-id program does not inherit of the personality.
const PER_CLEAR_ON_SETID: u32 = READ_IMPLIES_EXEC | ADDR_NO_RANDOMIZE | 0x020_0000 | 0x010_0000;

/// What to run.
pub struct Program {
    /// The open file.
    pub file: Arc<File>,
    /// Its name as the caller gave it (`AT_EXECFN`, `comm`).
    pub filename: Vec<u8>,
    /// Arguments.
    pub argv: Strings,
    /// Environment.
    pub envp: Strings,
}

/// A program ready to take over.
pub(crate) struct Loaded {
    pub(crate) mm: Arc<AddressSpace>,
    pub(crate) entry: u64,
    pub(crate) sp: u64,
    layout: MemoryLayout,
    creds: Creds,
    secure: bool,
    personality: u32,
    file: Arc<File>,
    nobody_writes: DenyWrite,
    filename: Vec<u8>,
    handed: Option<Handed>,
}

/// The file of the running program.
pub(crate) struct Executable {
    file: Arc<File>,
    /// execve(2), open(2): `ETXTBSY` for who would write while it runs.
    _nobody_writes: DenyWrite,
}

impl Executable {
    /// The open file.
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }
}

/// Why a program could not be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// `execve` fails; the caller goes on.
    Errno(Errno),
    /// Linux would have given up the old program already: the process dies.
    Fatal(Errno),
}

impl Failure {
    /// The error, whatever became of the old program.
    pub(crate) fn errno(self) -> Errno {
        match self {
            Failure::Errno(errno) | Failure::Fatal(errno) => errno,
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Errno(errno)
    }
}

/// Finds an interpreter or a program for the kernel itself: an open, executable file.
pub trait Opener {
    /// Opens `path` for execution.
    fn open(&self, path: &[u8]) -> Result<Arc<File>>;
}

impl Opener for Task {
    fn open(&self, path: &[u8]) -> Result<Arc<File>> {
        let context = self.vfs_context();
        let ctx = context.get();
        vfs::open(&ctx, ctx.cwd, path, &vfs::OpenHow::execute())
    }
}

/// Replaces the running program. On success the registers in `frame` are those of the new one.
pub fn exec(task: &Task, frame: &mut TrapFrame, program: Program) -> Result<()> {
    let original = program.file.clone();
    // Before it is decided whether the file's privileges count, until they are in place.
    let lock = task.group.program_lock.lock()?;
    let old_tid = crate::ptrace::tracer_of(task)
        .map_or(0, |tracer| task.pid().number_in(tracer.group.pid_ns()));
    let outcome = load(task, program, &task.creds(), &task.group.limits).and_then(|loaded| {
        drop(original);
        install(task, frame, loaded)
    });
    match outcome {
        Ok(()) => {
            drop(lock);
            crate::ptrace::exec_stop(task, frame, old_tid);
            Ok(())
        }
        Err(Failure::Errno(errno)) => Err(errno),
        Err(Failure::Fatal(errno)) => {
            crate::signal::force(task, SigInfo::new(Signal::SIGSEGV, si::KERNEL));
            crate::exit::become_alone(task)?;
            if let Some(hand) = task.sighand() {
                hand.reset_handlers();
            }
            Err(errno)
        }
    }
}

/// Reads from a file into kernel memory; how much there was.
pub(crate) fn read_at(file: &Arc<File>, pos: u64, buffer: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = buffer.get_mut(done..).ok_or(Errno::EINVAL)?;
        let mut sink = arch::uio::Sink::kernel(rest);
        let got = file.ops().read_at(file, pos + done as u64, &mut sink)?;
        if got == 0 {
            break;
        }
        done += got;
    }
    Ok(done)
}

/// Builds the new program beside the old one.
pub(crate) fn load(
    task: &Task,
    program: Program,
    old: &Arc<Creds>,
    limits: &crate::limits::Limits,
) -> core::result::Result<Loaded, Failure> {
    let mut program = program;
    let Resolved { file, nobody_writes, head, len, argv, privileged, handed, keeps_name } =
        interpret::resolve(task, &mut program)?;
    let Program { filename, envp, .. } = program;
    let bytes = head.get(..len).unwrap_or_default();
    let header = elf::Header::parse(bytes).map_err(Errno::from)?;
    let segments = image::read_segments(&file, &header)?;
    let interpreter = image::open_interpreter(task, &file, &segments)?;

    let privileges = file_privileges(task, privileged.as_ref().unwrap_or(&file));
    let (creds, secure) = creds::exec(old, &privileges)?;
    let mut personality = task.personality.load(Ordering::Relaxed);
    if creds.euid != old.euid || creds.egid != old.egid {
        personality &= !PER_CLEAR_ON_SETID;
    }
    let stack_flags = segments.iter().rev().find(|s| s.kind == elf::PT_GNU_STACK).map(|s| s.flags);
    if stack_flags.is_none_or(|f| f & elf::PF_X != 0) {
        personality |= READ_IMPLIES_EXEC;
    }
    let randomize = personality & ADDR_NO_RANDOMIZE == 0 && image::randomize_va_space() > 0;
    let stack_limit = limits.soft(Resource::Stack);

    let mut builder = image::Builder::new(randomize, stack_limit, personality)?;
    let main = builder.load_main(&file, &header, &segments, interpreter.is_some())?;
    let interp = match &interpreter {
        Some(i) => Some(builder.load_interpreter(i)?),
        None => None,
    };
    let vdso = builder.map_vdso();
    let executable = stack_flags.is_none_or(|f| f & elf::PF_X != 0);
    let top = builder.stack_top();
    let ns = &creds.user_ns;
    let auxv = [
        (auxv::SYSINFO_EHDR, vdso),
        (auxv::HWCAP, u64::from(crate::cpu_features())),
        (auxv::PAGESZ, 4096),
        (auxv::CLKTCK, 100),
        (auxv::PHDR, main.phdr),
        (auxv::PHENT, elf::PHENT_SIZE as u64),
        (auxv::PHNUM, u64::from(header.phnum)),
        (auxv::BASE, interp.as_ref().map_or(0, |i| i.base)),
        (auxv::FLAGS, u64::from(keeps_name)),
        (auxv::ENTRY, main.entry),
        (auxv::UID, u64::from(ns.uid_in(creds.uid))),
        (auxv::EUID, u64::from(ns.uid_in(creds.euid))),
        (auxv::GID, u64::from(ns.gid_in(creds.gid))),
        (auxv::EGID, u64::from(ns.gid_in(creds.egid))),
        (auxv::SECURE, u64::from(secure)),
        (auxv::HWCAP2, 0),
        (auxv::EXECFD, handed.as_ref().map_or(0, |handed| u64::from(handed.number()))),
    ];
    let used = usize::from(vdso == 0)..auxv.len() - usize::from(handed.is_none());
    let mut random = [0u8; 16];
    crate::random_bytes(&mut random);
    let image = stack::build(
        top,
        &stack::Contents {
            argv: &argv,
            envp: &envp,
            filename: &filename,
            random,
            auxv: auxv.get(used).unwrap_or_default(),
            gap: if randomize { crate::random_u64() % 8192 } else { 0 },
        },
    )?;
    builder.write_stack(&image, executable, stack_limit)?;
    let layout = MemoryLayout {
        start_code: main.start_code,
        end_code: main.end_code,
        start_data: main.start_data,
        end_data: main.end_data,
        start_brk: main.brk,
        start_stack: image.sp,
        arg_start: image.arg_start,
        arg_end: image.arg_end,
        env_start: image.env_start,
        env_end: image.env_end,
        auxv: image.auxv,
    };
    let entry = interp.map_or(main.entry, |i| i.entry);
    Ok(Loaded {
        mm: builder.finish(main.brk, randomize)?,
        entry,
        sp: image.sp,
        layout,
        creds,
        secure,
        personality,
        file,
        nobody_writes,
        filename,
        handed,
    })
}

/// Set-id bits and file capabilities, where they count.
fn file_privileges(task: &Task, file: &Arc<File>) -> FilePrivileges {
    const S_ISUID: u32 = 0o4000;
    const S_ISGID_EXEC: u32 = 0o2010;
    let mut privileges = FilePrivileges::default();
    if !crate::ptrace::allows_privileges(task) {
        return privileges;
    }
    if task.no_new_privs() || file.path.mount.has(abi::mount::MS_NOSUID) {
        return privileges;
    }
    let inode = file.inode();
    let mode = inode.mode();
    if mode & S_ISUID != 0 {
        privileges.uid = Some(inode.uid());
    }
    if mode & S_ISGID_EXEC == S_ISGID_EXEC {
        privileges.gid = Some(inode.gid());
    }
    let mut value = Vec::new();
    if inode.ops().get_xattr(inode, b"security.capability", &mut value).is_ok() {
        privileges.caps = decode_capabilities(&value);
    }
    privileges
}

/// `struct vfs_cap_data` (revision 2 and 3).
fn decode_capabilities(value: &[u8]) -> Option<(CapSet, CapSet, bool)> {
    let word = |i: usize| {
        value.get(i * 4..i * 4 + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)
    };
    let magic = word(0)?;
    let wide = match magic & 0xff00_0000 {
        0x0100_0000 if value.len() == 12 => false,
        0x0200_0000 if value.len() == 20 => true,
        0x0300_0000 if value.len() == 24 => true,
        _ => return None,
    };
    let high = |i: usize| if wide { word(i) } else { Some(0) };
    let permitted = u64::from(word(1)?) | u64::from(high(3)?) << 32;
    let inheritable = u64::from(word(2)?) | u64::from(high(4)?) << 32;
    let mask = CapSet::FULL.0;
    Some((CapSet(permitted & mask), CapSet(inheritable & mask), magic & 1 != 0))
}

/// Makes the running process the new program. Once it is alone there is no way back.
fn install(
    task: &Task,
    frame: &mut TrapFrame,
    mut loaded: Loaded,
) -> core::result::Result<(), Failure> {
    crate::exit::become_alone(task)?;
    // Handlers and descriptors may be shared with other processes.
    if let Some(hand) = task.sighand() {
        let own = if Arc::strong_count(&hand) > 2 { Arc::new(hand.duplicate()) } else { hand };
        own.reset_handlers();
        task.sighand.set(Some(own));
    }
    let with_handed = loaded.handed.take().and_then(Handed::keep);
    if let Some(files) = with_handed.or_else(|| task.files()) {
        let own = if files.sharers().count() > 1 {
            Arc::new(files.duplicate().map_err(Failure::Fatal)?)
        } else {
            files
        };
        own.close_on_exec();
        task.files.set(Some(own));
    }
    let mm = loaded.mm.clone();
    crate::futex::thread_exit(task);
    if let Some(old) = task.mm() {
        task.group.keep_peak(&old);
    }
    crate::exit::release_memory(task);
    begin(task, frame, loaded);
    // Last: nobody reaches the new program with the rights to look at the old one.
    crate::set_address_space(task, Some(mm));
    Ok(())
}

/// The last steps of an `execve(2)`.
fn begin(task: &Task, frame: &mut TrapFrame, loaded: Loaded) {
    arch::thread::fpu::reset_current();
    if let Some(thread) = task.thread() {
        thread.arch().set_fs_base(0);
        thread.arch().set_gs_base(0);
    }
    adopt(task, frame, loaded);
}

/// Makes `task` the new program as far as the process layer is concerned; also for process 1, which
/// does not run yet. The credentials come first: see [`crate::task::inspect`].
pub(crate) fn adopt(task: &Task, frame: &mut TrapFrame, loaded: Loaded) {
    let group = &task.group;
    let old = task.creds();
    // Linux asks with the credentials of the caller, not with those the file gives.
    let is_readable = vfs::perm::permission(loaded.file.inode(), Access::READ, &old).is_ok();
    let is_setid = loaded.secure || old.euid != loaded.creds.euid || old.egid != loaded.creds.egid;
    creds::commit(task, loaded.creds);
    // prctl(2), PR_SET_DUMPABLE; what may be run but not read is protected in the same way.
    let is_protected = is_setid || !is_readable;
    let dumpable = if is_protected { crate::coredump::suid_dumpable() } else { 1 };
    group.dumpable.store(dumpable, Ordering::Relaxed);
    if is_setid {
        task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    let name = loaded.filename.rsplit(|&b| b == b'/').next().unwrap_or_default();
    task.set_comm(name);
    group.timers.exec();
    task.robust_list.store(0, Ordering::Relaxed);
    crate::rseq::forget(task);
    task.personality.store(loaded.personality, Ordering::Relaxed);
    *task.altstack.lock() = StackT { sp: 0, flags: SS_DISABLE, pad: 0, size: 0 };
    group.exit_signal.store(Signal::SIGCHLD.raw() as i32, Ordering::Relaxed);
    group.has_execed.store(true, Ordering::Relaxed);
    if let Some(files) = loaded.handed.and_then(Handed::keep) {
        task.files.set(Some(files));
    }
    let executable = Executable { file: loaded.file, _nobody_writes: loaded.nobody_writes };
    group.exe.set(Some(Arc::new(executable)));
    group.update_layout(|layout| *layout = loaded.layout);
    crate::trace_hook(task);
    *frame = TrapFrame::new_user(VirtAddr(loaded.entry), VirtAddr(loaded.sp));
}
