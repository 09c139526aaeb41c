//! Filters of sockets (socket(7), `SO_ATTACH_FILTER`): classic BPF that decides what a socket is given, and how
//! much of it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result};
use arch::addr::VirtAddr;
use arch::lock::{LockClass, SpinLock};
use arch::user;
use bpf::{Dialect, Input, Instruction, MAX_LEN, Program};

use crate::common::{Common, Flag};
use crate::interface::{OptionIn, OptionOut};

static CLASS: LockClass = LockClass::new("socket.filter", 574);

/// Whether any socket ever had a filter.
static IS_USED: AtomicBool = AtomicBool::new(false);

/// Whether there may be a socket with a filter in the machine: what would be looked for only then need not be.
#[inline]
pub fn is_used() -> bool {
    IS_USED.load(Ordering::Relaxed)
}

/// What the description of a filter counts against `net.core.optmem_max`.
const HEAD: usize = 64;

/// The filter of a socket, if it has one.
pub struct Filter {
    /// Whether there is one: all that a packet for a socket without one looks at.
    is_there: AtomicBool,
    program: SpinLock<Option<Arc<Program>>>,
}

impl Default for Filter {
    fn default() -> Self {
        Self::new()
    }
}

impl Filter {
    /// None.
    pub const fn new() -> Filter {
        Filter { is_there: AtomicBool::new(false), program: SpinLock::new(&CLASS, None) }
    }

    /// Whether there is a filter.
    #[inline]
    pub fn is_there(&self) -> bool {
        // Relaxed: a packet that comes while a filter is attached may be the last without it.
        self.is_there.load(Ordering::Relaxed)
    }

    /// The program.
    pub fn program(&self) -> Option<Arc<Program>> {
        if self.is_there() { self.program.lock().clone() } else { None }
    }

    /// Another program, or none; the one before.
    pub fn replace(&self, new: Option<Arc<Program>>) -> Option<Arc<Program>> {
        let mut program = self.program.lock();
        self.is_there.store(new.is_some(), Ordering::Relaxed);
        if new.is_some() {
            IS_USED.store(true, Ordering::Relaxed);
        }
        core::mem::replace(&mut *program, new)
    }

    /// The program of another.
    pub fn copy(&self, from: &Filter) {
        drop(self.replace(from.program()));
    }

    /// How many bytes of a packet of `len` pass, of which the first `least` are not cut off; `None` if it is
    /// dropped.
    #[inline]
    pub fn pass<I: Input>(
        &self,
        len: usize,
        least: usize,
        packet: impl FnOnce() -> I,
    ) -> Option<usize> {
        if !self.is_there() {
            return Some(len);
        }
        self.ask(len, least, &packet())
    }

    #[cold]
    fn ask<I: Input>(&self, len: usize, least: usize, packet: &I) -> Option<usize> {
        let Some(program) = self.program() else { return Some(len) };
        match program.run(packet) as usize {
            0 => None,
            kept => Some(kept.max(least).min(len)),
        }
    }
}

/// A packet of a family without headers of a network: its bytes alone.
pub fn plain(bytes: &dyn bpf::Bytes, len: usize, protocol: u16) -> bpf::Packet<'_> {
    bpf::Packet {
        bytes,
        start: 0,
        end: len,
        network: 0,
        link: None,
        protocol,
        kind: 0,
        interface: None,
        mark: 0,
        cpu: cpu(),
        random,
    }
}

/// The processor a packet comes on (`SKF_AD_CPU`).
pub fn cpu() -> u32 {
    arch::cpu::id().as_u32()
}

/// A number for `SKF_AD_RANDOM`: programs sample with it.
pub fn random() -> u32 {
    (arch::time::cycles().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// `SO_ATTACH_FILTER`: the value is a `struct sock_fprog`.
pub(crate) fn attach(common: &Common, value: &mut OptionIn<'_>) -> Result<()> {
    if value.len() != 16 {
        return Err(Errno::EINVAL);
    }
    let [len, code]: [u64; 2] = value.read()?;
    if common.options.has(Flag::LOCK_FILTER) {
        return Err(Errno::EPERM);
    }
    let len = usize::from(len as u16);
    let program = read_program(len as u16, code)?;
    let most = common.namespace.core.optmem_max.load(Ordering::Relaxed);
    if len * size_of::<Instruction>() + HEAD > usize::try_from(most).unwrap_or(0) {
        return Err(Errno::ENOMEM);
    }
    drop(common.options.filter.replace(Some(Arc::new(program))));
    Ok(())
}

/// The program of a `struct sock_fprog`: how many instructions, and where they are in the program that calls.
///
/// # Errors
/// `EINVAL` for what is no program, `EFAULT`, `ENOMEM`.
pub fn read_program(len: u16, code: u64) -> Result<Program> {
    let len = usize::from(len);
    if len == 0 || len > MAX_LEN || code == 0 {
        return Err(Errno::EINVAL);
    }
    let mut instructions: Vec<Instruction> = Vec::new();
    instructions.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    for at in 0..len as u64 {
        instructions.push(user::read_val(VirtAddr::new(code.wrapping_add(at * 8)))?);
    }
    Program::new(instructions, Dialect::Packets)
}

/// `SO_DETACH_FILTER`.
pub(crate) fn detach(common: &Common) -> Result<()> {
    if common.options.has(Flag::LOCK_FILTER) {
        return Err(Errno::EPERM);
    }
    common.options.filter.replace(None).map(drop).ok_or(Errno::ENOENT)
}

/// `SO_GET_FILTER`: lengths are counted in instructions; no room asks how many there are.
pub(crate) fn get(common: &Common, value: &mut OptionOut<'_>) -> Result<()> {
    let Some(program) = common.options.filter.program() else {
        value.tell_len(0);
        return Ok(());
    };
    let code = program.code();
    if value.room() > 0 {
        if value.room() < code.len() {
            return Err(Errno::EINVAL);
        }
        value.records(zerocopy::IntoBytes::as_bytes(code))?;
    }
    value.tell_len(code.len());
    Ok(())
}
