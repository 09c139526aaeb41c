//! Clocks, sleeps, interval and POSIX timers.

crate::syscalls! {}

/// Reads a `struct timespec` in nanoseconds; `None` for a null pointer (no limit).
pub(crate) fn read_timeout(at: arch::VirtAddr) -> abi::Result<Option<u64>> {
    if at.is_null() {
        return Ok(None);
    }
    let [sec, nsec]: [i64; 2] = arch::user::read_val(at)?;
    if sec < 0 || !(0..1_000_000_000).contains(&nsec) {
        return Err(abi::Errno::EINVAL);
    }
    Ok(Some((sec as u64).saturating_mul(1_000_000_000).saturating_add(nsec as u64)))
}
