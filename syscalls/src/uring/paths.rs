//! The operations that go by paths and descriptors.

use alloc::boxed::Box;
use alloc::vec::Vec;

use ::uring::Env;
use ::uring::issue::Call;
use ::uring::prepare::Reader;
use abi::fcntl::{AT_FDCWD, AT_REMOVEDIR, O_CLOEXEC};
use abi::poll::{EPOLL_CTL_DEL, EpollEvent};
use abi::uring::{Sqe, op, sqe};
use abi::{Errno, Result};
use aio::Submitter;
use arch::VirtAddr;
use vfs::{CloseOnExec, Path};
use zerocopy::IntoBytes;

/// Calls `act` with the directory that `dir` means for `name`.
fn with_base<R>(
    env: &Env,
    dir: i32,
    name: &[u8],
    act: impl FnOnce(&vfs::Context<'_>, &Path) -> Result<R>,
) -> Result<R> {
    let ctx = env.who.context();
    if dir == AT_FDCWD || name.first() == Some(&b'/') {
        return act(&ctx, ctx.cwd);
    }
    let base = env.files()?.get_any(dir)?;
    act(&ctx, &base.path)
}

fn call(work: impl FnOnce(&Env) -> Result<usize> + Send + 'static) -> Result<Call> {
    Ok(Box::new(work))
}

fn open(entry: &Sqe, reader: &Reader<'_>) -> Result<Call> {
    // Descriptors of the instance's own table are not given out.
    if entry.buf_index != 0 || entry.file_index != 0 {
        return Err(Errno::EINVAL);
    }
    let how = if entry.opcode == op::OPENAT2 {
        let mut how = abi::fcntl::OpenHow::default();
        if entry.len as usize != size_of::<abi::fcntl::OpenHow>() {
            return Err(Errno::EINVAL);
        }
        reader.read(entry.off, how.as_mut_bytes())?;
        crate::path::check_how(&how)?
    } else {
        crate::path::check_openat(entry.op_flags, entry.len)?
    };
    let (name, dir) = (reader.path(entry.addr)?, entry.fd);
    call(move |env| {
        // The number first: running out of them must not create anything.
        let cloexec = CloseOnExec::from_flags(how.flags, O_CLOEXEC);
        let files = env.files()?;
        let number = files.reserve(0, env.who.limits[1], cloexec)?;
        match with_base(env, dir, &name, |ctx, base| vfs::open(ctx, base, &name, &how)) {
            Ok(file) => {
                files.install(number, file);
                Ok(number as usize)
            }
            Err(error) => {
                files.cancel(number);
                Err(error)
            }
        }
    })
}

fn statx(entry: &Sqe, reader: &Reader<'_>) -> Result<Call> {
    if entry.buf_index != 0 || entry.file_index != 0 {
        return Err(Errno::EINVAL);
    }
    crate::stat::check_statx(entry.op_flags, entry.len)?;
    let walk = crate::fsctx::at_flags(entry.op_flags);
    let name = match reader.path(entry.addr) {
        Ok(name) if name.is_empty() && !walk.contains(vfs::Walk::EMPTY) => {
            return Err(Errno::ENOENT);
        }
        Ok(name) => name,
        Err(error) => return Err(error),
    };
    let (dir, to) = (entry.fd, entry.off);
    call(move |env| {
        let path = with_base(env, dir, &name, |ctx, base| vfs::walk(ctx, base, &name, walk))?;
        let out = crate::stat::statx_of(&path, &env.who.creds.user_ns)?;
        put(&env.who, to, out.as_bytes())
    })
}

/// Writes to the program's memory.
fn put(who: &Submitter, to: u64, bytes: &[u8]) -> Result<usize> {
    let count = who.space()?.write_remote(VirtAddr(to), bytes)?;
    if count == bytes.len() { Ok(0) } else { Err(Errno::EFAULT) }
}

/// Two names: those of an entry that has one at `addr` and another at `off`.
fn names(entry: &Sqe, reader: &Reader<'_>) -> Result<[Vec<u8>; 2]> {
    if entry.buf_index != 0 || entry.file_index != 0 {
        return Err(Errno::EINVAL);
    }
    if entry.flags & sqe::FIXED_FILE != 0 {
        return Err(Errno::EBADF);
    }
    Ok([reader.path(entry.addr)?, reader.path(entry.off)?])
}

fn rename(entry: &Sqe, reader: &Reader<'_>) -> Result<Call> {
    let [old, new] = names(entry, reader)?;
    let (from, to, flags) = (entry.fd, entry.len as i32, entry.op_flags);
    call(move |env| {
        let flags = crate::path::check_rename(flags)?;
        with_base(env, from, &old, |ctx, from| {
            with_base(env, to, &new, |_, to| vfs::ops::rename(ctx, from, &old, to, &new, flags))
        })
        .map(|()| 0)
    })
}

fn link(entry: &Sqe, reader: &Reader<'_>) -> Result<Call> {
    let [old, new] = names(entry, reader)?;
    let (from, to, flags) = (entry.fd, entry.len as i32, entry.op_flags);
    call(move |env| {
        let how = crate::path::check_link(&env.who.creds, flags)?;
        if old.is_empty() && !how.contains(vfs::Walk::EMPTY) {
            return Err(Errno::ENOENT);
        }
        with_base(env, from, &old, |ctx, from| {
            with_base(env, to, &new, |_, to| vfs::ops::link(ctx, from, &old, how, to, &new))
        })
        .map(|()| 0)
    })
}

fn symlink(entry: &Sqe, reader: &Reader<'_>) -> Result<Call> {
    if entry.len != 0 || entry.op_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let [target, name] = names(entry, reader)?;
    let dir = entry.fd;
    call(move |env| {
        with_base(env, dir, &name, |ctx, base| vfs::ops::symlink(ctx, &target, base, &name))
            .map(|()| 0)
    })
}

fn epoll_control(entry: &Sqe, reader: &Reader<'_>) -> Result<Call> {
    if entry.buf_index != 0 || entry.file_index != 0 {
        return Err(Errno::EINVAL);
    }
    let (epfd, op, fd) = (entry.fd, entry.len, entry.off as i32);
    let event: EpollEvent =
        if op == EPOLL_CTL_DEL { EpollEvent::default() } else { reader.value(entry.addr)? };
    call(move |env| {
        let files = env.files()?;
        crate::event::control(&*files.get(epfd)?, op, fd, &files.get(fd)?, &event).map(|()| 0)
    })
}

/// A message for another instance: data only, no descriptors.
fn message(entry: &Sqe) -> Result<Call> {
    if entry.buf_index != 0 || entry.op_flags != 0 || entry.addr != 0 {
        return Err(Errno::EINVAL);
    }
    let (fd, flags, user_data, res) = (entry.fd, entry.flags, entry.off, entry.len as i32);
    call(move |env| {
        let other = ::uring::of(&*env.file(fd, flags)?).map_err(|_| Errno::EBADFD)?;
        other.message(user_data, res).map(|()| 0)
    })
}

/// Makes an entry ready; `None` if it is not one of these.
pub(super) fn prepare(entry: &Sqe, reader: &Reader<'_>) -> Option<Result<Call>> {
    let (fd, entry) = (entry.fd, *entry);
    Some(match entry.opcode {
        op::OPENAT | op::OPENAT2 => open(&entry, reader),
        op::STATX => statx(&entry, reader),
        op::RENAMEAT => rename(&entry, reader),
        op::LINKAT => link(&entry, reader),
        op::SYMLINKAT => symlink(&entry, reader),
        op::EPOLL_CTL => epoll_control(&entry, reader),
        op::MSG_RING => message(&entry),
        op::CLOSE => {
            if entry.off | entry.addr | u64::from(entry.len | entry.op_flags) != 0
                || entry.buf_index != 0
            {
                return Some(Err(Errno::EINVAL));
            }
            call(move |env| {
                // The instance itself is not closed by itself.
                if env.files()?.get_any(fd).is_ok_and(|file| ::uring::of(&file).is_ok()) {
                    return Err(Errno::EBADF);
                }
                env.files()?.close(fd).map(|()| 0)
            })
        }
        op::FALLOCATE => call(move |env| {
            let file = env.files()?.get(fd)?;
            let (offset, len) = (entry.off as i64, entry.addr as i64);
            let mode = entry.len;
            vfs::rw::fallocate(&env.who.context(), &file, mode, offset, len).map(|()| 0)
        }),
        op::FADVISE => call(move |env| {
            let file = env.files()?.get(fd)?;
            let len = u64::from(entry.len);
            let end = if len == 0 { u64::MAX } else { entry.off.saturating_add(len) };
            if entry.op_flags > 5 {
                return Err(Errno::EINVAL);
            }
            file.ops().advise(&file, entry.off..end, entry.op_flags).map(|()| 0)
        }),
        op::UNLINKAT => {
            if entry.op_flags & !AT_REMOVEDIR != 0 {
                return Some(Err(Errno::EINVAL));
            }
            let name = match reader.path(entry.addr) {
                Ok(name) => name,
                Err(error) => return Some(Err(error)),
            };
            call(move |env| {
                with_base(env, fd, &name, |ctx, base| match entry.op_flags {
                    0 => vfs::ops::unlink(ctx, base, &name).map(|_| 0),
                    _ => vfs::ops::rmdir(ctx, base, &name).map(|_| 0),
                })
            })
        }
        op::MKDIRAT => {
            let name = match reader.path(entry.addr) {
                Ok(name) => name,
                Err(error) => return Some(Err(error)),
            };
            call(move |env| {
                with_base(env, fd, &name, |ctx, base| {
                    vfs::ops::mkdir(ctx, base, &name, entry.len).map(|_| 0)
                })
            })
        }
        _ => return None,
    })
}

/// Whether there is such an operation here.
pub(super) fn knows(opcode: u8) -> bool {
    matches!(
        opcode,
        op::OPENAT
            | op::OPENAT2
            | op::STATX
            | op::CLOSE
            | op::FALLOCATE
            | op::FADVISE
            | op::UNLINKAT
            | op::MKDIRAT
            | op::RENAMEAT
            | op::LINKAT
            | op::SYMLINKAT
            | op::EPOLL_CTL
            | op::MSG_RING
    )
}
