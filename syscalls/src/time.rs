//! Clocks, sleeps, interval and POSIX timers.

crate::syscalls! {}
