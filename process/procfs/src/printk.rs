//! Knobs of the kernel log in `/proc/sys/kernel`. proc(5), syslog(2).

use crate::sysctl::parse_int;
use abi::{Errno, Result};
use alloc::vec::Vec;
use klog::DevKmsg;
use pseudo::{Node, knob};

/// `printk`: the levels of the log. As many are set as are written.
pub(crate) fn levels() -> Node {
    knob(
        |out| {
            let [now, default, least, first] = klog::levels();
            put!(out, "{now}\t{default}\t{least}\t{first}\n");
            Ok(())
        },
        set_levels,
    )
}

fn set_levels(bytes: &[u8]) -> Result<()> {
    let words = bytes.split(|byte| byte.is_ascii_whitespace() || *byte == 0);
    let values = words.filter(|word| !word.is_empty()).take(4).map(|word| {
        parse_int(word).and_then(|value| i32::try_from(value).map_err(|_| Errno::EINVAL))
    });
    klog::set_levels(&values.collect::<Result<Vec<i32>>>()?);
    Ok(())
}

/// `printk_devkmsg`: how much of what programs write to `/dev/kmsg` is logged.
pub(crate) fn writers() -> Node {
    knob(
        |out| {
            put!(out, "{}\n", klog::dev_kmsg().name());
            Ok(())
        },
        |bytes| {
            let name = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
            let policy = DevKmsg::from_name(name.trim_end_matches('\n')).ok_or(Errno::EINVAL)?;
            klog::set_dev_kmsg(policy)
        },
    )
}
