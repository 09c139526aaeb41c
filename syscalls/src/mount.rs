//! Mounts: mount, umount, pivot_root, the new mount API, statfs.

crate::syscalls! {}
