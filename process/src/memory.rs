//! The seam between tasks and their address spaces: who uses which, and what the scheduler loads.

use crate::task::Task;
use abi::Result;
use alloc::sync::Arc;
use vfs::context::FsState;
use vfs::cred::Creds;
use vfs::mount::MountNamespace;
use vm::AddressSpace;

/// Replaces the running task's address space and loads the new one.
pub(crate) fn set_address_space(task: &Task, mm: Option<Arc<AddressSpace>>) {
    if let Some(thread) = task.thread() {
        thread.set_space(mm.clone().map(|mm| mm as Arc<dyn sched::Space>));
    }
    let old = task.mm();
    task.mm.set(mm);
    drop(old);
}

/// Gives a task that has not run yet its address space.
pub(crate) fn bind_address_space(task: &Task, mm: &Arc<AddressSpace>) {
    if let Some(thread) = task.thread() {
        thread.set_space(Some(mm.clone() as Arc<dyn sched::Space>));
    }
}

/// Whether another task uses the address space as well. `own` references are the caller's.
pub(crate) fn mm_is_shared(mm: &Arc<AddressSpace>, own: usize) -> bool {
    // The task's cell and the scheduler's pointer, besides the caller's own references.
    Arc::strong_count(mm) > own + 1
}

/// `CLONE_NEWNS`: a copy of the mount namespace; root and working directory in `fs` follow.
pub(crate) fn copy_mounts(
    mounts: &Arc<MountNamespace>,
    fs: &Arc<FsState>,
    creds: &Creds,
) -> Result<Arc<MountNamespace>> {
    let paths = fs.paths().ok_or(abi::Errno::EINVAL)?;
    let mut moved = (*paths).clone();
    let id = crate::pid::next_namespace_id();
    let new = vfs::mount::clone_namespace(mounts, id, creds.user_ns.clone(), &mut moved)?;
    fs.update(|paths| *paths = moved);
    Ok(new)
}

/// `AT_HWCAP`: CPUID leaf 1, EDX.
pub(crate) fn cpu_features() -> u32 {
    arch::cpu::hwcap()
}
