//! How a command describes its memory: PRPs (NVMe 1.4 §4.3), else an SGL (§4.4), else a bounce
//! buffer.

use abi::{Errno, Result};
use block::{Op, Request};
use hw::DmaBuffer;

use crate::command::Command;

/// Memory of each tag for lists.
pub(crate) const LIST: usize = 2048;

/// The most pieces a request may have, so that an SGL of them fits.
pub(crate) const MAX_SEGMENTS: usize = LIST / SGL_DESCRIPTOR;

const SGL_DESCRIPTOR: usize = 16;
const SGL_DATA: u64 = 0x00 << 56;
const SGL_LAST_SEGMENT: u64 = 0x30 << 56;

const PAGE: u64 = 4096;

/// Describes the request's memory in `command`, with the help of the tag's list memory at
/// `offset` of `lists`. Returns the bounce buffer if there had to be one; what is written is in it
/// already.
///
/// # Errors
/// `ENOMEM` without memory to bounce through.
pub(crate) fn describe(
    request: &Request,
    command: &mut Command,
    lists: &DmaBuffer,
    offset: usize,
    has_sgl: bool,
) -> Result<Option<DmaBuffer>> {
    if put_prps(request, command, lists, offset) {
        return Ok(None);
    }
    if has_sgl && request.segment_count() <= MAX_SEGMENTS {
        put_sgl(request, command, lists, offset);
        return Ok(None);
    }
    bounce(request, command, lists, offset).map(Some)
}

/// Writes a PRP list while pieces come in.
struct Prps<'a> {
    lists: &'a DmaBuffer,
    offset: usize,
    count: usize,
    first: u64,
    second: u64,
    /// The last piece ended inside a page: nothing may follow.
    is_closed: bool,
    is_possible: bool,
}

impl Prps<'_> {
    fn page(&mut self, address: u64) {
        match self.count {
            0 => self.first = address,
            count => {
                if count == 1 {
                    self.second = address;
                }
                self.lists.write(self.offset + (count - 1) * 8, address);
            }
        }
        self.count += 1;
        self.is_possible &= self.count <= LIST / 8 + 1;
    }

    fn piece(&mut self, address: u64, len: u32) {
        if self.is_closed || (self.count > 0 && !address.is_multiple_of(PAGE)) {
            self.is_possible = false;
        }
        if !self.is_possible {
            return;
        }
        let end = address + u64::from(len);
        let mut at = address;
        while at < end && self.is_possible {
            self.page(at);
            at = (at / PAGE + 1) * PAGE;
        }
        self.is_closed = !end.is_multiple_of(PAGE);
    }

    fn finish(self, command: &mut Command) -> bool {
        if !self.is_possible {
            return false;
        }
        let list = self.lists.phys().0 + self.offset as u64;
        let second = if self.count > 2 { list } else { self.second };
        command.data = [self.first, second];
        true
    }
}

fn prps(lists: &DmaBuffer, offset: usize) -> Prps<'_> {
    Prps { lists, offset, count: 0, first: 0, second: 0, is_closed: false, is_possible: true }
}

fn put_prps(request: &Request, command: &mut Command, lists: &DmaBuffer, offset: usize) -> bool {
    let mut prps = prps(lists, offset);
    request.for_each_phys(u32::MAX, |address, len| prps.piece(address.0, len));
    prps.finish(command)
}

fn put_sgl(request: &Request, command: &mut Command, lists: &DmaBuffer, offset: usize) {
    let mut count = 0;
    request.for_each_phys(u32::MAX, |address, len| {
        let at = offset + count * SGL_DESCRIPTOR;
        lists.write(at, address.0);
        lists.write(at + 8, u64::from(len) | SGL_DATA);
        count += 1;
    });
    let list = lists.phys().0 + offset as u64;
    command.data = [list, (count * SGL_DESCRIPTOR) as u64 | SGL_LAST_SEGMENT];
    command.use_sgl();
}

fn bounce(
    request: &Request,
    command: &mut Command,
    lists: &DmaBuffer,
    offset: usize,
) -> Result<DmaBuffer> {
    let len = u32::try_from(request.len_bytes()).map_err(|_| Errno::EINVAL)?;
    let buffer = DmaBuffer::new(len as usize)?;
    if request.op() == Op::Write {
        copy(request, |at, bytes| buffer.copy_in(at, bytes));
    }
    let mut prps = prps(lists, offset);
    prps.piece(buffer.phys().0, len);
    if prps.finish(command) { Ok(buffer) } else { Err(Errno::EINVAL) }
}

/// Hands out the request's memory in pieces that fit on the stack, as bytes that were copied out.
fn copy(request: &Request, mut each: impl FnMut(usize, &[u8])) {
    let mut at = 0;
    let mut bytes = [0; 512];
    for segment in request.segments() {
        for offset in (0..segment.len).step_by(512) {
            let n = (segment.len - offset).min(512) as usize;
            let Some(part) = bytes.get_mut(..n) else { continue };
            segment.page.copy_out((segment.offset + offset) as usize, part);
            each(at, part);
            at += n;
        }
    }
}

/// Copies what was read through a bounce buffer to where it belongs.
pub(crate) fn unbounce(request: &Request, buffer: &DmaBuffer) {
    let mut at = 0;
    let mut bytes = [0; 512];
    for segment in request.segments() {
        for offset in (0..segment.len).step_by(512) {
            let n = (segment.len - offset).min(512) as usize;
            let Some(part) = bytes.get_mut(..n) else { continue };
            buffer.copy_out(at, part);
            segment.page.copy_in((segment.offset + offset) as usize, part);
            at += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists() -> DmaBuffer {
        frames::init_host(64 << 20);
        DmaBuffer::new(2 * LIST).unwrap()
    }

    #[test]
    fn prps_of_one_two_and_many_pages() {
        let lists = lists();
        let mut command = Command::default();
        let mut p = prps(&lists, LIST);
        p.piece(0x1200, 0xe00);
        assert!(p.finish(&mut command));
        assert_eq!(command.data, [0x1200, 0]);
        let mut p = prps(&lists, LIST);
        p.piece(0x1200, 0x1000);
        assert!(p.finish(&mut command));
        assert_eq!(command.data, [0x1200, 0x2000]);
        let mut p = prps(&lists, LIST);
        p.piece(0x1000, 0x1000);
        p.piece(0x8000, 0x2000);
        assert!(p.finish(&mut command));
        assert_eq!(command.data, [0x1000, lists.phys().0 + LIST as u64]);
        assert_eq!(lists.read::<u64>(LIST), 0x8000);
        assert_eq!(lists.read::<u64>(LIST + 8), 0x9000);
    }

    #[test]
    fn gaps_inside_pages_are_not_for_prps() {
        let lists = lists();
        let mut command = Command::default();
        let mut p = prps(&lists, 0);
        p.piece(0x1000, 0x200);
        p.piece(0x2000, 0x200);
        assert!(!p.finish(&mut command));
        let mut p = prps(&lists, 0);
        p.piece(0x1000, 0x1000);
        p.piece(0x2200, 0x200);
        assert!(!p.finish(&mut command));
    }
}
