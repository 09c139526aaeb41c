//! Scheduling: policies, priorities, affinity, yield.

crate::syscalls! {}
