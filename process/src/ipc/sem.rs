//! System V semaphores: undo lists.

use crate::task::Task;

/// What a process undoes at its end.
#[derive(Default)]
pub struct UndoList {}

pub(crate) fn thread_exit(task: &Task) {
    drop(task.sem_undo.lock().take());
}

pub(crate) fn share_undo(parent: &Task, child: &Task) {
    let list = parent.sem_undo.lock().clone();
    *child.sem_undo.lock() = list;
}
