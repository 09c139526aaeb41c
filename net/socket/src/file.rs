//! The socket as an open file of `sockfs`.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt;

use abi::fcntl::{O_NONBLOCK, O_RDWR};
use abi::socket::{MSG_DONTWAIT, MSG_NOSIGNAL};
use abi::{Errno, Result};
use arch::addr::VirtAddr;
use arch::lock::Once;
use arch::uio::{Sink, Source};
use vfs::{
    Context, Dentry, File, FileInit, FileMode, FileOps, FsStat, Inode, InodeInit, InodeOps,
    MapArgs, Mount, PageSink, Path, PollTable, SuperBlock, SuperInit, SuperOps,
};

use vm::MapSource;

use crate::interface::{Call, RecvMessage, SendMessage, Socket, device_control};

const SOCKFS_MAGIC: u64 = 0x534f_434b;

struct Plain;

impl SuperOps for Plain {
    fn statfs(&self, _sb: &SuperBlock) -> Result<FsStat> {
        Ok(FsStat { magic: SOCKFS_MAGIC, block_size: 4096, name_max: 255, ..FsStat::default() })
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct NoOps;

impl InodeOps for NoOps {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn no_ops() -> Arc<dyn InodeOps> {
    static OPS: Once<Arc<NoOps>> = Once::new();
    OPS.call_once(|| Arc::new(NoOps)).clone()
}

fn mount() -> Result<&'static Arc<Mount>> {
    static MOUNT: Once<Arc<Mount>> = Once::new();
    MOUNT.try_call_once(|| {
        let sb = SuperBlock::new(SuperInit::pseudo("sockfs", SOCKFS_MAGIC), Box::new(Plain));
        sb.set_root(Inode::new(&sb, &InodeInit::pseudo(1, 0o040555), no_ops(), None));
        Mount::internal(&sb)
    })
}

/// A socket that is open.
struct SocketFile {
    socket: Arc<dyn Socket>,
}

/// An open file for a new socket; `flags` is `O_NONBLOCK` or nothing. What fails releases the socket.
pub fn file_of(ctx: &Context<'_>, socket: Arc<dyn Socket>, flags: u32) -> Result<Arc<File>> {
    let made = make_file(ctx, &socket, flags);
    match &made {
        Ok(file) => socket.attached(file),
        Err(_) => socket.release(),
    }
    made
}

fn make_file(ctx: &Context<'_>, socket: &Arc<dyn Socket>, flags: u32) -> Result<Arc<File>> {
    vfs::filecount::check(ctx.creds)?;
    let mount = mount()?;
    let ino = socket.common().ino;
    let mut init = InodeInit::pseudo(ino, 0o140777);
    (init.uid, init.gid) = (ctx.creds.fsuid, ctx.creds.fsgid);
    let inode = Inode::new(&mount.sb, &init, no_ops(), None);
    let dentry = Dentry::new_disconnected(inode.clone(), format!("socket:[{ino}]").as_bytes());
    let mut mode = FileMode::NOWAIT;
    if socket.raises_sigpipe() {
        mode |= FileMode::SIGPIPE;
    }
    Ok(File::new(FileInit {
        ops: Arc::new(SocketFile { socket: socket.clone() }),
        inode,
        path: Path { mount: mount.clone(), dentry },
        creds: ctx.creds.clone(),
        flags: O_RDWR | (flags & O_NONBLOCK),
        mode,
    }))
}

/// The socket behind an open file; `ENOTSOCK` if it is something else.
#[inline]
pub fn socket_of(file: &File) -> Result<&Arc<dyn Socket>> {
    file.private::<SocketFile>().map(|file| &file.socket).ok_or(Errno::ENOTSOCK)
}

/// `MSG_DONTWAIT` for a file that must not wait.
#[inline]
pub fn blocking_flags(file: &File) -> u32 {
    if file.is_nonblocking() { MSG_DONTWAIT } else { 0 }
}

/// Device control of a socket: the family's, then what every socket knows of interfaces.
pub fn ioctl(socket: &dyn Socket, call: &Call<'_>, cmd: u32, arg: usize) -> Result<usize> {
    let arg = VirtAddr::new(arg as u64);
    match socket.queue_number(cmd) {
        Ok(number) => {
            arch::user::write_val(arg, &i32::try_from(number).unwrap_or(i32::MAX))?;
            Ok(0)
        }
        Err(Errno::ENOIOCTLCMD) => match device_control() {
            Some(devices) => devices.ioctl(socket, call, cmd, arg),
            None => Err(Errno::ENOIOCTLCMD),
        },
        Err(error) => Err(error),
    }
}

impl FileOps for SocketFile {
    fn read_at(&self, file: &File, _pos: u64, sink: &mut Sink<'_>) -> Result<usize> {
        if sink.is_full() {
            return Ok(0);
        }
        let mut message = RecvMessage { flags: blocking_flags(file), ..RecvMessage::default() };
        self.socket.recv(sink, &mut message)
    }

    fn write_at(&self, file: &File, _pos: u64, source: &mut Source<'_>) -> Result<usize> {
        // The signal is the VFS's to raise here (`FileMode::SIGPIPE`).
        let flags = blocking_flags(file) | MSG_NOSIGNAL;
        let mut message = SendMessage { flags, ..SendMessage::default() };
        self.socket.send(source, &mut message)
    }

    fn poll(&self, _file: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        self.socket.poll(table)
    }

    fn ioctl(&self, _file: &Arc<File>, ctx: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        let namespace = &self.socket.common().namespace;
        ioctl(&*self.socket, &Call { fs: ctx, namespace }, cmd, arg)
    }

    fn mmap(&self, _file: &Arc<File>, args: &MapArgs) -> Result<Arc<dyn MapSource>> {
        self.socket.mmap(args)
    }

    fn set_flags(&self, _file: &File, flags: u32) -> Result<()> {
        if flags & abi::fcntl::O_DIRECT != 0 { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn splice_read(
        &self,
        file: &File,
        _pos: u64,
        len: usize,
        out: &mut dyn PageSink,
    ) -> Result<usize> {
        self.socket.splice_read(len, file.is_nonblocking(), out)
    }

    fn release(&self, _file: &File) {
        self.socket.release();
    }

    fn fdinfo(&self, _file: &File, out: &mut dyn fmt::Write) -> fmt::Result {
        self.socket.fdinfo(out)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
