//! Pipes, eventfd, timerfd, signalfd, inotify, memfd and the other descriptors without a file.

crate::syscalls! {}
