//! Calls on open descriptors: read, write, seek, dup, fcntl, ioctl, sync, splice and the rest.

crate::syscalls! {}
