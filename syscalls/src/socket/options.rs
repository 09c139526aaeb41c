//! `setsockopt(2)` and `getsockopt(2)`.

use super::{Open, with_call};
use crate::Cx;
use abi::socket::{SO_ATTACH_FILTER, SOL_SOCKET};
use abi::{Errno, Result};
use arch::VirtAddr;
use arch::uio::{Sink, Source};
use arch::user;
use socket::{OptionIn, OptionOut};

/// `setsockopt(2)`.
pub(super) fn sys_setsockopt(
    cx: &mut Cx<'_>,
    fd: i32,
    level: i32,
    name: i32,
    value: VirtAddr,
    len: i32,
) -> Result<usize> {
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    let open = Open::new(cx, fd)?;
    let mut value = OptionIn::new(Source::user(value, len), len);
    with_call(cx, |call| {
        let socket = open.socket()?;
        if level == SOL_SOCKET {
            socket.set_socket_option(call, name, &mut value)
        } else {
            socket.set_option(call, level, name, &mut value)
        }
    })?;
    Ok(0)
}

/// `getsockopt(2)`.
pub(super) fn sys_getsockopt(
    cx: &mut Cx<'_>,
    fd: i32,
    level: i32,
    name: i32,
    value: VirtAddr,
    len_at: VirtAddr,
) -> Result<usize> {
    let open = Open::new(cx, fd)?;
    let len: i32 = user::read_val(len_at)?;
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    // `SO_GET_FILTER` counts instructions of eight bytes.
    let is_filter = level == SOL_SOCKET && name == SO_ATTACH_FILTER;
    let reach = if is_filter { len.saturating_mul(8) } else { len };
    let mut out =
        OptionOut::new(Sink::user(value, reach), len).with_input(Source::user(value, len));
    let outcome = with_call(cx, |call| {
        let socket = open.socket()?;
        if level == SOL_SOCKET {
            socket.get_socket_option(call, name, &mut out)
        } else {
            socket.get_option(call, level, name, &mut out)
        }
    });
    // `SO_PEERGROUPS` tells with its error how much room it wants.
    if outcome.is_ok() || outcome == Err(Errno::ERANGE) {
        user::write_val(len_at, &(out.len() as i32))?;
    }
    outcome.map(|()| 0)
}
