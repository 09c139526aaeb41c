//! `/proc/sys/net/ipv4` and `ipv6`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use abi::{Errno, Result};
use pseudo::{Node, Tree};
use socket::NetNamespace;
use socket::trees::{self, SYS_NET};

use crate::stack::{Inet, Knobs, knob};

fn knobs(namespace: &NetNamespace) -> Result<Arc<Inet>> {
    Inet::of(namespace).ok_or(Errno::ENOMEM)
}

fn put(out: &mut Vec<u8>, numbers: &[i64]) {
    let mut text = alloc::string::String::new();
    for (index, number) in numbers.iter().enumerate() {
        let _ = write!(text, "{}{number}", if index > 0 { "\t" } else { "" });
    }
    text.push('\n');
    out.extend_from_slice(text.as_bytes());
}

fn numbers(bytes: &[u8]) -> Result<Vec<i64>> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    text.split_whitespace().map(|word| word.parse().map_err(|_| Errno::EINVAL)).collect()
}

fn store_one(word: &AtomicI32, bytes: &[u8]) -> Result<()> {
    let first = numbers(bytes)?.first().copied().ok_or(Errno::EINVAL)?;
    word.store(i32::try_from(first).map_err(|_| Errno::EINVAL)?, Ordering::Relaxed);
    Ok(())
}

fn store_three(words: &[AtomicI32; 3], bytes: &[u8]) -> Result<()> {
    for (word, number) in words.iter().zip(numbers(bytes)?) {
        word.store(i32::try_from(number).map_err(|_| Errno::EINVAL)?, Ordering::Relaxed);
    }
    Ok(())
}

fn store_range(range: &(AtomicU32, AtomicU32), bytes: &[u8], least: i64, most: i64) -> Result<()> {
    let [low, high] = numbers(bytes)?.try_into().map_err(|_| Errno::EINVAL)?;
    if low < least || high > most || low > high {
        return Err(Errno::EINVAL);
    }
    range.0.store(low as u32, Ordering::Relaxed);
    range.1.store(high as u32, Ordering::Relaxed);
    Ok(())
}

macro_rules! one {
    ($tree:expr, $namespace:expr, $($name:literal => $field:ident),* $(,)?) => {
        $tree$(.with($name, trees::knob(
            $namespace,
            |namespace, out| {
                put(out, &[i64::from(knob(&knobs(namespace)?.knobs.$field))]);
                Ok(())
            },
            |namespace, bytes| store_one(&knobs(namespace)?.knobs.$field, bytes),
        )))*
    };
}

macro_rules! three {
    ($tree:expr, $namespace:expr, $($name:literal => $field:ident),* $(,)?) => {
        $tree$(.with($name, trees::knob(
            $namespace,
            |namespace, out| {
                let inet = knobs(namespace)?;
                let all = inet.knobs.$field.each_ref().map(|word| i64::from(knob(word)));
                put(out, &all);
                Ok(())
            },
            |namespace, bytes| store_three(&knobs(namespace)?.knobs.$field, bytes),
        )))*
    };
}

macro_rules! range {
    ($tree:expr, $namespace:expr, $($name:literal => $field:ident, $least:expr, $most:expr),* $(,)?) => {
        $tree$(.with($name, trees::knob(
            $namespace,
            |namespace, out| {
                let inet = knobs(namespace)?;
                let Knobs { $field: (low, high), .. } = &inet.knobs;
                let get = |word: &AtomicU32| i64::from(word.load(Ordering::Relaxed));
                put(out, &[get(low), get(high)]);
                Ok(())
            },
            |namespace, bytes| store_range(&knobs(namespace)?.knobs.$field, bytes, $least, $most),
        )))*
    };
}

fn ipv4(namespace: &Arc<NetNamespace>) -> Node {
    let tree = one!(
        Tree::new(), namespace,
        "icmp_echo_ignore_all" => icmp_echo_ignore_all,
        "ip_default_ttl" => ip_default_ttl,
        "ip_forward" => ip_forward,
        "ip_nonlocal_bind" => ip_nonlocal_bind,
        "ip_unprivileged_port_start" => ip_unprivileged_port_start,
        "tcp_abort_on_overflow" => tcp_abort_on_overflow,
        "tcp_fastopen" => tcp_fastopen,
        "tcp_fin_timeout" => tcp_fin_timeout_s,
        "tcp_init_cwnd" => tcp_init_cwnd,
        "tcp_keepalive_intvl" => tcp_keepalive_intvl_s,
        "tcp_keepalive_probes" => tcp_keepalive_probes,
        "tcp_keepalive_time" => tcp_keepalive_time_s,
        "tcp_loss_init_cwnd" => tcp_loss_init_cwnd,
        "tcp_max_syn_backlog" => tcp_max_syn_backlog,
        "tcp_max_tw_buckets" => tcp_max_tw_buckets,
        "tcp_no_delay_ack" => tcp_no_delay_ack,
        "tcp_retries1" => tcp_retries1,
        "tcp_retries2" => tcp_retries2,
        "tcp_rto_max" => tcp_rto_max_ms,
        "tcp_rto_min" => tcp_rto_min_ms,
        "tcp_sack" => tcp_sack,
        "tcp_syn_retries" => tcp_syn_retries,
        "tcp_synack_retries" => tcp_synack_retries,
        "tcp_syncookies" => tcp_syncookies,
        "tcp_timestamps" => tcp_timestamps,
        "tcp_tw_reuse" => tcp_tw_reuse,
        "tcp_window_scaling" => tcp_window_scaling,
    );
    let tree = three!(tree, namespace, "tcp_rmem" => tcp_rmem, "tcp_wmem" => tcp_wmem);
    let tree = range!(
        tree, namespace,
        "ip_local_port_range" => ip_local_port_range, 1, 65535,
        "ping_group_range" => ping_group_range, 0, i64::from(u32::MAX - 1),
    );
    tree.into_node()
}

fn ipv6(namespace: &Arc<NetNamespace>) -> Node {
    one!(Tree::new(), namespace, "bindv6only" => bindv6only).into_node()
}

/// Makes the directories known.
pub(crate) fn init() {
    SYS_NET.register("ipv4", ipv4);
    SYS_NET.register("ipv6", ipv6);
}
