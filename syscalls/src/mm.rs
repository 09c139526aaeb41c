//! Address spaces: mmap, munmap, mprotect, brk, madvise, mlock and the rest.

crate::syscalls! {}
