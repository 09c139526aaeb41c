//! Mount options of tmpfs (`tmpfs(5)`).

use abi::{Errno, Result};

/// The options given; `None` where the default holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `size=` or `nr_blocks=`, in pages; 0 is unlimited.
    pub pages: Option<u64>,
    /// `nr_inodes=`; 0 is unlimited.
    pub inodes: Option<u64>,
    /// `mode=`: permission bits of the root.
    pub mode: Option<u32>,
    /// `uid=` of the root.
    pub uid: Option<u32>,
    /// `gid=` of the root.
    pub gid: Option<u32>,
}

/// A number with a suffix: `k`, `m`, `g`, `t`.
fn number(text: &[u8]) -> Result<u64> {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let (number, suffix) = text.split_at(digits);
    let number: u64 = parse(number, 10)?;
    let shift = match suffix.to_ascii_lowercase().as_slice() {
        b"" => 0,
        b"k" => 10,
        b"m" => 20,
        b"g" => 30,
        b"t" => 40,
        _ => return Err(Errno::EINVAL),
    };
    number.checked_shl(shift).filter(|n| n >> shift == number).ok_or(Errno::EINVAL)
}

fn parse(text: &[u8], radix: u32) -> Result<u64> {
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    u64::from_str_radix(text, radix).map_err(|_| Errno::EINVAL)
}

impl Options {
    /// Whether there is an option of this name.
    pub fn is_known(key: &[u8]) -> bool {
        const KNOWN: [&[u8]; 10] = [
            b"size",
            b"nr_blocks",
            b"nr_inodes",
            b"mode",
            b"uid",
            b"gid",
            b"huge",
            b"mpol",
            b"inode32",
            b"inode64",
        ];
        KNOWN.contains(&key)
    }

    /// Parses `size=10%,mode=1777,…`; `memory_pages` is what per cents refer to.
    pub fn parse(data: &[u8], memory_pages: u64) -> Result<Options> {
        let mut options = Options::default();
        for option in data.split(|&b| b == b',').filter(|o| !o.is_empty()) {
            let mut parts = option.splitn(2, |&b| b == b'=');
            let key = parts.next().unwrap_or(b"");
            let value = parts.next();
            let need = || value.ok_or(Errno::EINVAL);
            match key {
                b"size" => {
                    let value = need()?;
                    options.pages = Some(match value.strip_suffix(b"%") {
                        Some(percent) => parse(percent, 10)?.saturating_mul(memory_pages) / 100,
                        None => number(value)?.div_ceil(4096),
                    });
                }
                b"nr_blocks" => options.pages = Some(number(need()?)?),
                b"nr_inodes" => options.inodes = Some(number(need()?)?),
                b"mode" => options.mode = Some(parse(need()?, 8)? as u32 & 0o7777),
                b"uid" => options.uid = Some(id(need()?)?),
                b"gid" => options.gid = Some(id(need()?)?),
                // Accepted, without effect here: placement of pages.
                b"huge" => match need()? {
                    b"never" | b"always" | b"within_size" | b"advise" => {}
                    _ => return Err(Errno::EINVAL),
                },
                b"mpol" | b"inode32" | b"inode64" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(options)
    }
}

fn id(text: &[u8]) -> Result<u32> {
    u32::try_from(parse(text, 10)?).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_modes() {
        let options = Options::parse(b"size=1m,mode=755,nr_inodes=1k,uid=7", 1000).unwrap();
        assert_eq!(options.pages, Some(256));
        assert_eq!((options.mode, options.inodes, options.uid), (Some(0o755), Some(1024), Some(7)));
        assert_eq!(Options::parse(b"size=50%", 1000).unwrap().pages, Some(500));
        assert_eq!(Options::parse(b"size=x", 1000), Err(Errno::EINVAL));
        assert_eq!(Options::parse(b"nonsense", 1000), Err(Errno::EINVAL));
        assert_eq!(Options::parse(b"size=99999999999999999g", 1000), Err(Errno::EINVAL));
    }
}
