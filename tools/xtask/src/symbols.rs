//! The kernel's own symbol table, written into the section `.ksyms` that `arch::symbols` reads.
//!
//! Layout, little endian:
//!
//! | what           | type                                                              |
//! |----------------|-------------------------------------------------------------------|
//! | magic          | `u32`, "KSYM"                                                     |
//! | count          | `u32`                                                             |
//! | names_len      | `u32`                                                             |
//! | reserved       | `u32`                                                             |
//! | offsets        | `u32` each: address minus the image's first; ascending             |
//! | group offsets  | `u32` for every 16th symbol: where its name starts in the names    |
//! | types          | `u8` each: the letter of nm                                        |
//! | names          | each: `u8` bytes shared with the previous name (0 at a group's start), `u8` further bytes, these bytes |

use crate::Result;
use crate::elf::Elf;

const MAGIC: u32 = u32::from_le_bytes(*b"KSYM");
/// Names per group.
const GROUP: usize = 16;
const NAME_MAX: usize = 200;

/// Puts the symbols of the image into its `.ksyms` section.
pub(crate) fn embed(image: &mut [u8]) -> Result {
    let (table, place) = {
        let elf = Elf::parse(image)?;
        let rodata = elf.section(".rodata").ok_or("image has no .rodata")?;
        let symbols = elf.symbols()?;
        let find = |name: &str| symbols.iter().find(|s| s.name == name).map(|s| s.address);
        let (Some(start), Some(end)) = (find("__ksyms_start"), find("__ksyms_end")) else {
            return Err("image has no __ksyms_start".into());
        };
        if end == start {
            return Ok(());
        }
        let offset = rodata.offset + (start - rodata.address) as usize;
        let room = (end - start) as usize;
        (table(&elf, room)?, offset..offset + room)
    };
    let section = image.get_mut(place).ok_or(".ksyms lies outside the file")?;
    section[..table.len()].copy_from_slice(&table);
    Ok(())
}

/// A symbol as it will be shown.
struct Shown {
    offset: u32,
    kind: u8,
    name: String,
}

/// The table, with only functions if it would not fit in `room` otherwise.
fn table(elf: &Elf<'_>, room: usize) -> Result<Vec<u8>> {
    let mut symbols = shown(elf)?;
    let mut bytes = encode(&symbols);
    if bytes.len() > room {
        symbols.retain(|symbol| symbol.kind.eq_ignore_ascii_case(&b't'));
        bytes = encode(&symbols);
    }
    while bytes.len() > room {
        let keep = symbols.len() * room / bytes.len() * 95 / 100;
        eprintln!("xtask: symbol table too large, keeping {keep} of {}", symbols.len());
        symbols.truncate(keep);
        bytes = encode(&symbols);
    }
    Ok(bytes)
}

fn shown(elf: &Elf<'_>) -> Result<Vec<Shown>> {
    let base = elf.segments.iter().map(|s| s.address).min().unwrap_or(0);
    let letter = |address: u64, is_global: bool| {
        let section = elf
            .sections
            .iter()
            .find(|s| s.address <= address && address < s.address + s.len.max(1) as u64);
        let letter = match section.map(|s| s.name.as_str()) {
            Some(".text" | ".head") => b't',
            Some(".bss") => b'b',
            Some(".data" | ".tail") => b'd',
            _ => b'r',
        };
        if is_global { letter.to_ascii_uppercase() } else { letter }
    };
    let mut all: Vec<Shown> = elf
        .symbols()?
        .into_iter()
        .filter(|s| s.address >= base && !s.name.is_empty() && !s.name.starts_with(".L"))
        .filter(|s| s.is_function || !s.name.starts_with("anon."))
        .map(|symbol| Shown {
            offset: (symbol.address - base) as u32,
            kind: letter(symbol.address, symbol.is_global),
            name: readable(&symbol.name),
        })
        .collect();
    all.sort_by(|a, b| a.offset.cmp(&b.offset).then_with(|| a.name.cmp(&b.name)));
    all.dedup_by(|a, b| a.offset == b.offset && a.name == b.name);
    Ok(all)
}

/// A name without hash and without spaces, since readers of `/proc/kallsyms` split at those.
fn readable(name: &str) -> String {
    let mut name = format!("{:#}", rustc_demangle::demangle(name)).replace(' ', "_");
    while name.len() > NAME_MAX {
        name.pop();
    }
    name
}

fn encode(symbols: &[Shown]) -> Vec<u8> {
    let mut names: Vec<u8> = Vec::new();
    let mut groups = Vec::new();
    let mut previous: &[u8] = &[];
    for (index, symbol) in symbols.iter().enumerate() {
        let name = symbol.name.as_bytes();
        let mut shared = 0;
        if index % GROUP == 0 {
            groups.push(names.len() as u32);
        } else {
            shared = name.iter().zip(previous).take_while(|(a, b)| a == b).count();
        }
        names.push(shared as u8);
        names.push((name.len() - shared) as u8);
        names.extend_from_slice(&name[shared..]);
        previous = name;
    }
    let mut bytes = Vec::new();
    for word in [MAGIC, symbols.len() as u32, names.len() as u32, 0] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for word in symbols.iter().map(|symbol| symbol.offset).chain(groups) {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend(symbols.iter().map(|symbol| symbol.kind));
    bytes.extend(names);
    bytes
}
