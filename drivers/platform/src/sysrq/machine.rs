//! Keys for the machine as a whole: disks, power, the log, timers.

use super::{Action, Name, When, mask, register};
use crate::power;

/// Registers b c o q s u and 0 to 9.
pub(super) fn init() {
    let action = |help, message, mask, when, run| Action { help, message, mask, when, run };
    let boot = mask::BOOT;
    register(
        b'b',
        action("reboot(b)", "Resetting", boot, When::AtOnce, |_| power::reset_at_once()),
    );
    // In a thread of its own, for devices are brought to rest.
    register(
        b'o',
        action("poweroff(o)", "Power Off", boot, When::AtOnce, |_| {
            sched::work::queue(power::power_off);
        }),
    );
    register(
        b's',
        action("sync(s)", "Emergency Sync", mask::SYNC, When::Disks, |_| {
            vfs::sync_all();
            log::info!("Emergency Sync complete");
        }),
    );
    register(
        b'u',
        action("unmount(u)", "Emergency Remount R/O", mask::REMOUNT, When::Disks, |_| {
            vfs::mount::make_all_read_only();
            log::info!("Emergency Remount complete");
        }),
    );
    register(
        b'c',
        action("crash(c)", "Trigger a crash", mask::DUMP, When::AtOnce, |_| {
            panic!("sysrq triggered crash")
        }),
    );
    let timers = "Show clockevent devices & pending hrtimers (no others)";
    register(b'q', action("show-all-timers(q)", timers, mask::DUMP, When::Soon, |_| show_timers()));
    for key in b'0'..=b'9' {
        let level = action("loglevel(0-9)", "Changing Loglevel", mask::LOG, When::AtOnce, |key| {
            let level = i32::from(key) - i32::from(b'0');
            klog::set_console_level(level);
            log::info!("sysrq: Loglevel set to {level}");
        });
        register(key, level);
    }
}

fn show_timers() {
    let now = arch::time::now_ns();
    log::info!("Timer List Version: v0.9");
    log::info!("now at {now} nsecs");
    for cpu in arch::cpu::online().iter() {
        let timers = sched::timer::pending(cpu);
        log::info!("cpu: {}", cpu.index());
        log::info!(" active timers:");
        for (index, timer) in timers.iter().enumerate() {
            let left = i128::from(timer.at_ns) - i128::from(now);
            match &timer.wakes {
                Some(thread) => {
                    let (name, number) = (thread.name(), thread.number());
                    log::info!(" #{index}: wakes {} ({number})", Name(&name));
                }
                None => log::info!(" #{index}: calls a function"),
            }
            log::info!(" # expires at {} nsecs [in {left} nsecs]", timer.at_ns);
        }
        match sched::timer::armed(cpu) {
            Some(at) => log::info!("  .expires_next   : {at} nsecs"),
            None => log::info!("  .expires_next   : never"),
        }
    }
}
