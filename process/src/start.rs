//! Process 1.

use crate::exec::{self, Program, args::Strings};
use crate::group::{ThreadGroup, tree};
use crate::limits::Limits;
use crate::nsproxy;
use crate::pid::{Pid, PidNamespace};
use crate::task::{Parts, Task};
use crate::user::User;
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::VirtAddr;
use arch::thread::fpu::FpuStart;
use arch::trap::TrapFrame;
use core::sync::atomic::Ordering;
use sched::Thread;
use vfs::context::{FsPaths, FsState};
use vfs::fdtable::FdTable;
use vfs::file::File;
use vfs::mount::MountNamespace;
use vfs::path::Path;

/// What process 1 starts with.
pub struct Init {
    /// The mount namespace of the machine.
    pub mounts: Arc<MountNamespace>,
    /// The root directory.
    pub root: Path,
    /// Opened three times as descriptors 0, 1 and 2, if there is a console.
    pub console: Option<Arc<File>>,
    /// Programs to try in order.
    pub programs: Vec<Vec<u8>>,
    /// Their arguments, without the name.
    pub arguments: Vec<Vec<u8>>,
    /// The environment.
    pub environment: Vec<Vec<u8>>,
    /// How many threads the machine can hold.
    pub max_threads: usize,
}

/// Makes process 1 and starts the first of the programs that can be. On failure the error of the
/// last one; process 1 does not exist then. `failed` hears of each program that cannot be started,
/// by its place in the list.
pub fn spawn_init(init: Init, failed: impl Fn(usize, Errno)) -> Result<()> {
    tty::set_job_control(&crate::jobs::Jobs);
    let ns = nsproxy::init(init.mounts, init.root.clone());
    crate::fork::set_max_threads(init.max_threads);
    let pid = Pid::allocate(PidNamespace::initial())?;
    let limits = Limits::initial(init.max_threads as u64);
    let group = ThreadGroup::new(pid.clone(), pid.clone(), pid.clone(), limits);
    let files = Arc::new(FdTable::new());
    if let Some(console) = init.console {
        for _ in 0..3 {
            files.add(console.clone(), 0, 1024, vfs::fdtable::CloseOnExec::No)?;
        }
    }
    let paths = FsPaths { root: init.root.clone(), cwd: init.root };
    let creds = crate::creds::initial_creds().clone();
    let task = Task::new(Parts {
        group: group.clone(),
        pid: pid.clone(),
        creds: creds.clone(),
        user: User::of(0),
        mm: None,
        files,
        fs: Arc::new(FsState::new(paths, 0o022)),
        sighand: crate::fork::fresh_handlers(),
        ns,
    });
    let mut environment = Strings::new();
    for entry in &init.environment {
        environment.push(entry)?;
    }
    let mut error = Errno::ENOENT;
    for (index, path) in init.programs.iter().enumerate() {
        let name = core::str::from_utf8(path).unwrap_or("?");
        log::info!("Run {name} as init process");
        let mut arguments = Strings::new();
        arguments.push(path)?;
        for argument in &init.arguments {
            arguments.push(argument)?;
        }
        match load(&task, path, arguments, environment.clone()) {
            Ok(loaded) => return give_birth(&task, &group, &pid, loaded, true),
            Err(failure) => {
                error = failure.errno();
                failed(index, error);
            }
        }
    }
    pid.abandon();
    Err(error)
}

/// Loads a program into a task that has none yet.
pub(crate) fn load(
    task: &Arc<Task>,
    path: &[u8],
    argv: Strings,
    envp: Strings,
) -> core::result::Result<exec::Loaded, exec::Failure> {
    let file = exec::Opener::open(&**task, path)?;
    let program = Program { file, filename: path.to_vec(), argv, envp };
    exec::load(task, program, &task.creds(), &task.group.limits)
}

/// Starts a process without a parent, a group and a session of its own. Errors: `ENOMEM`.
pub(crate) fn give_birth(
    task: &Arc<Task>,
    group: &Arc<ThreadGroup>,
    pid: &Arc<Pid>,
    loaded: exec::Loaded,
    is_init: bool,
) -> Result<()> {
    let frame = TrapFrame::new_user(VirtAddr(loaded.entry), VirtAddr(loaded.sp));
    let thread = Thread::new_user(b"init", &frame, FpuStart::Initial)?;
    task.set_thread(thread.clone());
    task.mm.set(Some(loaded.mm.clone()));
    crate::bind_address_space(task, &loaded.mm);
    let mut unused = frame;
    exec::adopt(task, &mut unused, loaded);
    {
        let _tree = tree();
        group.add_thread(task, true);
        if is_init {
            group.is_unkillable.store(true, Ordering::Relaxed);
            PidNamespace::initial().set_init(group);
        }
        pid.attach_task(task);
        pid.attach_group(group);
        let mut kin = group.kin.lock();
        kin.pgrp_key = pid.attach_member(group);
        kin.session_key = pid.attach_session(group);
    }
    if is_init {
        INIT.call_once(|| group.clone());
    }
    thread.start_user(task.clone());
    Ok(())
}

/// Process 1 has no parent that would keep it.
static INIT: spin::Once<Arc<ThreadGroup>> = spin::Once::new();
