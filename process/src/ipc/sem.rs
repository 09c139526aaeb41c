//! System V semaphores: the undo lists of tasks.

use crate::task::Task;
use alloc::sync::Arc;
use ipc::sem::UndoList;

/// The task's list, made when it is needed.
pub fn undo_list(task: &Task) -> Arc<UndoList> {
    if let Some(list) = &*task.sem_undo.lock() {
        return list.clone();
    }
    let fresh = Arc::new(UndoList::default());
    task.sem_undo.lock().get_or_insert(fresh).clone()
}

/// The task lets go of its list; the last one takes everything back.
pub(crate) fn thread_exit(task: &Task) {
    let list = task.sem_undo.lock().take();
    if let Some(list) = list.and_then(Arc::into_inner) {
        list.take_back(&super::who(task));
    }
}

/// `CLONE_SYSVSEM`: parent and child have one list from now on.
pub(crate) fn share_undo(parent: &Task, child: &Task) {
    *child.sem_undo.lock() = Some(undo_list(parent));
}
