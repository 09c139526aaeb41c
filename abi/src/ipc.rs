//! System V IPC and POSIX message queues: commands, flags and the structures of the `*ctl` calls.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Flags and commands shared by the three kinds (`<linux/ipc.h>`).
#[expect(missing_docs, reason = "svipc(7) describes them")]
pub mod common {
    pub const PRIVATE: i32 = 0;
    pub const CREAT: u32 = 0o1000;
    pub const EXCL: u32 = 0o2000;
    pub const NOWAIT: u32 = 0o4000;
    pub const RMID: i32 = 0;
    pub const SET: i32 = 1;
    pub const STAT: i32 = 2;
    pub const INFO: i32 = 3;
}

/// Shared memory (`<linux/shm.h>`).
#[expect(missing_docs, reason = "shmget(2), shmop(2) and shmctl(2) describe them")]
pub mod shm {
    pub const HUGETLB: u32 = 0o4000;
    pub const NORESERVE: u32 = 0o10000;
    pub const HUGE_SHIFT: u32 = 26;
    pub const RDONLY: u32 = 0o10000;
    pub const RND: u32 = 0o20000;
    pub const REMAP: u32 = 0o40000;
    pub const EXEC: u32 = 0o100000;
    /// Mode bit: removed once nobody is attached.
    pub const DEST: u32 = 0o1000;
    /// Mode bit: kept in memory.
    pub const LOCKED: u32 = 0o2000;
    pub const LOCK: i32 = 11;
    pub const UNLOCK: i32 = 12;
    pub const STAT: i32 = 13;
    pub const INFO: i32 = 14;
    pub const STAT_ANY: i32 = 15;
}

/// Semaphores (`<linux/sem.h>`).
#[expect(missing_docs, reason = "semop(2) and semctl(2) describe them")]
pub mod sem {
    pub const UNDO: u16 = 0x1000;
    pub const GETPID: i32 = 11;
    pub const GETVAL: i32 = 12;
    pub const GETALL: i32 = 13;
    pub const GETNCNT: i32 = 14;
    pub const GETZCNT: i32 = 15;
    pub const SETVAL: i32 = 16;
    pub const SETALL: i32 = 17;
    pub const STAT: i32 = 18;
    pub const INFO: i32 = 19;
    pub const STAT_ANY: i32 = 20;
    /// The largest value of a semaphore, and of an adjustment.
    pub const VMX: i32 = 32767;
}

/// Messages (`<linux/msg.h>`).
#[expect(missing_docs, reason = "msgop(2) and msgctl(2) describe them")]
pub mod msg {
    pub const NOERROR: u32 = 0o10000;
    pub const EXCEPT: u32 = 0o20000;
    pub const COPY: u32 = 0o40000;
    pub const STAT: i32 = 11;
    pub const INFO: i32 = 12;
    pub const STAT_ANY: i32 = 13;
}

/// `struct ipc64_perm`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "svipc(7) describes them")]
pub struct IpcPerm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u16,
    pub pad: [u16; 3],
    pub unused: [u64; 2],
}

/// `struct shmid64_ds`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "shmctl(2) describes them")]
pub struct ShmidDs {
    pub perm: IpcPerm,
    pub segsz: u64,
    pub atime: i64,
    pub dtime: i64,
    pub ctime: i64,
    pub cpid: i32,
    pub lpid: i32,
    pub nattch: u64,
    pub unused: [u64; 2],
}

/// `struct semid64_ds`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "semctl(2) describes them")]
pub struct SemidDs {
    pub perm: IpcPerm,
    pub otime: i64,
    pub unused1: u64,
    pub ctime: i64,
    pub unused2: u64,
    pub nsems: u64,
    pub unused3: [u64; 2],
}

/// `struct msqid64_ds`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "msgctl(2) describes them")]
pub struct MsqidDs {
    pub perm: IpcPerm,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
    pub cbytes: u64,
    pub qnum: u64,
    pub qbytes: u64,
    pub lspid: i32,
    pub lrpid: i32,
    pub unused: [u64; 2],
}

/// `struct shminfo64`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "shmctl(2) describes them")]
pub struct ShmLimits {
    pub shmmax: u64,
    pub shmmin: u64,
    pub shmmni: u64,
    pub shmseg: u64,
    pub shmall: u64,
    pub unused: [u64; 4],
}

/// `struct shm_info`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "shmctl(2) describes them")]
pub struct ShmUsage {
    pub used_ids: i32,
    pub pad: i32,
    pub tot: u64,
    pub rss: u64,
    pub swp: u64,
    pub swap_attempts: u64,
    pub swap_successes: u64,
}

/// `struct seminfo`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "semctl(2) describes them")]
pub struct SemInfo {
    pub map: i32,
    pub mni: i32,
    pub mns: i32,
    pub mnu: i32,
    pub msl: i32,
    pub opm: i32,
    pub ume: i32,
    pub usz: i32,
    pub vmx: i32,
    pub aem: i32,
}

/// `struct msginfo`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "msgctl(2) describes them")]
pub struct MsgInfo {
    pub pool: i32,
    pub map: i32,
    pub max: i32,
    pub mnb: i32,
    pub mni: i32,
    pub ssz: i32,
    pub tql: i32,
    pub seg: u16,
    pub pad: u16,
}

/// `struct sembuf`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "semop(2) describes them")]
pub struct SemBuf {
    pub num: u16,
    pub op: i16,
    pub flags: u16,
}

/// `struct mq_attr`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "mq_getattr(3) describes them")]
pub struct MqAttr {
    pub flags: i64,
    pub maxmsg: i64,
    pub msgsize: i64,
    pub curmsgs: i64,
    pub reserved: [i64; 4],
}

const _: () = assert!(
    size_of::<IpcPerm>() == 48
        && size_of::<ShmidDs>() == 112
        && size_of::<SemidDs>() == 104
        && size_of::<MsqidDs>() == 120
        && size_of::<ShmUsage>() == 48
        && size_of::<MsgInfo>() == 32
        && size_of::<MqAttr>() == 64
);
