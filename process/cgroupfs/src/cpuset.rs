//! The files of the controller `cpuset`: cpuset(7).

use crate::directory::{Entry, below_root};
use crate::tasks;
use abi::{Errno, Result};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::cpu::{CpuId, CpuSet};
use core::sync::atomic::Ordering;
use process::cgroup::cpuset::{self, switch};
use process::cgroup::{Controllers, Group};
use pseudo::Put;
use vfs::cred::Creds;

/// The highest `cpuset.sched_relax_domain_level`.
const RELAX_LEVEL_MAX: i64 = 4;
/// As many nodes as there can be numbers of.
const NODES_MAX: usize = 1024;

macro_rules! switch_file {
    ($name:literal, $switch:expr) => {
        Entry {
            name: $name,
            mode: 0o644,
            is_in: is_controlled,
            show: |group, out| {
                out.dec(u32::from(group.cpuset_switch($switch))).text("\n");
                Ok(())
            },
            store: Some(|group, bytes, _| {
                let is_on = tasks::number(bytes)? != 0;
                cpuset::set_switch(group, $switch, is_on)
            }),
        }
    };
}

const CPUS: Entry = Entry {
    name: "cpuset.cpus",
    mode: 0o644,
    is_in: is_controlled,
    show: |group, out| show_cpus(group.cpus(), out),
    store: Some(set_cpus),
};

const MEMS: Entry = Entry {
    name: "cpuset.mems",
    mode: 0o644,
    is_in: is_controlled,
    show: |group, out| show_memory(group.has_memory(), out),
    store: Some(|group, bytes, _| {
        let mut has_memory = false;
        parse(bytes, NODES_MAX, |node| {
            has_memory = true;
            if node == 0 { Ok(()) } else { Err(Errno::EINVAL) }
        })?;
        cpuset::set_memory(group, has_memory)
    }),
};

pub(crate) const FILES: &[Entry] = &[
    CPUS,
    MEMS,
    Entry {
        name: "cpuset.effective_cpus",
        mode: 0o444,
        is_in: is_controlled,
        show: |group, out| show_cpus(group.effective_cpus(), out),
        store: None,
    },
    Entry {
        name: "cpuset.effective_mems",
        mode: 0o444,
        is_in: is_controlled,
        show: |group, out| show_memory(group.has_memory(), out),
        store: None,
    },
    switch_file!("cpuset.cpu_exclusive", switch::CPU_EXCLUSIVE),
    switch_file!("cpuset.mem_exclusive", switch::MEM_EXCLUSIVE),
    switch_file!("cpuset.mem_hardwall", switch::MEM_HARDWALL),
    switch_file!("cpuset.memory_migrate", switch::MEMORY_MIGRATE),
    switch_file!("cpuset.memory_spread_page", switch::SPREAD_PAGE),
    switch_file!("cpuset.memory_spread_slab", switch::SPREAD_SLAB),
    switch_file!("cpuset.sched_load_balance", switch::LOAD_BALANCE),
    Entry {
        is_in: |group| group.is_root() && is_controlled(group),
        ..switch_file!("cpuset.memory_pressure_enabled", switch::PRESSURE_ENABLED)
    },
    Entry {
        name: "cpuset.memory_pressure",
        mode: 0o444,
        is_in: is_controlled,
        show: |_, out| {
            out.text("0\n");
            Ok(())
        },
        store: None,
    },
    Entry {
        name: "cpuset.sched_relax_domain_level",
        mode: 0o644,
        is_in: is_controlled,
        show: |group, out| {
            out.dec(group.relax_level().load(Ordering::Relaxed)).text("\n");
            Ok(())
        },
        store: Some(|group, bytes, _| match tasks::number(bytes)? {
            level @ -1..=RELAX_LEVEL_MAX => {
                group.relax_level().store(level as i32, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }),
    },
];

pub(crate) const UNIFIED: &[Entry] = &[
    Entry { is_in: is_controlled_below, ..CPUS },
    Entry { is_in: is_controlled_below, ..MEMS },
    Entry {
        name: "cpuset.cpus.effective",
        mode: 0o444,
        is_in: is_controlled,
        show: |group, out| show_cpus(group.effective_cpus(), out),
        store: None,
    },
    Entry {
        name: "cpuset.mems.effective",
        mode: 0o444,
        is_in: is_controlled,
        show: |_, out| show_memory(true, out),
        store: None,
    },
];

fn is_controlled(group: &Group) -> bool {
    group.controllers().contains(Controllers::CPUSET)
}

fn is_controlled_below(group: &Group) -> bool {
    below_root(group) && is_controlled(group)
}

fn show_cpus(cpus: CpuSet, out: &mut Vec<u8>) -> Result<()> {
    out.text(&format!("{cpus}\n"));
    Ok(())
}

fn show_memory(has_memory: bool, out: &mut Vec<u8>) -> Result<()> {
    out.text(if has_memory { "0\n" } else { "\n" });
    Ok(())
}

fn set_cpus(group: &Arc<Group>, bytes: &[u8], _: &Arc<Creds>) -> Result<()> {
    let cpus = parse_cpus(bytes, arch::cpu::possible_count())?;
    if !group.hierarchy().is_unified() && !cpus.is_subset(&arch::cpu::online()) {
        return Err(Errno::EINVAL);
    }
    cpuset::set_cpus(group, cpus)
}

fn parse_cpus(bytes: &[u8], end: usize) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    parse(bytes, end, |number| {
        set.insert(CpuId::new(number).ok_or(Errno::ERANGE)?);
        Ok(())
    })?;
    Ok(set)
}

/// A list of numbers below `end`, cpuset(7), "List format". Errors: `EINVAL` for what is none, `ERANGE` for a number
/// that there cannot be.
fn parse(bytes: &[u8], end: usize, mut take: impl FnMut(usize) -> Result<()>) -> Result<()> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let words = text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty());
    for word in words {
        let number = |digits: &str| -> Result<usize> {
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Errno::EINVAL);
            }
            digits.parse().map_err(|_| Errno::EOVERFLOW)
        };
        let (range, groups) = match word.split_once(':') {
            Some((range, groups)) => (range, groups.split_once('/').ok_or(Errno::EINVAL)?),
            None => (word, ("1", "1")),
        };
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(range)?, number(range)?),
        };
        let (used, size) = (number(groups.0)?, number(groups.1)?);
        if last < first || used > size || size == 0 {
            return Err(Errno::EINVAL);
        }
        if last >= end {
            return Err(Errno::ERANGE);
        }
        for at in (first..=last).filter(|at| (at - first) % size < used) {
            take(at)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<alloc::string::String> {
        parse_cpus(text.as_bytes(), 16).map(|set| format!("{set}"))
    }

    #[test]
    fn lists() {
        assert_eq!(list("0-3,7").as_deref(), Ok("0-3,7"));
        assert_eq!(list("0-7:1/2").as_deref(), Ok("0,2,4,6"));
        assert_eq!(list("").as_deref(), Ok(""));
        assert_eq!(list("3 5,").as_deref(), Ok("3,5"));
        for wrong in ["x", "3-1", "-1", "1-", "0-3:2", "0-3:3/2", "0-3:0/0", "0x1"] {
            assert_eq!(list(wrong), Err(Errno::EINVAL), "{wrong}");
        }
        assert_eq!(list("16"), Err(Errno::ERANGE));
    }
}
