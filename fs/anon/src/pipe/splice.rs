//! Moving data between files without user memory: `splice`, `tee`, `vmsplice`, `sendfile`,
//! `copy_file_range`.
//!
//! Between a file in the page cache and a pipe, pages change hands; everything else is copied once,
//! from the page it lies in to its destination.

use alloc::sync::Arc;

use abi::fcntl::*;
use abi::{Errno, Result};
use arch::shared::SharedBytes;
use arch::uio::{Sink, Source};
use frames::PageRef;
use smallvec::SmallVec;
use vfs::file::PageSink;
use vfs::rw::{self, At};
use vfs::{Context, File, FileKind, FileMode};

use super::file::PipeEnd;
use super::ring::{Chunk, PAGE, RUN};
use super::{PassOnData, PassOnRoom, Pipe, pipe_of};

/// Writes everything it collects to a file.
struct ToFile<'a> {
    ctx: &'a Context<'a>,
    file: &'a File,
    at: At,
}

impl ToFile<'_> {
    /// Writes chunks; how many bytes.
    fn put_run(&mut self, chunks: &[Chunk]) -> Result<usize> {
        let pieces: SmallVec<[SharedBytes<'_>; RUN]> =
            chunks.iter().map(|chunk| chunk.page.part(chunk.offset, chunk.len)).collect();
        let count = rw::write(self.ctx, self.file, self.at, &mut Source::pieces(&pieces), 0)?;
        self.go_on(count);
        Ok(count)
    }

    /// Writes part of a page; how much.
    fn put(&mut self, page: &PageRef, offset: usize, len: usize) -> Result<usize> {
        let bytes = page.part(offset, len);
        let count = rw::write(self.ctx, self.file, self.at, &mut Source::shared(bytes), 0)?;
        self.go_on(count);
        Ok(count)
    }

    fn go_on(&mut self, count: usize) {
        if let At::Offset(pos) = &mut self.at {
            *pos += count as u64;
        }
    }
}

/// Takes pages into a pipe.
struct ToPipe<'a> {
    pipe: &'a Pipe,
    room: usize,
}

impl PageSink for ToPipe<'_> {
    fn room(&self) -> usize {
        self.room * PAGE
    }

    fn push(&mut self, page: PageRef, offset: usize, len: usize) -> Result<()> {
        let mut ring = self.pipe.ring.lock();
        if ring.is_full() || self.room == 0 {
            return Err(Errno::EAGAIN);
        }
        self.room -= 1;
        ring.push(Chunk { page, offset, len, own: false, packet: false });
        Ok(())
    }
}

/// Takes pages and writes them to a file.
struct Through<'a, 'b> {
    to: &'a mut ToFile<'b>,
    left: usize,
    done: usize,
}

impl PageSink for Through<'_, '_> {
    fn room(&self) -> usize {
        self.left
    }

    fn push(&mut self, page: PageRef, offset: usize, len: usize) -> Result<()> {
        let count = self.to.put(&page, offset, len)?;
        self.done += count;
        self.left -= count.min(self.left);
        if count < len {
            // The rest is not written: stop here.
            self.left = 0;
        }
        Ok(())
    }
}

fn writable_end(file: &File) -> Result<&Arc<Pipe>> {
    if !file.can_write() { Err(Errno::EBADF) } else { pipe_of(file).ok_or(Errno::EINVAL) }
}

fn readable_end(file: &File) -> Result<&Arc<Pipe>> {
    if !file.can_read() { Err(Errno::EBADF) } else { pipe_of(file).ok_or(Errno::EINVAL) }
}

/// Position of one side of a transfer: a given offset, or the file's own.
fn start(file: &File, at: At) -> u64 {
    match at {
        At::Offset(pos) => pos,
        At::Position => file.position().lock().get(),
    }
}

fn moved(file: &File, at: At, end: u64) {
    if at == At::Position && file.mode().contains(FileMode::SEEK) {
        file.position().lock().set(end);
    }
}

/// Waits until the pipe has a free slot.
fn wait_room(pipe: &Pipe, nonblocking: bool) -> Result<usize> {
    loop {
        if !pipe.has_readers() {
            return Err(Errno::EPIPE);
        }
        let room = pipe.ring.lock().room();
        if room > 0 {
            return Ok(room);
        }
        if nonblocking {
            return Err(Errno::EAGAIN);
        }
        pipe.wait_writable()?;
    }
}

/// Waits until the pipe has data; `false` at its end.
fn wait_data(pipe: &Pipe, nonblocking: bool) -> Result<bool> {
    loop {
        {
            let ring = pipe.ring.lock();
            if !ring.is_lent() {
                if !ring.is_empty() {
                    return Ok(true);
                }
                // Asked with the ring locked: what the last writer wrote is there before it goes.
                if !pipe.has_writers() {
                    return Ok(false);
                }
                if nonblocking {
                    return Err(Errno::EAGAIN);
                }
            }
        }
        pipe.wait_readable()?;
    }
}

fn file_to_pipe(
    ctx: &Context<'_>,
    from: &File,
    at: At,
    to: &File,
    len: usize,
    nonblocking: bool,
) -> Result<usize> {
    let pipe = writable_end(to)?;
    if !from.can_read() {
        return Err(Errno::EBADF);
    }
    let _next = PassOnRoom(pipe);
    let room = match wait_room(pipe, nonblocking) {
        Err(Errno::EPIPE) => {
            ctx.caller.raise(13);
            return Err(Errno::EPIPE);
        }
        other => other?,
    };
    let pos = start(from, at);
    let mut sink = ToPipe { pipe, room };
    let count = match from.ops().splice_read(from, pos, len.min(room * PAGE), &mut sink) {
        Err(Errno::EINVAL) => copy_into_pipe(from, at, pipe, len.min(room * PAGE))?,
        other => {
            let count = other?;
            moved(from, at, pos + count as u64);
            count
        }
    };
    if count > 0 {
        pipe.tell_a_reader();
    }
    Ok(count)
}

/// For files that have no pages to give: one read, into pages of the pipe. They are there before it: what was
/// read is not to be lost, so it goes into the pipe even if others have filled that meanwhile.
fn copy_into_pipe(from: &File, at: At, pipe: &Pipe, len: usize) -> Result<usize> {
    let len = len.min(RUN * PAGE);
    let mut pages: SmallVec<[PageRef; RUN]> = SmallVec::new();
    for _ in 0..len.div_ceil(PAGE) {
        pages.push(crate::pages::fresh()?);
    }
    let mut left = len;
    let pieces: SmallVec<[SharedBytes<'_>; RUN]> = pages
        .iter()
        .map(|page| {
            let piece = page.part(0, left.min(PAGE));
            left -= left.min(PAGE);
            piece
        })
        .collect();
    let count = rw::read(from, at, &mut Sink::pieces(&pieces))?;
    drop(pieces);
    let mut left = count;
    let mut ring = pipe.ring.lock();
    for page in pages {
        let len = left.min(PAGE);
        if len == 0 {
            break;
        }
        left -= len;
        ring.push(Chunk { page, offset: 0, len, own: true, packet: false });
    }
    Ok(count)
}

fn pipe_to_file(
    ctx: &Context<'_>,
    from: &File,
    to: &File,
    at: At,
    len: usize,
    nonblocking: bool,
) -> Result<usize> {
    let pipe = readable_end(from)?;
    if !to.can_write() {
        return Err(Errno::EBADF);
    }
    if to.flags() & O_APPEND != 0 {
        return Err(Errno::EINVAL);
    }
    let mut out = ToFile { ctx, file: to, at };
    let mut done = 0;
    let _next = PassOnData(pipe);
    while done < len {
        let chunks = pipe.ring.lock().lend(len - done);
        if chunks.is_empty() {
            // Others may take what came before it is taken here: that is not the end.
            if done == 0 && wait_data(pipe, nonblocking)? {
                continue;
            }
            break;
        }
        let wanted: usize = chunks.iter().map(|chunk| chunk.len).sum();
        let result = out.put_run(&chunks);
        let count = *result.as_ref().unwrap_or(&0);
        done += count;
        pipe.ring.lock().settle(chunks, count);
        // Who reads has waited, be it for the end.
        pipe.readable.wake_all();
        pipe.tell_a_writer();
        if count < wanted {
            match result {
                Err(error) if done == 0 => return Err(error),
                _ => break,
            }
        }
    }
    Ok(done)
}

/// Moves or duplicates chunks from one pipe to another.
fn pipe_to_pipe(
    from: &File,
    to: &File,
    len: usize,
    nonblocking: bool,
    keep: bool,
) -> Result<usize> {
    let (source, target) = (readable_end(from)?, writable_end(to)?);
    if Arc::ptr_eq(source, target) {
        return Err(Errno::EINVAL);
    }
    let _next = (PassOnData(source), PassOnRoom(target));
    // Others may take the data or the room between the wait and the look: that is not the end.
    while len > 0 && wait_data(source, nonblocking)? {
        wait_room(target, nonblocking)?;
        let done = move_chunks(source, target, len, keep);
        if done > 0 {
            return Ok(done);
        }
    }
    Ok(0)
}

/// The same with what is there now; how many bytes.
fn move_chunks(source: &Arc<Pipe>, target: &Arc<Pipe>, len: usize, keep: bool) -> usize {
    // Both rings at once, in the order of their addresses.
    let source_first = Arc::as_ptr(source).addr() < Arc::as_ptr(target).addr();
    let (mut input, mut output) = if source_first {
        let input = source.ring.lock();
        (input, target.ring.lock_nested())
    } else {
        let output = target.ring.lock();
        (source.ring.lock_nested(), output)
    };
    let (mut done, mut index) = (0, 0);
    while done < len && !output.is_full() && !input.is_lent() {
        let chunk = if keep {
            let Some(chunk) = input.peek(index) else { break };
            Chunk { len: chunk.len.min(len - done), own: false, ..chunk.clone() }
        } else {
            let Some(chunk) = input.take(len - done) else { break };
            chunk
        };
        index += 1;
        done += chunk.len;
        output.push(chunk);
    }
    drop((input, output));
    if done > 0 {
        target.tell_a_reader();
        if !keep {
            source.tell_a_writer();
        }
    }
    done
}

/// `splice(2)`; offsets are given only for the side that is no pipe.
pub fn splice(
    ctx: &Context<'_>,
    from: &File,
    from_at: At,
    to: &File,
    to_at: At,
    len: usize,
    flags: u32,
) -> Result<usize> {
    let given = |at: At| matches!(at, At::Offset(_));
    let nonblocking = flags & SPLICE_F_NONBLOCK != 0;
    let (from_pipe, to_pipe) = (pipe_of(from).is_some(), pipe_of(to).is_some());
    if (from_pipe && given(from_at)) || (to_pipe && given(to_at)) {
        return Err(Errno::ESPIPE);
    }
    let blocked = |file: &File| nonblocking || file.is_nonblocking();
    match (from_pipe, to_pipe) {
        (true, true) => pipe_to_pipe(from, to, len, blocked(from) || blocked(to), false),
        (true, false) => {
            if given(to_at) && !to.mode().contains(FileMode::POSITIONAL) {
                return Err(Errno::EINVAL);
            }
            pipe_to_file(ctx, from, to, to_at, len, blocked(from))
        }
        (false, true) => {
            if given(from_at) && !from.mode().contains(FileMode::POSITIONAL) {
                return Err(Errno::EINVAL);
            }
            file_to_pipe(ctx, from, from_at, to, len, blocked(to))
        }
        (false, false) if !from.can_read() || !to.can_write() => Err(Errno::EBADF),
        (false, false) => Err(Errno::EINVAL),
    }
}

/// `tee(2)`.
pub fn tee(from: &File, to: &File, len: usize, flags: u32) -> Result<usize> {
    if from.private::<PipeEnd>().is_none() || to.private::<PipeEnd>().is_none() {
        return Err(Errno::EINVAL);
    }
    pipe_to_pipe(from, to, len, flags & SPLICE_F_NONBLOCK != 0, true)
}

/// `vmsplice(2)` into a pipe: the data is copied, which its semantics allow.
pub fn vmsplice_in(to: &File, source: &mut Source<'_>, flags: u32) -> Result<usize> {
    let pipe = writable_end(to).map_err(|_| Errno::EBADF)?;
    pipe.write(source, flags & SPLICE_F_NONBLOCK != 0 || to.is_nonblocking(), false)
}

/// `vmsplice(2)` out of a pipe.
pub fn vmsplice_out(from: &File, sink: &mut Sink<'_>, flags: u32) -> Result<usize> {
    let pipe = readable_end(from).map_err(|_| Errno::EBADF)?;
    pipe.read(sink, flags & SPLICE_F_NONBLOCK != 0 || from.is_nonblocking())
}

/// `sendfile(2)`: up to `len` bytes of `from` to `to`.
pub fn sendfile(
    ctx: &Context<'_>,
    to: &File,
    from: &File,
    from_at: At,
    len: usize,
) -> Result<usize> {
    if !from.can_read() || !to.can_write() {
        return Err(Errno::EBADF);
    }
    if !matches!(from.inode().kind, FileKind::Regular | FileKind::BlockDevice)
        || to.flags() & O_APPEND != 0
    {
        return Err(Errno::EINVAL);
    }
    if pipe_of(to).is_some() {
        return file_to_pipe(ctx, from, from_at, to, len, to.is_nonblocking());
    }
    let pos = start(from, from_at);
    let done = pump(ctx, from, pos, to, At::Position, len)?;
    moved(from, from_at, pos + done as u64);
    Ok(done)
}

/// Copies `len` bytes from one file to another through the page cache; how many.
fn pump(ctx: &Context<'_>, from: &File, pos: u64, to: &File, at: At, len: usize) -> Result<usize> {
    let mut out = ToFile { ctx, file: to, at };
    let mut through = Through { to: &mut out, left: len, done: 0 };
    match from.ops().splice_read(from, pos, len, &mut through) {
        Err(Errno::EINVAL) if through.done == 0 => {}
        Err(error) if through.done == 0 => return Err(error),
        _ => return Ok(through.done),
    }
    let mut buffer = alloc::vec![0u8; len.min(16 * PAGE)];
    let mut done = 0;
    while done < len {
        let step = buffer.len().min(len - done);
        let room = buffer.get_mut(..step).unwrap_or(&mut []);
        let count = from.ops().read_at(from, pos + done as u64, &mut Sink::kernel(room))?;
        let mut source = Source::kernel(buffer.get(..count).unwrap_or(&[]));
        let written = match rw::write(ctx, to, out.at, &mut source, 0) {
            Ok(written) => written,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        };
        if let At::Offset(pos) = &mut out.at {
            *pos += written as u64;
        }
        done += written;
        if written < step {
            break;
        }
    }
    Ok(done)
}

/// `copy_file_range(2)`.
pub fn copy_file_range(
    ctx: &Context<'_>,
    from: &File,
    from_at: At,
    to: &File,
    to_at: At,
    len: usize,
) -> Result<usize> {
    let kinds = [from, to].map(|file| file.inode().kind);
    if kinds.contains(&FileKind::Directory) {
        return Err(Errno::EISDIR);
    }
    if kinds.iter().any(|kind| *kind != FileKind::Regular) {
        return Err(Errno::EINVAL);
    }
    if !from.can_read() || !to.can_write() || to.flags() & O_APPEND != 0 {
        return Err(Errno::EBADF);
    }
    let (pos_in, pos_out) = (start(from, from_at), start(to, to_at));
    let len = (len as u64).min(from.inode().size().saturating_sub(pos_in));
    let overlap = Arc::ptr_eq(from.inode(), to.inode())
        && pos_in < pos_out.saturating_add(len)
        && pos_out < pos_in.saturating_add(len);
    if overlap {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let cloned = if Arc::ptr_eq(from.inode().sb(), to.inode().sb()) {
        from.ops().copy_range(from, pos_in, to, pos_out, len)
    } else {
        Err(Errno::EOPNOTSUPP)
    };
    let done = match cloned {
        Err(Errno::EOPNOTSUPP) => {
            pump(ctx, from, pos_in, to, At::Offset(pos_out), len.min(1 << 30) as usize)? as u64
        }
        other => other?,
    };
    moved(from, from_at, pos_in + done);
    moved(to, to_at, pos_out + done);
    Ok(done as usize)
}
