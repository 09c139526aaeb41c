//! Mount options.

use core::fmt::{self, Write};

use abi::{Errno, Result};

/// The options of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mode: u32,
    pub(crate) ptmx_mode: u32,
    pub(crate) max: u32,
}

/// Index numbers end here.
pub(crate) const MAX: u32 = 1 << 20;

impl Default for Options {
    fn default() -> Self {
        Self { uid: None, gid: None, mode: 0o600, ptmx_mode: 0, max: MAX }
    }
}

fn number(value: Option<&str>, radix: u32) -> Result<u32> {
    u32::from_str_radix(value.ok_or(Errno::EINVAL)?, radix).map_err(|_| Errno::EINVAL)
}

impl Options {
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        let mut options = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let mut parts = word.splitn(2, '=');
            let key = parts.next().unwrap_or("");
            let value = parts.next();
            match key {
                "uid" => options.uid = Some(number(value, 10)?),
                "gid" => options.gid = Some(number(value, 10)?),
                "mode" => options.mode = number(value, 8)? & 0o7777,
                "ptmxmode" => options.ptmx_mode = number(value, 8)? & 0o7777,
                "max" => {
                    options.max = number(value, 10)?;
                    if options.max > MAX {
                        return Err(Errno::EINVAL);
                    }
                }
                "newinstance" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(options)
    }

    pub(crate) fn show(&self, out: &mut dyn Write) -> fmt::Result {
        if let Some(uid) = self.uid {
            write!(out, ",uid={uid}")?;
        }
        if let Some(gid) = self.gid {
            write!(out, ",gid={gid}")?;
        }
        write!(out, ",mode={:03o},ptmxmode={:03o}", self.mode, self.ptmx_mode)?;
        if self.max < MAX {
            write!(out, ",max={}", self.max)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_shows() {
        let options = Options::parse(b"gid=5,mode=620,ptmxmode=666,newinstance").unwrap();
        let mut text = std::string::String::new();
        options.show(&mut text).unwrap();
        assert_eq!(text, ",gid=5,mode=620,ptmxmode=666");
        assert_eq!(Options::parse(b"gid=x"), Err(Errno::EINVAL));
        assert_eq!(Options::parse(b"max=9999999"), Err(Errno::EINVAL));
    }
}
