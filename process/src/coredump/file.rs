//! The file: an ELF header, a program header for the notes and one for each area, the notes, the
//! memory. ELF-64 specification.

use super::{Registers, notes};
use crate::task::Task;
use abi::signal::{SigInfo, Signal};
use abi::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::addr::{PAGE_SIZE, VirtAddr};
use arch::uio::Source;
use core::sync::atomic::Ordering;
use vfs::file::File;
use vfs::rw::{At, write as write_file};
use vm::{AddressSpace, MapInfo, flag};

const HEADER: usize = 64;
const ENTRY: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// More areas than the header can count are not dumped.
const AREAS_MAX: usize = 0xfff0;
/// What is copied at once.
const CHUNK: usize = 16 * PAGE_SIZE;

/// Bits of `/proc/PID/coredump_filter`, core(5).
mod filter {
    pub(super) const ANON_PRIVATE: u32 = 1;
    pub(super) const ANON_SHARED: u32 = 2;
    pub(super) const FILE_PRIVATE: u32 = 4;
    pub(super) const FILE_SHARED: u32 = 8;
    pub(super) const ELF_HEADERS: u32 = 16;
}

/// How much of an area is dumped.
fn dumped(mm: &AddressSpace, area: &MapInfo, filter: u32) -> u64 {
    let len = area.end - area.start;
    let has = |bit: u32| filter & bit != 0;
    let whole = |yes: bool| if yes { len } else { 0 };
    if area.flags & flag::VDSO != 0 {
        return len;
    }
    if area.flags & (flag::DONT_DUMP | flag::VVAR) != 0 {
        return 0;
    }
    let is_file = area.file.ino != 0;
    if area.flags & flag::SHARED != 0 {
        let is_memory = !is_file || area.file.path.ends_with(" (deleted)");
        return whole(has(if is_memory { filter::ANON_SHARED } else { filter::FILE_SHARED }));
    }
    if !is_file || mm.page_info(area.start, area.end).anon > 0 {
        return whole(has(filter::ANON_PRIVATE));
    }
    if has(filter::FILE_PRIVATE) {
        return len;
    }
    let mut magic = [0; 4];
    let is_elf = area.offset == 0
        && has(filter::ELF_HEADERS)
        && area.prot & vm::prot::READ != 0
        && mm.read_remote(VirtAddr(area.start), &mut magic) == Ok(4)
        && magic == *b"\x7fELF";
    if is_elf { (PAGE_SIZE as u64).min(len) } else { 0 }
}

fn put_header(out: &mut Vec<u8>, count: u16) {
    const ET_CORE: u16 = 4;
    const EM_X86_64: u16 = 62;
    out.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&ET_CORE.to_le_bytes());
    out.extend_from_slice(&EM_X86_64.to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    for word in [0u64, HEADER as u64, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&0u32.to_le_bytes());
    for half in [HEADER as u16, ENTRY as u16, count, 0, 0, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
}

fn put_entry(out: &mut Vec<u8>, kind: u32, flags: u32, words: [u64; 6]) {
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// `PF_*` of `PROT_*`.
fn segment_flags(prot: u32) -> u32 {
    (prot & 1) << 2 | prot & 2 | (prot & 4) >> 2
}

/// The file as it grows.
struct Writer<'a> {
    task: &'a Task,
    file: &'a File,
    at: u64,
    limit: u64,
}

impl Writer<'_> {
    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        if self.at + bytes.len() as u64 > self.limit {
            return Err(Errno::EFBIG);
        }
        let context = self.task.vfs_context();
        while !bytes.is_empty() {
            let mut source = Source::kernel(bytes);
            let done = write_file(&context.get(), self.file, At::Offset(self.at), &mut source, 0)?;
            if done == 0 {
                return Err(Errno::EIO);
            }
            self.at += done as u64;
            bytes = bytes.get(done..).unwrap_or_default();
        }
        Ok(())
    }

    /// Zeros that need not be stored.
    fn skip(&mut self, len: u64) -> Result<()> {
        if self.at + len > self.limit {
            return Err(Errno::EFBIG);
        }
        self.at += len;
        Ok(())
    }
}

/// Writes the file; what goes past the limit is cut off.
pub(super) fn write(
    task: &Task,
    file: &Arc<File>,
    threads: &[Registers],
    signal: Signal,
    info: &SigInfo,
    limit: u64,
) -> Result<()> {
    let mm = task.mm().ok_or(Errno::ESRCH)?;
    let mut areas = mm.maps(0, AREAS_MAX);
    areas.truncate(AREAS_MAX);
    let filter = task.group.coredump_filter.load(Ordering::Relaxed);
    let sizes: Vec<u64> = areas.iter().map(|area| dumped(&mm, area, filter)).collect();
    let notes = notes::all(task, threads, &areas, signal, info);

    let mut head = Vec::new();
    put_header(&mut head, areas.len() as u16 + 1);
    let notes_at = (HEADER + ENTRY * (areas.len() + 1)) as u64;
    put_entry(&mut head, PT_NOTE, 0, [notes_at, 0, 0, notes.len() as u64, 0, 4]);
    let mut at = (notes_at + notes.len() as u64).next_multiple_of(PAGE_SIZE as u64);
    let memory_at = at;
    for (area, size) in areas.iter().zip(&sizes) {
        let flags = segment_flags(area.prot);
        let len = area.end - area.start;
        put_entry(&mut head, PT_LOAD, flags, [at, area.start, 0, *size, len, PAGE_SIZE as u64]);
        at += size;
    }
    head.extend_from_slice(&notes);
    head.resize(memory_at as usize, 0);

    let mut writer = Writer { task, file, at: 0, limit };
    let result = writer.put(&head).and_then(|()| put_memory(&mut writer, &mm, &areas, &sizes));
    match result {
        // A cut dump is a dump, if it has a head.
        Err(Errno::EFBIG) if writer.at > 0 => {}
        other => other?,
    }
    let end = writer.at;
    let context = task.vfs_context();
    vfs::ops::truncate_file(&context.get(), file, end)
}

/// What one page table maps, in bytes.
const TABLE: u64 = 2 << 20;

/// How much to copy at once at `at`, of `rest` bytes: pieces end at multiples of their size, so that
/// one begins where a page table does, wherever the area starts.
fn piece_len(at: u64, rest: u64) -> u64 {
    rest.min(CHUNK as u64 - at % CHUNK as u64)
}

fn put_memory(
    writer: &mut Writer<'_>,
    mm: &AddressSpace,
    areas: &[MapInfo],
    sizes: &[u64],
) -> Result<()> {
    let mut buffer = alloc::vec![0u8; CHUNK];
    for (area, size) in areas.iter().zip(sizes) {
        let mut done = 0;
        while done < *size {
            let at = area.start + done;
            let len = piece_len(at, *size - done);
            let part = buffer.get_mut(..len as usize).ok_or(Errno::EINVAL)?;
            part.fill(0);
            if crate::signal::fatal_pending(writer.task) {
                return Err(Errno::EINTR);
            }
            // What was only reserved may be vast: it is passed over by the table.
            let is_reserve = area.file.ino == 0 && *size - done >= TABLE;
            if is_reserve && at.is_multiple_of(TABLE) && mm.page_info(at, at + TABLE).rss == 0 {
                writer.skip(TABLE)?;
                done += TABLE;
                continue;
            }
            // Pages that were never touched, or cannot be read, are holes.
            let mut is_empty = true;
            for (n, page) in part.chunks_mut(PAGE_SIZE).enumerate() {
                let page_at = at + (n * PAGE_SIZE) as u64;
                let is_mapped = area.file.ino != 0 || mm.page_at(page_at).is_some();
                if is_mapped && mm.read_remote(VirtAddr(page_at), page).is_ok() {
                    is_empty = false;
                }
            }
            if is_empty {
                writer.skip(len)?
            } else {
                writer.put(part)?
            }
            done += len;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_meet_page_tables() {
        let mut at = TABLE - CHUNK as u64 - 0x3000;
        assert_eq!(piece_len(at, 0x1000), 0x1000);
        while at < TABLE {
            at += piece_len(at, u64::MAX);
        }
        assert_eq!(at, TABLE);
    }

    #[test]
    fn header_is_an_elf_core() {
        let mut out = Vec::new();
        put_header(&mut out, 3);
        assert_eq!(out.len(), HEADER);
        assert_eq!(out.get(16..20), Some(&[4, 0, 62, 0][..]));
        assert_eq!(out.get(32..33), Some(&[64][..]));
        assert_eq!(out.get(54..58), Some(&[56, 0, 3, 0][..]));
        put_entry(&mut out, PT_LOAD, segment_flags(5), [0; 6]);
        assert_eq!(out.len(), HEADER + ENTRY);
        assert_eq!(segment_flags(3), 6);
        assert_eq!(segment_flags(4), 1);
    }
}
