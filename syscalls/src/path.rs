//! Calls that walk a path: open, stat, mkdir, unlink, rename, chmod, xattr and the rest.

crate::syscalls! {}
