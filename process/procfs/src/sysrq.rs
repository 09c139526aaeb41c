//! Magic system requests: `/proc/sysrq-trigger` and `kernel.sysrq`.

use crate::sysctl::parse_int;
use abi::Errno;
use platform::sysrq;
use pseudo::{Node, knob};

/// `/proc/sysrq-trigger`, proc(5): the first byte written is the key; `kernel.sysrq` is not asked.
pub(crate) fn trigger() -> Node {
    let node = knob(
        |_| Err(Errno::EIO),
        |bytes| {
            if let Some(&key) = bytes.first() {
                sysrq::trigger(key);
            }
            Ok(())
        },
    );
    Node { mode: 0o200, ..node }
}

/// `kernel.sysrq`: what the keyboard may ask for; 1 is everything, else a mask.
pub(crate) fn allowed() -> Node {
    knob(
        |out| {
            put!(out, "{}\n", sysrq::allowed());
            Ok(())
        },
        |bytes| {
            let value = parse_int(bytes)?;
            sysrq::set_allowed(i32::try_from(value).map_err(|_| Errno::EINVAL)?);
            Ok(())
        },
    )
}
