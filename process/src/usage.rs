//! What a thread, a process or its children have used (`getrusage(2)`, `times(2)`).

use crate::task::Task;
use abi::process::RUsage;

/// Clock ticks per second that user space sees.
pub const USER_HZ: u64 = 100;

/// Accumulated usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "getrusage(2) describes them")]
pub struct Usage {
    pub utime_ns: u64,
    pub stime_ns: u64,
    pub max_rss_kib: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
    pub blocks_read: u64,
    pub blocks_written: u64,
}

impl Usage {
    /// One thread's, as of now.
    pub fn of(task: &Task) -> Usage {
        let (minor_faults, major_faults) = task.faults();
        let Some(thread) = task.thread() else { return Usage::default() };
        let times = thread.cpu_times();
        Usage {
            utime_ns: times.user_ns,
            stime_ns: times.system_ns,
            max_rss_kib: 0,
            minor_faults,
            major_faults,
            voluntary_switches: times.voluntary_switches,
            involuntary_switches: times.involuntary_switches,
            blocks_read: 0,
            blocks_written: 0,
        }
    }

    /// Adds another's; of the peak sizes the larger counts.
    pub fn add(&mut self, other: &Usage) {
        self.utime_ns += other.utime_ns;
        self.stime_ns += other.stime_ns;
        self.max_rss_kib = self.max_rss_kib.max(other.max_rss_kib);
        self.minor_faults += other.minor_faults;
        self.major_faults += other.major_faults;
        self.voluntary_switches += other.voluntary_switches;
        self.involuntary_switches += other.involuntary_switches;
        self.blocks_read += other.blocks_read;
        self.blocks_written += other.blocks_written;
    }

    /// User time in clock ticks.
    pub fn utime_ticks(&self) -> u64 {
        self.utime_ns / (1_000_000_000 / USER_HZ)
    }

    /// System time in clock ticks.
    pub fn stime_ticks(&self) -> u64 {
        self.stime_ns / (1_000_000_000 / USER_HZ)
    }

    /// As `struct rusage`.
    pub fn to_rusage(&self) -> RUsage {
        let split = |ns: u64| ((ns / 1_000_000_000) as i64, (ns / 1000 % 1_000_000) as i64);
        let ((utime_sec, utime_usec), (stime_sec, stime_usec)) =
            (split(self.utime_ns), split(self.stime_ns));
        RUsage {
            utime_sec,
            utime_usec,
            stime_sec,
            stime_usec,
            maxrss: self.max_rss_kib as i64,
            minflt: self.minor_faults as i64,
            majflt: self.major_faults as i64,
            inblock: self.blocks_read as i64,
            oublock: self.blocks_written as i64,
            nvcsw: self.voluntary_switches as i64,
            nivcsw: self.involuntary_switches as i64,
            ..RUsage::default()
        }
    }
}
