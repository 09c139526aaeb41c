//! Resource limits (`getrlimit(2)`): soft ones are read on hot paths, so each is an atomic.

use abi::process::{RLIM_INFINITY, RLimit, Resource};
use abi::{Errno, Result};
use arch::lock::{LockClass, SpinLock};
use core::sync::atomic::{AtomicU64, Ordering};

static CLASS: LockClass = LockClass::new("process.limits", 647);

/// `fs.nr_open`: the most that `RLIMIT_NOFILE` can be.
pub const NR_OPEN: u64 = 1 << 20;

/// The limits of a process.
pub struct Limits {
    soft: [AtomicU64; Resource::COUNT],
    hard: [AtomicU64; Resource::COUNT],
    /// Writers change a pair together.
    update: SpinLock<()>,
}

impl Limits {
    /// What process 1 starts with; `threads` is how many the machine can hold.
    pub fn initial(threads: u64) -> Limits {
        let mut soft = [RLIM_INFINITY; Resource::COUNT];
        let mut hard = [RLIM_INFINITY; Resource::COUNT];
        let mut set = |resource: Resource, s: u64, h: u64| {
            if let (Some(soft), Some(hard)) =
                (soft.get_mut(resource as usize), hard.get_mut(resource as usize))
            {
                *soft = s;
                *hard = h;
            }
        };
        set(Resource::Stack, 8 << 20, RLIM_INFINITY);
        set(Resource::Core, 0, RLIM_INFINITY);
        set(Resource::Nproc, threads / 2, threads / 2);
        set(Resource::Nofile, 1024, 4096);
        set(Resource::Memlock, 8 << 20, 8 << 20);
        set(Resource::Sigpending, threads / 2, threads / 2);
        set(Resource::Msgqueue, 819_200, 819_200);
        set(Resource::Nice, 0, 0);
        set(Resource::Rtprio, 0, 0);
        Limits::from_arrays(soft, hard)
    }

    fn from_arrays(soft: [u64; Resource::COUNT], hard: [u64; Resource::COUNT]) -> Limits {
        Limits {
            soft: soft.map(AtomicU64::new),
            hard: hard.map(AtomicU64::new),
            update: SpinLock::new(&CLASS, ()),
        }
    }

    /// A copy (`fork(2)`).
    #[must_use]
    pub fn duplicate(&self) -> Limits {
        let _pair = self.update.lock();
        Limits::from_arrays(
            core::array::from_fn(|i| self.soft.get(i).map_or(0, |v| v.load(Ordering::Relaxed))),
            core::array::from_fn(|i| self.hard.get(i).map_or(0, |v| v.load(Ordering::Relaxed))),
        )
    }

    /// The limit that binds.
    #[inline]
    pub fn soft(&self, resource: Resource) -> u64 {
        // Relaxed: a lone number.
        self.soft.get(resource as usize).map_or(0, |v| v.load(Ordering::Relaxed))
    }

    /// Both limits.
    pub fn get(&self, resource: Resource) -> RLimit {
        let _pair = self.update.lock();
        RLimit {
            cur: self.soft(resource),
            max: self.hard.get(resource as usize).map_or(0, |v| v.load(Ordering::Relaxed)),
        }
    }

    /// A second more of `RLIMIT_CPU`, as far as the hard limit, after SIGXCPU was sent.
    pub(crate) fn postpone_cpu(&self) {
        let _pair = self.update.lock();
        let index = Resource::Cpu as usize;
        if let (Some(soft), Some(hard)) = (self.soft.get(index), self.hard.get(index)) {
            let next = soft.load(Ordering::Relaxed).max(1).saturating_add(1);
            soft.store(next.min(hard.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }

    /// Replaces both; raising the hard one needs `may_raise` (`CAP_SYS_RESOURCE`).
    pub fn set(&self, resource: Resource, new: RLimit, may_raise: bool) -> Result<()> {
        if new.cur > new.max {
            return Err(Errno::EINVAL);
        }
        if resource == Resource::Nofile && new.max > NR_OPEN {
            return Err(Errno::EPERM);
        }
        let _pair = self.update.lock();
        let (Some(soft), Some(hard)) =
            (self.soft.get(resource as usize), self.hard.get(resource as usize))
        else {
            return Err(Errno::EINVAL);
        };
        if new.max > hard.load(Ordering::Relaxed) && !may_raise {
            return Err(Errno::EPERM);
        }
        soft.store(new.cur, Ordering::Relaxed);
        hard.store(new.max, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_limits_only_fall_without_privilege() {
        let limits = Limits::initial(10_000);
        let nofile = |cur, max| RLimit { cur, max };
        assert_eq!(limits.set(Resource::Nofile, nofile(10, 5), true), Err(Errno::EINVAL));
        assert_eq!(limits.set(Resource::Nofile, nofile(5, 5000), false), Err(Errno::EPERM));
        assert_eq!(limits.set(Resource::Nofile, nofile(5, 50), false), Ok(()));
        assert_eq!(limits.set(Resource::Nofile, nofile(5, 51), false), Err(Errno::EPERM));
        assert_eq!(limits.set(Resource::Nofile, nofile(5, NR_OPEN + 1), true), Err(Errno::EPERM));
        assert_eq!(limits.duplicate().get(Resource::Nofile), nofile(5, 50));
    }
}
