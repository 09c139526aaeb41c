//! Mapping a program into a new address space.

use super::elf::{self, Header, Kind, PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD, Segment};
use super::{Failure, Opener, READ_IMPLIES_EXEC, read_at, stack};
use crate::task::Task;
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::{PAGE_SIZE, USER_END};
use core::sync::atomic::{AtomicU32, Ordering};
use vfs::DenyWrite;
use vfs::file::{File, MapArgs};
use vm::AddressSpace;

const PAGE: u64 = PAGE_SIZE as u64;
/// Where position-independent programs are loaded: two thirds up the user half.
const DYN_BASE: u64 = (USER_END / 3 * 2) & !(PAGE - 1);
/// Bits of randomness for mappings.
const MMAP_RANDOM_BITS: u32 = 28;
/// Pages that the top of the stack varies by.
const STACK_RANDOM_PAGES: u64 = 0x3f_ffff;
/// How far the heap's start varies.
const BRK_RANDOM: u64 = 0x200_0000;
/// The longest interpreter path.
const PATH_MAX: u64 = 4096;

const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;
const PROT_EXEC: u32 = 4;
const MAP_PRIVATE: u32 = 2;
const MAP_FIXED: u32 = 0x10;
const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;
const MAP_ANONYMOUS: u32 = 0x20;
const MAP_GROWSDOWN: u32 = 0x100;
const MAP_DENYWRITE: u32 = 0x800;
const MAP_STACK: u32 = 0x2_0000;

/// `kernel.randomize_va_space`: 0 nothing, 1 maps and stack, 2 the heap too.
pub static RANDOMIZE_VA_SPACE: AtomicU32 = AtomicU32::new(2);

pub(super) fn randomize_va_space() -> u32 {
    RANDOMIZE_VA_SPACE.load(Ordering::Relaxed)
}

/// Reads the program headers.
pub(super) fn read_segments(file: &Arc<File>, header: &Header) -> Result<Vec<Segment>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(header.phdr_bytes()).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(header.phdr_bytes(), 0);
    // Headers that are not in the file make it no program.
    if header.phoff > i64::MAX as u64 || read_at(file, header.phoff, &mut bytes)? < bytes.len() {
        return Err(Errno::ENOEXEC);
    }
    Ok(elf::parse_segments(&bytes))
}

/// The program interpreter, opened and with its headers read.
pub(super) struct Interpreter {
    file: Arc<File>,
    header: Header,
    segments: Vec<Segment>,
}

/// Opens what `PT_INTERP` names.
pub(super) fn open_interpreter(
    opener: &dyn Opener,
    file: &Arc<File>,
    segments: &[Segment],
) -> Result<Option<Interpreter>> {
    let Some(wanted) = segments.iter().find(|s| s.kind == PT_INTERP) else { return Ok(None) };
    if wanted.filesz > PATH_MAX || wanted.filesz < 2 {
        return Err(Errno::ENOEXEC);
    }
    let mut path = alloc::vec![0u8; wanted.filesz as usize];
    if wanted.offset > i64::MAX as u64 || read_at(file, wanted.offset, &mut path)? < path.len() {
        return Err(Errno::EIO);
    }
    if path.pop() != Some(0) {
        return Err(Errno::ENOEXEC);
    }
    let end = path.iter().position(|&b| b == 0).unwrap_or(path.len());
    if end == 0 {
        // No name is the working directory, which cannot be run.
        return Err(Errno::EACCES);
    }
    let interpreter = opener.open(path.get(..end).unwrap_or_default())?;
    let _nobody_writes = DenyWrite::new(&interpreter)?;
    let mut head = [0u8; elf::HEADER_SIZE];
    if read_at(&interpreter, 0, &mut head)? < head.len() {
        return Err(Errno::EIO);
    }
    let header = Header::parse(&head).map_err(|_| Errno::ELIBBAD)?;
    let segments = read_segments(&interpreter, &header).map_err(|_| Errno::ELIBBAD)?;
    Ok(Some(Interpreter { file: interpreter, header, segments }))
}

/// Where the program lies.
pub(super) struct Main {
    pub(super) entry: u64,
    pub(super) phdr: u64,
    pub(super) start_code: u64,
    pub(super) end_code: u64,
    pub(super) start_data: u64,
    pub(super) end_data: u64,
    pub(super) brk: u64,
}

/// Where the interpreter lies.
pub(super) struct Interp {
    pub(super) base: u64,
    pub(super) entry: u64,
}

/// An address space under construction.
pub(super) struct Builder {
    mm: Arc<AddressSpace>,
    randomize: bool,
    read_implies_exec: bool,
    stack_top: u64,
    loader_alone: bool,
}

fn random_offset(bits: u32) -> u64 {
    (crate::random_u64() & ((1 << bits) - 1)) * PAGE
}

fn page_up(address: u64) -> u64 {
    address.wrapping_add(PAGE - 1) & !(PAGE - 1)
}

fn fatal(errno: Errno) -> Failure {
    Failure::Fatal(errno)
}

impl Builder {
    pub(super) fn new(randomize: bool, stack_limit: u64, personality: u32) -> Result<Builder> {
        let top = USER_END;
        let stack_top =
            if randomize { top - (crate::random_u64() & STACK_RANDOM_PAGES) * PAGE } else { top };
        // Below the stack: its limit (128 MiB at least, five sixths of everything at most), a guard
        // gap and what the stack's own top may vary by.
        let varies = if randomize { (STACK_RANDOM_PAGES + 1) * PAGE } else { 0 };
        let gap = stack_limit.saturating_add((256 << 12) + varies);
        let gap = gap.clamp(128 << 20, top / 6 * 5);
        let random = if randomize { random_offset(MMAP_RANDOM_BITS) } else { 0 };
        let mmap_base = page_up(top - gap - random);
        let mm = AddressSpace::new(mmap_base)?;
        Ok(Builder {
            mm,
            randomize,
            read_implies_exec: personality & READ_IMPLIES_EXEC != 0,
            stack_top,
            loader_alone: false,
        })
    }

    fn protection(&self, flags: u32) -> u32 {
        let mut prot = 0;
        if flags & PF_R != 0 {
            prot |= PROT_READ;
        }
        if flags & PF_W != 0 {
            prot |= PROT_WRITE;
        }
        if flags & PF_X != 0 {
            prot |= PROT_EXEC;
        }
        if self.read_implies_exec && prot & PROT_READ != 0 {
            prot |= PROT_EXEC;
        }
        prot
    }

    fn map_anonymous(&self, at: u64, len: u64, prot: u32, extra: u32) -> Result<u64> {
        self.mm.mmap(&vm::MapRequest {
            addr: at,
            len,
            prot,
            flags: MAP_PRIVATE | MAP_ANONYMOUS | extra,
            source: None,
            offset: 0,
        })
    }

    fn map_file(
        &self,
        file: &Arc<File>,
        (at, len): (u64, u64),
        prot: u32,
        offset: u64,
        placing: u32,
    ) -> Result<u64> {
        let flags = MAP_PRIVATE | placing | MAP_DENYWRITE;
        let source = file.ops().mmap(file, &MapArgs { offset, len, prot, flags })?;
        self.mm.mmap(&vm::MapRequest { addr: at, len, prot, flags, source: Some(source), offset })
    }

    /// Maps all loadable segments `bias` above their addresses; returns the end of the last.
    /// Segments of an image with addresses of its own may not lie on each other.
    fn map_segments(
        &self,
        file: &Arc<File>,
        segments: &[Segment],
        bias: u64,
        kind: Kind,
    ) -> Result<u64> {
        let placing = if kind == Kind::Fixed { MAP_FIXED_NOREPLACE } else { MAP_FIXED };
        let mut end = 0;
        for segment in segments.iter().filter(|s| s.kind == PT_LOAD) {
            let moved = Segment { vaddr: segment.vaddr.wrapping_add(bias), ..*segment };
            let plan = elf::plan(&moved, PAGE, USER_END).map_err(Errno::from)?;
            let prot = self.protection(segment.flags);
            if plan.file_len != 0 {
                let place = (plan.start, plan.file_len);
                self.map_file(file, place, prot, plan.file_offset, placing)?;
            }
            let anonymous = plan.start + plan.file_len;
            // The file's page goes on past the segment: what lies there must read as zero.
            if plan.file_len != 0
                && plan.zero_to > plan.zero_from
                && plan.zero_from < anonymous
                && segment.flags & PF_W != 0
            {
                let until = anonymous.min(page_up(plan.zero_from));
                match self.zero(plan.zero_from, until - plan.zero_from) {
                    // A file cut short has no such page; the program finds out when it looks.
                    Err(Errno::EFAULT) | Ok(()) => {}
                    Err(error) => return Err(error),
                }
            }
            if plan.zero_to > anonymous {
                let len = page_up(plan.zero_to) - anonymous;
                // Of the segment's rights only that to execute counts for what is not in the file.
                let prot = PROT_READ | PROT_WRITE | prot & PROT_EXEC;
                self.map_anonymous(anonymous, len, prot, MAP_FIXED)?;
            }
            end = end.max(plan.zero_to);
        }
        if end == 0 { Err(Errno::EINVAL) } else { Ok(end) }
    }

    fn zero(&self, at: u64, len: u64) -> Result<()> {
        static ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
        let part = ZEROES.get(..len as usize).ok_or(Errno::EINVAL)?;
        self.mm.write_remote(arch::VirtAddr(at), part).map(drop)
    }

    /// Finds room for `len` bytes where `mmap` would put them.
    fn find_room(&self, len: u64, align: u64) -> Result<u64> {
        let extra = if align > PAGE { align } else { 0 };
        let at = self.map_anonymous(0, page_up(len + extra), 0, 0)?;
        self.mm.munmap(at, page_up(len + extra))?;
        Ok(if align > PAGE { at.wrapping_add(align - 1) & !(align - 1) } else { at })
    }

    /// Maps the program.
    pub(super) fn load_main(
        &mut self,
        file: &Arc<File>,
        header: &Header,
        segments: &[Segment],
        has_interpreter: bool,
    ) -> core::result::Result<Main, Failure> {
        let bias = match header.kind {
            Kind::Fixed => 0,
            Kind::Relocatable => {
                let (first, span) = elf::load_span(segments, PAGE).ok_or(fatal(Errno::EINVAL))?;
                if span > USER_END {
                    return Err(fatal(Errno::EINVAL));
                }
                let align = elf::max_alignment(segments).max(PAGE);
                let base = if has_interpreter {
                    let random = if self.randomize { random_offset(MMAP_RANDOM_BITS) } else { 0 };
                    (DYN_BASE + random) & !(align - 1)
                } else {
                    self.loader_alone = true;
                    self.find_room(span, align).map_err(fatal)?
                };
                base.wrapping_sub(first)
            }
        };
        let end = self.map_segments(file, segments, bias, header.kind).map_err(fatal)?;
        let entry = header.entry.wrapping_add(bias);
        if entry >= USER_END {
            return Err(fatal(Errno::EINVAL));
        }
        let loads = || segments.iter().filter(|s| s.kind == PT_LOAD);
        let moved = |address: u64| address.wrapping_add(bias);
        let code = || loads().filter(|s| s.flags & PF_X != 0);
        Ok(Main {
            entry,
            phdr: moved(elf::phdr_address(header, segments)),
            start_code: moved(loads().map(|s| s.vaddr).min().unwrap_or(0)),
            end_code: moved(code().map(|s| s.vaddr.wrapping_add(s.filesz)).max().unwrap_or(0)),
            start_data: moved(loads().map(|s| s.vaddr).max().unwrap_or(0)),
            end_data: moved(loads().map(|s| s.vaddr.wrapping_add(s.filesz)).max().unwrap_or(0)),
            brk: page_up(end),
        })
    }

    /// Maps the interpreter where `mmap` finds room (or at its own addresses if it is fixed).
    pub(super) fn load_interpreter(
        &mut self,
        interpreter: &Interpreter,
    ) -> core::result::Result<Interp, Failure> {
        let segments = &interpreter.segments;
        let kind = interpreter.header.kind;
        let bias = match kind {
            Kind::Fixed => 0,
            Kind::Relocatable => {
                let (first, span) = elf::load_span(segments, PAGE).ok_or(fatal(Errno::EINVAL))?;
                if span > USER_END {
                    return Err(fatal(Errno::ENOMEM));
                }
                let align = elf::max_alignment(segments).max(PAGE);
                self.find_room(span, align).map_err(fatal)?.wrapping_sub(first)
            }
        };
        self.map_segments(&interpreter.file, segments, bias, kind).map_err(fatal)?;
        let entry = interpreter.header.entry.wrapping_add(bias);
        if entry >= USER_END {
            return Err(fatal(Errno::EINVAL));
        }
        Ok(Interp { base: bias, entry })
    }

    /// Maps the vDSO; 0 if there is none. Its place is random, and close enough above the stack
    /// that mostly the stack's page table covers it as well.
    pub(super) fn map_vdso(&self) -> u64 {
        let hint = if self.randomize { self.stack_top + random_offset(8) } else { self.stack_top };
        self.mm.map_vdso(hint).unwrap_or(0)
    }

    /// One past the highest address of the stack.
    pub(super) fn stack_top(&self) -> u64 {
        self.stack_top
    }

    /// Maps the stack and writes its initial contents. There is room for them and 128 KiB more,
    /// within the limit; faults extend it.
    pub(super) fn write_stack(
        &self,
        image: &stack::Image,
        executable: bool,
        limit: u64,
    ) -> core::result::Result<(), Failure> {
        let prot = PROT_READ | PROT_WRITE | if executable { PROT_EXEC } else { 0 };
        let used = page_up(image.bytes.len() as u64);
        let len = (used + (128 << 10)).min(page_up(limit.clamp(PAGE, 1 << 40))).max(used);
        let start = self.stack_top - len;
        let flags = MAP_FIXED | MAP_GROWSDOWN | MAP_STACK;
        self.map_anonymous(start, len, prot, flags).map_err(fatal)?;
        let at = arch::VirtAddr(image.sp);
        let written = self.mm.write_remote(at, &image.bytes).map_err(fatal)?;
        if written < image.bytes.len() { Err(fatal(Errno::EFAULT)) } else { Ok(()) }
    }

    /// Sets the heap and hands the address space over.
    pub(super) fn finish(self, end: u64, randomize: bool) -> Result<Arc<AddressSpace>> {
        let mut brk = if self.loader_alone { DYN_BASE } else { end };
        if randomize && randomize_va_space() > 1 {
            brk = page_up(brk + crate::random_u64() % BRK_RANDOM);
        }
        self.mm.set_brk_start(brk);
        Ok(self.mm)
    }
}

impl Opener for &Task {
    fn open(&self, path: &[u8]) -> Result<Arc<File>> {
        Opener::open(*self, path)
    }
}
