//! System V shared memory, semaphores and message queues.

crate::syscalls! {}
