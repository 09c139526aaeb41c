//! ELF64 headers (System V gABI, x86_64 supplement), parsed from untrusted bytes.
//!
//! Nothing here touches memory or files: the loader reads bytes and asks this module what they
//! mean. Every number is checked before it is used; a file that `execve(2)` refuses with
//! `ENOEXEC` on Linux yields [`ElfError::NotExecutable`], the others `EINVAL` or `EIO`.

use abi::Errno;
use alloc::vec::Vec;

/// `PT_LOAD`.
pub const PT_LOAD: u32 = 1;
/// `PT_INTERP`.
pub const PT_INTERP: u32 = 3;
/// `PT_GNU_STACK`.
pub const PT_GNU_STACK: u32 = 0x6474_e551;
/// `PF_X`.
pub const PF_X: u32 = 1;
/// `PF_W`.
pub const PF_W: u32 = 2;
/// `PF_R`.
pub const PF_R: u32 = 4;
/// The size of an ELF64 program header.
pub const PHENT_SIZE: usize = 56;
/// The size of the ELF64 file header.
pub const HEADER_SIZE: usize = 64;
/// Linux accepts at most a page of program headers.
const MAX_PHDR_BYTES: usize = 4096;

/// Why a file is no program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// Not an x86_64 ELF executable: another format may claim it, else `ENOEXEC`.
    NotExecutable,
    /// It is one, with impossible contents.
    Invalid,
    /// It ends before what its headers promise.
    Truncated,
}

impl From<ElfError> for Errno {
    fn from(error: ElfError) -> Errno {
        match error {
            ElfError::NotExecutable => Errno::ENOEXEC,
            ElfError::Invalid => Errno::EINVAL,
            ElfError::Truncated => Errno::EIO,
        }
    }
}

/// Where the image may be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ET_EXEC`: at the addresses of its program headers.
    Fixed,
    /// `ET_DYN`: anywhere.
    Relocatable,
}

/// The file header's useful part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Fixed or relocatable.
    pub kind: Kind,
    /// Entry point, before relocation.
    pub entry: u64,
    /// File offset of the program headers.
    pub phoff: u64,
    /// How many program headers.
    pub phnum: u16,
}

/// One program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// `PT_*`.
    pub kind: u32,
    /// `PF_*`.
    pub flags: u32,
    /// File offset.
    pub offset: u64,
    /// Address before relocation.
    pub vaddr: u64,
    /// Bytes in the file.
    pub filesz: u64,
    /// Bytes in memory.
    pub memsz: u64,
    /// Alignment.
    pub align: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

impl Header {
    /// Reads the header at the start of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Header, ElfError> {
        let bad = ElfError::NotExecutable;
        if bytes.len() < HEADER_SIZE || bytes.get(..4) != Some(b"\x7fELF") {
            return Err(bad);
        }
        let kind = match u16_at(bytes, 16).ok_or(bad)? {
            2 => Kind::Fixed,
            3 => Kind::Relocatable,
            _ => return Err(bad),
        };
        // EM_X86_64; the class byte is implied by the machine, and Linux does not look at it.
        if u16_at(bytes, 18).ok_or(bad)? != 62 {
            return Err(bad);
        }
        let phentsize = u16_at(bytes, 54).ok_or(bad)?;
        let phnum = u16_at(bytes, 56).ok_or(bad)?;
        if usize::from(phentsize) != PHENT_SIZE
            || phnum == 0
            || usize::from(phnum) * PHENT_SIZE > MAX_PHDR_BYTES
        {
            return Err(bad);
        }
        Ok(Header {
            kind,
            entry: u64_at(bytes, 24).ok_or(bad)?,
            phoff: u64_at(bytes, 32).ok_or(bad)?,
            phnum,
        })
    }

    /// How many bytes the program headers take.
    pub fn phdr_bytes(&self) -> usize {
        usize::from(self.phnum) * PHENT_SIZE
    }
}

/// Decodes the program headers in `bytes`.
pub fn parse_segments(bytes: &[u8]) -> Vec<Segment> {
    bytes.chunks_exact(PHENT_SIZE).filter_map(parse_segment).collect()
}

fn parse_segment(b: &[u8]) -> Option<Segment> {
    Some(Segment {
        kind: u32_at(b, 0)?,
        flags: u32_at(b, 4)?,
        offset: u64_at(b, 8)?,
        vaddr: u64_at(b, 16)?,
        filesz: u64_at(b, 32)?,
        memsz: u64_at(b, 40)?,
        align: u64_at(b, 48)?,
    })
}

/// The address span of the loadable segments, page-rounded below: `(first page, length)`.
pub fn load_span(segments: &[Segment], page: u64) -> Option<(u64, u64)> {
    let mut loads = segments.iter().filter(|s| s.kind == PT_LOAD).peekable();
    let first = loads.peek()?.vaddr & !(page - 1);
    let last = loads.last()?;
    let end = last.vaddr.checked_add(last.memsz)?;
    Some((first, end.checked_sub(first)?))
}

/// The largest power-of-two alignment that a loadable segment asks for; what no address has is
/// ignored.
pub fn max_alignment(segments: &[Segment]) -> u64 {
    segments
        .iter()
        .filter(|s| s.kind == PT_LOAD && s.align.is_power_of_two() && s.align < 1 << 46)
        .map(|s| s.align)
        .max()
        .unwrap_or(0)
}

/// Where the program headers lie in memory (before relocation), for `AT_PHDR`: in the last segment
/// that has them; 0 if none has.
pub fn phdr_address(header: &Header, segments: &[Segment]) -> u64 {
    segments
        .iter()
        .rfind(|s| {
            s.kind == PT_LOAD
                && s.offset <= header.phoff
                && header.phoff < s.offset.saturating_add(s.filesz)
        })
        .map_or(0, |s| header.phoff.wrapping_sub(s.offset).wrapping_add(s.vaddr))
}

/// How one `PT_LOAD` maps: page-aligned pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadPlan {
    /// First page, before relocation.
    pub start: u64,
    /// Bytes mapped from the file (page-rounded up); 0 if the segment has no file part.
    pub file_len: u64,
    /// Page-aligned file offset.
    pub file_offset: u64,
    /// From here to the end of its page the file's bytes are replaced by zeroes.
    pub zero_from: u64,
    /// End of the zeroed part: anonymous pages cover what lies past `start + file_len`.
    pub zero_to: u64,
}

/// Plans one segment. `limit` is the end of user memory.
pub fn plan(segment: &Segment, page: u64, limit: u64) -> Result<LoadPlan, ElfError> {
    let inside = segment.vaddr & (page - 1);
    // Offset and address must agree within a page, else the file cannot be mapped there.
    if segment.filesz != 0 && (segment.offset & (page - 1)) != inside {
        return Err(ElfError::Invalid);
    }
    if segment.filesz > segment.memsz {
        return Err(ElfError::Invalid);
    }
    let end = segment.vaddr.checked_add(segment.memsz).ok_or(ElfError::Invalid)?;
    if segment.memsz > limit || end > limit {
        return Err(ElfError::Invalid);
    }
    let start = segment.vaddr - inside;
    let file_end = segment.vaddr + segment.filesz;
    let round = |x: u64| x.checked_add(page - 1).map(|x| x & !(page - 1)).ok_or(ElfError::Invalid);
    let file_len = if segment.filesz == 0 { 0 } else { round(file_end)? - start };
    Ok(LoadPlan {
        start,
        file_len,
        file_offset: segment.offset.wrapping_sub(inside),
        zero_from: if segment.filesz == 0 { start } else { file_end },
        zero_to: end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image() -> Vec<u8> {
        std::fs::read("/bin/true").expect("a program to parse")
    }

    #[test]
    fn parses_a_real_program() {
        let bytes = image();
        let header = Header::parse(&bytes).expect("header");
        assert_eq!(header.kind, Kind::Relocatable);
        let at = header.phoff as usize;
        let segments = parse_segments(&bytes[at..at + header.phdr_bytes()]);
        assert_eq!(segments.len(), usize::from(header.phnum));
        assert!(segments.iter().any(|s| s.kind == PT_INTERP));
        let (first, len) = load_span(&segments, 4096).expect("span");
        assert_eq!(first, 0);
        assert!(len > 4096);
        assert_eq!(phdr_address(&header, &segments), header.phoff);
        for s in segments.iter().filter(|s| s.kind == PT_LOAD) {
            let p = plan(s, 4096, 1 << 47).expect("plan");
            assert!(p.start <= s.vaddr && p.zero_to == s.vaddr + s.memsz);
        }
    }

    #[test]
    fn headers_are_where_the_last_segment_has_them() {
        let header = Header { kind: Kind::Fixed, entry: 0, phoff: 64, phnum: 2 };
        let load = |offset, vaddr| Segment {
            kind: PT_LOAD,
            flags: PF_R,
            offset,
            vaddr,
            filesz: 0x1000,
            memsz: 0x1000,
            align: 4096,
        };
        assert_eq!(phdr_address(&header, &[load(0, 0x1000), load(0, 0x8000)]), 0x8040);
        assert_eq!(phdr_address(&header, &[load(0, 0x1000), load(0x1000, 0x8000)]), 0x1040);
        assert_eq!(phdr_address(&header, &[load(0x1000, 0x8000)]), 0);
    }

    #[test]
    fn more_than_a_page_of_headers_is_refused() {
        let mut bytes = image();
        for (count, is_fine) in [(73u16, true), (74, false)] {
            bytes[56..58].copy_from_slice(&count.to_le_bytes());
            assert_eq!(Header::parse(&bytes).is_ok(), is_fine);
        }
    }

    proptest! {
        #[test]
        fn mutated_files_never_panic(at in 0usize..2048, value: u8, cut in 0usize..4096) {
            let mut bytes = image();
            if at < bytes.len() { bytes[at] = value; }
            bytes.truncate(cut.max(16));
            if let Ok(header) = Header::parse(&bytes) {
                let end = (header.phoff as usize).saturating_add(header.phdr_bytes());
                let segments = bytes.get(header.phoff as usize..end).map(parse_segments).unwrap_or_default();
                let _ = load_span(&segments, 4096);
                let _ = max_alignment(&segments);
                let _ = phdr_address(&header, &segments);
                for s in &segments { let _ = plan(s, 4096, 1 << 47); }
            }
        }

        #[test]
        fn plans_stay_inside(offset: u64, vaddr: u64, filesz: u64, memsz: u64) {
            let s = Segment { kind: PT_LOAD, flags: 7, offset, vaddr, filesz, memsz, align: 4096 };
            if let Ok(p) = plan(&s, 4096, 0x7fff_ffff_f000) {
                prop_assert!(p.zero_to <= 0x7fff_ffff_f000);
                prop_assert!(p.start + p.file_len <= 0x8000_0000_0000);
                prop_assert!(p.start <= p.zero_from && p.zero_from <= p.zero_to);
            }
        }
    }
}
