//! As much of ELF64 as the build needs: loadable segments, sections by name, symbols.

use crate::Result;

/// A loadable segment.
pub(crate) struct Segment {
    pub(crate) offset: usize,
    pub(crate) address: u64,
    pub(crate) file_len: usize,
    pub(crate) memory_len: u64,
}

/// A section's place in the file and in memory.
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) address: u64,
    pub(crate) offset: usize,
    pub(crate) len: usize,
    kind: u32,
    link: usize,
}

/// A symbol with an address.
pub(crate) struct Symbol {
    pub(crate) name: String,
    pub(crate) address: u64,
    pub(crate) is_function: bool,
    pub(crate) is_global: bool,
}

/// An ELF file in memory.
pub(crate) struct Elf<'a> {
    bytes: &'a [u8],
    pub(crate) segments: Vec<Segment>,
    pub(crate) sections: Vec<Section>,
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let slice = at.checked_add(N).and_then(|end| bytes.get(at..end));
    Ok(slice.ok_or("ELF file is cut short")?.try_into()?)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<usize> {
    Ok(u16::from_le_bytes(get(bytes, at)?).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(get(bytes, at)?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(get(bytes, at)?))
}

fn string_at(bytes: &[u8], at: usize) -> String {
    let rest = bytes.get(at..).unwrap_or_default();
    let len = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    String::from_utf8_lossy(rest.get(..len).unwrap_or_default()).into_owned()
}

impl<'a> Elf<'a> {
    /// Reads the headers.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Elf<'a>> {
        const PT_LOAD: u32 = 1;
        if !bytes.starts_with(b"\x7fELF\x02\x01") {
            return Err("not a little-endian ELF64 file".into());
        }
        let mut segments = Vec::new();
        let (table, size, count) =
            (u64_at(bytes, 32)? as usize, u16_at(bytes, 54)?, u16_at(bytes, 56)?);
        for at in (0..count).map(|index| table + index * size) {
            if u32_at(bytes, at)? == PT_LOAD {
                segments.push(Segment {
                    offset: u64_at(bytes, at + 8)? as usize,
                    address: u64_at(bytes, at + 16)?,
                    file_len: u64_at(bytes, at + 32)? as usize,
                    memory_len: u64_at(bytes, at + 40)?,
                });
            }
        }
        let (table, size, count) =
            (u64_at(bytes, 40)? as usize, u16_at(bytes, 58)?, u16_at(bytes, 60)?);
        let names = table + u16_at(bytes, 62)? * size;
        let names = u64_at(bytes, names + 24)? as usize;
        let mut sections = Vec::new();
        for at in (0..count).map(|index| table + index * size) {
            sections.push(Section {
                name: string_at(bytes, names + u32_at(bytes, at)? as usize),
                kind: u32_at(bytes, at + 4)?,
                address: u64_at(bytes, at + 16)?,
                offset: u64_at(bytes, at + 24)? as usize,
                len: u64_at(bytes, at + 32)? as usize,
                link: u32_at(bytes, at + 40)? as usize,
            });
        }
        Ok(Elf { bytes, segments, sections })
    }

    /// The section of this name.
    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// All symbols that have an address.
    pub(crate) fn symbols(&self) -> Result<Vec<Symbol>> {
        const SHT_SYMTAB: u32 = 2;
        let Some(table) = self.sections.iter().find(|section| section.kind == SHT_SYMTAB) else {
            return Ok(Vec::new());
        };
        let names = self.sections.get(table.link).ok_or("symbol table without names")?.offset;
        let mut symbols = Vec::new();
        for at in (0..table.len / 24).map(|index| table.offset + index * 24) {
            let [info] = get(self.bytes, at + 4)?;
            let (kind, section) = (info & 15, u16_at(self.bytes, at + 6)?);
            if section == 0 || kind > 2 {
                continue;
            }
            symbols.push(Symbol {
                name: string_at(self.bytes, names + u32_at(self.bytes, at)? as usize),
                address: u64_at(self.bytes, at + 8)?,
                is_function: kind == 2,
                is_global: info >> 4 != 0,
            });
        }
        Ok(symbols)
    }

    /// The segments as they lie in memory, from the lowest address to the last byte of the file.
    pub(crate) fn flatten(&self) -> Result<Vec<u8>> {
        let base = self.segments.iter().map(|s| s.address).min().ok_or("nothing to load")?;
        let mut flat = Vec::new();
        for segment in &self.segments {
            let start = (segment.address - base) as usize;
            let end = start + segment.file_len;
            if flat.len() < end {
                flat.resize(end, 0);
            }
            let data = self.bytes.get(segment.offset..segment.offset + segment.file_len);
            flat[start..end].copy_from_slice(data.ok_or("segment outside the file")?);
        }
        Ok(flat)
    }

    /// Bytes from the lowest to one past the highest address in memory.
    pub(crate) fn memory_len(&self) -> u64 {
        let base = self.segments.iter().map(|s| s.address).min().unwrap_or(0);
        self.segments.iter().map(|s| s.address + s.memory_len - base).max().unwrap_or(0)
    }
}
