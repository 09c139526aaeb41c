//! `io_uring(7)`: numbers and layouts of `linux/io_uring.h`.

/// What an entry asks for.
#[expect(missing_docs, reason = "the names are those of the man page")]
pub mod op {
    pub const NOP: u8 = 0;
    pub const READV: u8 = 1;
    pub const WRITEV: u8 = 2;
    pub const FSYNC: u8 = 3;
    pub const READ_FIXED: u8 = 4;
    pub const WRITE_FIXED: u8 = 5;
    pub const POLL_ADD: u8 = 6;
    pub const POLL_REMOVE: u8 = 7;
    pub const SYNC_FILE_RANGE: u8 = 8;
    pub const SENDMSG: u8 = 9;
    pub const RECVMSG: u8 = 10;
    pub const TIMEOUT: u8 = 11;
    pub const TIMEOUT_REMOVE: u8 = 12;
    pub const ACCEPT: u8 = 13;
    pub const ASYNC_CANCEL: u8 = 14;
    pub const LINK_TIMEOUT: u8 = 15;
    pub const CONNECT: u8 = 16;
    pub const FALLOCATE: u8 = 17;
    pub const OPENAT: u8 = 18;
    pub const CLOSE: u8 = 19;
    pub const FILES_UPDATE: u8 = 20;
    pub const STATX: u8 = 21;
    pub const READ: u8 = 22;
    pub const WRITE: u8 = 23;
    pub const FADVISE: u8 = 24;
    pub const SEND: u8 = 26;
    pub const RECV: u8 = 27;
    pub const OPENAT2: u8 = 28;
    pub const EPOLL_CTL: u8 = 29;
    pub const PROVIDE_BUFFERS: u8 = 31;
    pub const REMOVE_BUFFERS: u8 = 32;
    pub const SHUTDOWN: u8 = 34;
    pub const RENAMEAT: u8 = 35;
    pub const UNLINKAT: u8 = 36;
    pub const MKDIRAT: u8 = 37;
    pub const SYMLINKAT: u8 = 38;
    pub const LINKAT: u8 = 39;
    pub const MSG_RING: u8 = 40;
    pub const SOCKET: u8 = 45;
    /// One more than the last that Linux 6.1 has.
    pub const LAST: u8 = 49;
}

/// Flags of an entry (`IOSQE_*`).
#[expect(missing_docs, reason = "the names are those of the man page")]
pub mod sqe {
    pub const FIXED_FILE: u8 = 1;
    pub const IO_DRAIN: u8 = 2;
    pub const IO_LINK: u8 = 4;
    pub const IO_HARDLINK: u8 = 8;
    pub const ASYNC: u8 = 16;
    pub const BUFFER_SELECT: u8 = 32;
    pub const CQE_SKIP_SUCCESS: u8 = 64;
}

/// `ioprio` of sends and receives (`IORING_RECVSEND_*`, `IORING_RECV_*`) and of accepting.
#[expect(missing_docs, reason = "the names are those of the man page")]
pub mod socket {
    pub const POLL_FIRST: u16 = 1;
    pub const RECV_MULTISHOT: u16 = 2;
    pub const ACCEPT_MULTISHOT: u16 = 1;
}

/// Flags of a completion (`IORING_CQE_F_*`); with `BUFFER` the upper 16 bits are the number of one.
#[expect(missing_docs, reason = "the names are those of the man page")]
pub mod cqe {
    pub const BUFFER: u32 = 1;
    pub const MORE: u32 = 2;
    pub const SOCK_NONEMPTY: u32 = 4;
}

/// Flags of `io_uring_setup(2)` (`IORING_SETUP_*`).
#[expect(missing_docs, reason = "the names are those of the man page")]
pub mod setup {
    pub const IOPOLL: u32 = 1;
    pub const SQPOLL: u32 = 2;
    pub const SQ_AFF: u32 = 4;
    pub const CQSIZE: u32 = 8;
    pub const CLAMP: u32 = 16;
    pub const ATTACH_WQ: u32 = 32;
    pub const R_DISABLED: u32 = 64;
    pub const SUBMIT_ALL: u32 = 128;
    pub const COOP_TASKRUN: u32 = 256;
    pub const TASKRUN_FLAG: u32 = 512;
    pub const SINGLE_ISSUER: u32 = 1 << 12;
    pub const DEFER_TASKRUN: u32 = 1 << 13;
}

/// Flags of `io_uring_enter(2)` (`IORING_ENTER_*`).
#[expect(missing_docs, reason = "the names are those of the man page")]
pub mod enter {
    pub const GETEVENTS: u32 = 1;
    pub const SQ_WAKEUP: u32 = 2;
    pub const SQ_WAIT: u32 = 4;
    pub const EXT_ARG: u32 = 8;
}

/// What `io_uring_register(2)` does.
#[expect(missing_docs, reason = "the names are those of the man page")]
pub mod register {
    pub const BUFFERS: u32 = 0;
    pub const UNREGISTER_BUFFERS: u32 = 1;
    pub const FILES: u32 = 2;
    pub const UNREGISTER_FILES: u32 = 3;
    pub const EVENTFD: u32 = 4;
    pub const UNREGISTER_EVENTFD: u32 = 5;
    pub const FILES_UPDATE: u32 = 6;
    pub const EVENTFD_ASYNC: u32 = 7;
    pub const PROBE: u32 = 8;
    pub const PERSONALITY: u32 = 9;
    pub const UNREGISTER_PERSONALITY: u32 = 10;
    pub const RESTRICTIONS: u32 = 11;
    pub const ENABLE_RINGS: u32 = 12;
    pub const PBUF_RING: u32 = 22;
    pub const UNREGISTER_PBUF_RING: u32 = 23;
    /// One more than the last that Linux 6.1 has.
    pub const LAST: u32 = 26;
}

/// `IORING_FEAT_*` that hold here: one mapping for both rings, no completion is dropped, entries may be
/// reused after submission, offset -1 is the position, credentials are those of the submitter, files are
/// waited for without a thread, 32-bit poll events, SQPOLL with any file, timeouts in `io_uring_enter`,
/// workers with the rights of the submitter, completions that are not told of, files of links are found late.
pub const FEATURES: u32 = 1 | 2 | 4 | 8 | 16 | 32 | 64 | 128 | 256 | 512 | 2048 | 4096;

/// Where `mmap(2)` finds the submission ring, which has the completion ring too.
pub const OFF_SQ_RING: u64 = 0;
/// The same memory.
pub const OFF_CQ_RING: u64 = 0x800_0000;
/// The submission entries.
pub const OFF_SQES: u64 = 0x1000_0000;

/// The polling thread sleeps.
pub const SQ_NEED_WAKEUP: u32 = 1;
/// Completions wait for room.
pub const SQ_CQ_OVERFLOW: u32 = 2;
/// Nobody is to be told of completions.
pub const CQ_EVENTFD_DISABLED: u32 = 1;

/// Most entries of the two rings.
pub const MAX_ENTRIES: u32 = 32768;
/// See [`MAX_ENTRIES`].
pub const MAX_CQ_ENTRIES: u32 = 2 * MAX_ENTRIES;

/// `struct io_uring_sqe`.
#[derive(
    Clone, Copy, Debug, Default, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable,
)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are those of the man page")]
pub struct Sqe {
    pub opcode: u8,
    pub flags: u8,
    pub ioprio: u16,
    pub fd: i32,
    pub off: u64,
    pub addr: u64,
    pub len: u32,
    pub op_flags: u32,
    pub user_data: u64,
    pub buf_index: u16,
    pub personality: u16,
    pub file_index: u32,
    pub addr3: u64,
    pub pad: u64,
}

/// `struct io_uring_cqe`.
#[derive(
    Clone, Copy, Debug, Default, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable,
)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are those of the man page")]
pub struct Cqe {
    pub user_data: u64,
    pub res: i32,
    pub flags: u32,
}

/// `struct io_sqring_offsets` and `struct io_cqring_offsets`.
#[derive(
    Clone, Copy, Debug, Default, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable,
)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are those of the man page")]
pub struct Offsets {
    pub head: u32,
    pub tail: u32,
    pub ring_mask: u32,
    pub ring_entries: u32,
    /// `flags`, or `overflow`.
    pub fifth: u32,
    /// `dropped`, or `cqes`.
    pub sixth: u32,
    /// `array`, or `flags`.
    pub seventh: u32,
    pub resv1: u32,
    pub resv2: u64,
}

/// `struct io_uring_params`.
#[derive(
    Clone, Copy, Debug, Default, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable,
)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are those of the man page")]
pub struct Params {
    pub sq_entries: u32,
    pub cq_entries: u32,
    pub flags: u32,
    pub sq_thread_cpu: u32,
    pub sq_thread_idle: u32,
    pub features: u32,
    pub wq_fd: u32,
    pub resv: [u32; 3],
    pub sq_off: Offsets,
    pub cq_off: Offsets,
}
