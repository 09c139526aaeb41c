//! The key retention calls: absent, as in a kernel without `CONFIG_KEYS`; `ENOSYS` from the table.

crate::syscalls! {}
