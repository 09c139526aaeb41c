//! The files of the controller `cpuacct`, and `cpu.stat` of version 2.

use crate::directory::{Entry, always};
use crate::tasks;
use abi::Errno;
use process::cgroup::{Controllers, Group};
use process::usage::USER_HZ;
use pseudo::Put;

const TICK_NS: u64 = 1_000_000_000 / USER_HZ;

pub(crate) const FILES: &[Entry] = &[
    Entry {
        name: "cpuacct.usage",
        mode: 0o644,
        is_in: is_controlled,
        show: |group, out| {
            out.dec(group.cpu_usage_since_cleared().total_ns()).text("\n");
            Ok(())
        },
        store: Some(|group, bytes, _| {
            if tasks::number(bytes)? != 0 {
                return Err(Errno::EINVAL);
            }
            group.clear_cpu_usage();
            Ok(())
        }),
    },
    Entry {
        name: "cpuacct.usage_user",
        mode: 0o444,
        is_in: is_controlled,
        show: |group, out| {
            out.dec(group.cpu_usage_since_cleared().user_ns).text("\n");
            Ok(())
        },
        store: None,
    },
    Entry {
        name: "cpuacct.usage_sys",
        mode: 0o444,
        is_in: is_controlled,
        show: |group, out| {
            out.dec(group.cpu_usage_since_cleared().system_ns).text("\n");
            Ok(())
        },
        store: None,
    },
    Entry {
        name: "cpuacct.stat",
        mode: 0o444,
        is_in: is_controlled,
        show: |group, out| {
            let usage = group.cpu_usage();
            out.text("user ").dec(usage.user_ns / TICK_NS);
            out.text("\nsystem ").dec(usage.system_ns / TICK_NS).text("\n");
            Ok(())
        },
        store: None,
    },
];

pub(crate) const UNIFIED: &[Entry] = &[Entry {
    name: "cpu.stat",
    mode: 0o444,
    is_in: always,
    show: |group, out| {
        let usage = group.cpu_usage();
        out.text("usage_usec ").dec(usage.total_ns() / 1000);
        out.text("\nuser_usec ").dec(usage.user_ns / 1000);
        out.text("\nsystem_usec ").dec(usage.system_ns / 1000).text("\n");
        Ok(())
    },
    store: None,
}];

fn is_controlled(group: &Group) -> bool {
    group.controllers().contains(Controllers::CPUACCT)
}
