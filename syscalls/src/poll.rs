//! poll, select, epoll.

crate::syscalls! {}
