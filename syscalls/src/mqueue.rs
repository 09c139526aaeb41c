//! POSIX message queues.

crate::syscalls! {}
