//! The CMOS clock: Motorola MC146818A data sheet; rtc(4).

use alloc::sync::Arc;
use core::any::Any;

use abi::{Errno, Result};
use arch::irq::{Trigger, request_gsi};
use arch::lock::{IrqLock, LockClass};
use arch::uio::Sink;
use arch::{VirtAddr, user};
use hw::PortRange;
use sched::WaitQueue;
use spin::Once;
use vfs::dev::{DeviceNode, DeviceOpen, Opened};
use vfs::poll::{POLLIN, POLLRDNORM, PollTable};
use vfs::{Cap, Context, DeviceNumber, File, FileKind, FileMode, FileOps, Inode};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::calendar::DateTime;

static RTC: LockClass = LockClass::new("platform.rtc", 590);

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const A: u8 = 0x0a;
const B: u8 = 0x0b;
const C: u8 = 0x0c;
const CENTURY: u8 = 0x32;

const A_UPDATING: u8 = 0x80;
const B_HOLD: u8 = 0x80;
const B_PERIODIC: u8 = 0x40;
const B_ALARM: u8 = 0x20;
const B_UPDATE: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;

/// `struct rtc_time`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RtcTime {
    second: i32,
    minute: i32,
    hour: i32,
    day: i32,
    month: i32,
    year: i32,
    weekday: i32,
    yearday: i32,
    is_dst: i32,
}

/// `struct rtc_wkalrm`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct WakeAlarm {
    enabled: u8,
    pending: u8,
    padding: [u8; 2],
    time: RtcTime,
}

mod request {
    pub(super) const ALARM_ON: u32 = 0x7001;
    pub(super) const ALARM_OFF: u32 = 0x7002;
    pub(super) const UPDATE_ON: u32 = 0x7003;
    pub(super) const UPDATE_OFF: u32 = 0x7004;
    pub(super) const PERIODIC_ON: u32 = 0x7005;
    pub(super) const PERIODIC_OFF: u32 = 0x7006;
    pub(super) const ALARM_SET: u32 = 0x4024_7007;
    pub(super) const ALARM_READ: u32 = 0x8024_7008;
    pub(super) const READ_TIME: u32 = 0x8024_7009;
    pub(super) const SET_TIME: u32 = 0x4024_700a;
    pub(super) const RATE_READ: u32 = 0x8008_700b;
    pub(super) const RATE_SET: u32 = 0x4008_700c;
    pub(super) const WAKE_SET: u32 = 0x4028_700f;
    pub(super) const WAKE_READ: u32 = 0x8028_7010;
}

struct State {
    ports: PortRange,
    is_open: bool,
    /// Interrupts since the last read, and which kinds they were.
    count: u64,
    kinds: u8,
}

struct Clock {
    state: IrqLock<State>,
    queue: Arc<WaitQueue>,
}

static CLOCK: Once<Arc<Clock>> = Once::new();

impl State {
    fn get(&self, register: u8) -> u8 {
        self.ports.write8(0, register);
        self.ports.read8(1)
    }

    fn set(&self, register: u8, value: u8) {
        self.ports.write8(0, register);
        self.ports.write8(1, value);
    }

    fn is_binary(&self) -> bool {
        self.get(B) & B_BINARY != 0
    }

    fn decode(&self, value: u8) -> u32 {
        let value = u32::from(value);
        if self.is_binary() { value } else { (value >> 4) * 10 + (value & 15) }
    }

    fn encode(&self, value: u32) -> u8 {
        let value = value as u8;
        if self.is_binary() { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn decode_hour(&self, value: u8) -> u32 {
        if self.get(B) & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let hour = self.decode(value & 0x7f) % 12;
        if value & 0x80 != 0 { hour + 12 } else { hour }
    }

    fn encode_hour(&self, hour: u32) -> u8 {
        if self.get(B) & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let afternoon = if hour >= 12 { 0x80 } else { 0 };
        let hour = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(hour) | afternoon
    }

    fn raw(&self) -> [u8; 7] {
        [SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR, CENTURY].map(|register| self.get(register))
    }

    /// Reads until two readings agree outside of an update.
    fn read(&self) -> Option<DateTime> {
        let mut before = self.raw();
        for _ in 0..1000 {
            if self.get(A) & A_UPDATING != 0 {
                core::hint::spin_loop();
                continue;
            }
            let now = self.raw();
            if now == before {
                return self.interpret(now);
            }
            before = now;
        }
        None
    }

    fn interpret(&self, raw: [u8; 7]) -> Option<DateTime> {
        let [second, minute, hour, day, month, year, century] = raw;
        let year = self.decode(year) as i32;
        // Not every machine has the register.
        let century = match self.decode(century) as i32 {
            century @ 19..=29 => century,
            _ if year < 70 => 20,
            _ => 19,
        };
        let date = DateTime {
            year: century * 100 + year,
            month: self.decode(month),
            day: self.decode(day),
            hour: self.decode_hour(hour),
            minute: self.decode(minute),
            second: self.decode(second),
        };
        date.is_valid().then_some(date)
    }

    fn write(&self, date: &DateTime) {
        let b = self.get(B);
        self.set(B, b | B_HOLD);
        let (weekday, _) = date.weekday_and_yearday();
        let fields = [
            (SECONDS, self.encode(date.second)),
            (MINUTES, self.encode(date.minute)),
            (HOURS, self.encode_hour(date.hour)),
            (WEEKDAY, self.encode(weekday + 1)),
            (DAY, self.encode(date.day)),
            (MONTH, self.encode(date.month)),
            (YEAR, self.encode((date.year % 100) as u32)),
            (CENTURY, self.encode((date.year / 100) as u32)),
        ];
        for (register, value) in fields {
            self.set(register, value);
        }
        self.set(B, b & !B_HOLD);
    }

    fn change_b(&self, set: u8, clear: u8) {
        let b = self.get(B);
        self.set(B, b & !clear | set);
        // Reading it drops what is pending.
        self.get(C);
    }
}

impl Clock {
    fn interrupt(&self) {
        {
            let mut state = self.state.lock();
            let kinds = state.get(C) & 0xf0;
            if kinds & 0x80 == 0 {
                return;
            }
            state.count = state.count.wrapping_add(1);
            state.kinds |= kinds;
        }
        self.queue.notify(POLLIN | POLLRDNORM);
    }

    fn take(&self) -> Option<u64> {
        let mut state = self.state.lock();
        if state.count == 0 {
            return None;
        }
        let value = core::mem::take(&mut state.count) << 8 | u64::from(state.kinds);
        state.kinds = 0;
        Some(value)
    }

    fn time(&self) -> Result<RtcTime> {
        let date = self.state.lock().read().ok_or(Errno::EINVAL)?;
        let (weekday, yearday) = date.weekday_and_yearday();
        Ok(RtcTime {
            second: date.second as i32,
            minute: date.minute as i32,
            hour: date.hour as i32,
            day: date.day as i32,
            month: date.month as i32 - 1,
            year: date.year - 1900,
            weekday: weekday as i32,
            yearday: yearday as i32,
            is_dst: 0,
        })
    }

    fn alarm(&self) -> RtcTime {
        let state = self.state.lock();
        RtcTime {
            second: state.decode(state.get(SECONDS_ALARM)) as i32,
            minute: state.decode(state.get(MINUTES_ALARM)) as i32,
            hour: state.decode_hour(state.get(HOURS_ALARM)) as i32,
            day: -1,
            month: -1,
            year: -1,
            weekday: -1,
            yearday: -1,
            is_dst: -1,
        }
    }

    fn set_alarm(&self, time: &RtcTime, is_enabled: bool) -> Result<()> {
        let field = |value: i32, limit: i32| {
            if (0..limit).contains(&value) { Ok(value as u32) } else { Err(Errno::EINVAL) }
        };
        let (hour, minute) = (field(time.hour, 24)?, field(time.minute, 60)?);
        let second = field(time.second, 60)?;
        let state = self.state.lock();
        state.change_b(0, B_ALARM);
        state.set(HOURS_ALARM, state.encode_hour(hour));
        state.set(MINUTES_ALARM, state.encode(minute));
        state.set(SECONDS_ALARM, state.encode(second));
        if is_enabled {
            state.change_b(B_ALARM, 0);
        }
        Ok(())
    }

    /// The periodic rate in hertz: 32768 >> (code - 1).
    fn rate(&self) -> u64 {
        match self.state.lock().get(A) & 15 {
            0 => 0,
            code => 32_768 >> (code - 1),
        }
    }

    fn set_rate(&self, rate: u64) -> Result<()> {
        if !rate.is_power_of_two() || !(2..=8192).contains(&rate) {
            return Err(Errno::EINVAL);
        }
        let state = self.state.lock();
        let a = state.get(A);
        state.set(A, a & 0x70 | (16 - rate.ilog2()) as u8);
        Ok(())
    }

    fn set_time(&self, time: &RtcTime) -> Result<()> {
        let date = DateTime {
            year: time.year.checked_add(1900).ok_or(Errno::EINVAL)?,
            month: u32::try_from(time.month).map_err(|_| Errno::EINVAL)?.saturating_add(1),
            day: u32::try_from(time.day).map_err(|_| Errno::EINVAL)?,
            hour: u32::try_from(time.hour).map_err(|_| Errno::EINVAL)?,
            minute: u32::try_from(time.minute).map_err(|_| Errno::EINVAL)?,
            second: u32::try_from(time.second).map_err(|_| Errno::EINVAL)?,
        };
        if !date.is_valid() {
            return Err(Errno::EINVAL);
        }
        self.state.lock().write(&date);
        Ok(())
    }

    fn ioctl(&self, ctx: &Context<'_>, cmd: u32, at: VirtAddr) -> Result<usize> {
        let fault = |_| Errno::EFAULT;
        let may_set = || {
            if ctx.creds.effective.has(Cap::SYS_TIME) { Ok(()) } else { Err(Errno::EACCES) }
        };
        let change = |set, clear| self.state.lock().change_b(set, clear);
        match cmd {
            request::READ_TIME => user::write_val(at, &self.time()?).map_err(fault)?,
            request::SET_TIME => {
                may_set()?;
                self.set_time(&user::read_val(at).map_err(fault)?)?;
            }
            request::ALARM_READ => user::write_val(at, &self.alarm()).map_err(fault)?,
            request::ALARM_SET => self.set_alarm(&user::read_val(at).map_err(fault)?, false)?,
            request::WAKE_READ => {
                let enabled = u8::from(self.state.lock().get(B) & B_ALARM != 0);
                let time = self.alarm();
                let alarm = WakeAlarm { enabled, time, ..WakeAlarm::default() };
                user::write_val(at, &alarm).map_err(fault)?;
            }
            request::WAKE_SET => {
                let alarm: WakeAlarm = user::read_val(at).map_err(fault)?;
                self.set_alarm(&alarm.time, alarm.enabled != 0)?;
            }
            request::ALARM_ON => change(B_ALARM, 0),
            request::ALARM_OFF => change(0, B_ALARM),
            request::UPDATE_ON => change(B_UPDATE, 0),
            request::UPDATE_OFF => change(0, B_UPDATE),
            request::PERIODIC_ON => change(B_PERIODIC, 0),
            request::PERIODIC_OFF => change(0, B_PERIODIC),
            request::RATE_READ => user::write_val(at, &self.rate()).map_err(fault)?,
            request::RATE_SET => self.set_rate(at.0)?,
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }
}

struct Opener;

impl DeviceOpen for Opener {
    fn open(&self, _: DeviceNumber, _: &Arc<Inode>, _: u32, _: &Context<'_>) -> Result<Opened> {
        let clock = CLOCK.get().ok_or(Errno::ENODEV)?;
        {
            let mut state = clock.state.lock();
            if core::mem::replace(&mut state.is_open, true) {
                return Err(Errno::EBUSY);
            }
            state.count = 0;
        }
        Ok(Opened { ops: Arc::new(OpenClock(clock.clone())), mode: FileMode::empty() })
    }
}

/// The open file; there is one at a time.
struct OpenClock(Arc<Clock>);

impl Drop for OpenClock {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.change_b(0, B_UPDATE | B_PERIODIC);
        state.is_open = false;
    }
}

impl FileOps for OpenClock {
    fn read_at(&self, file: &File, _: u64, sink: &mut Sink<'_>) -> Result<usize> {
        if sink.remaining() < 4 {
            return Err(Errno::EINVAL);
        }
        let value = match self.0.take() {
            Some(value) => value,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => self
                .0
                .queue
                .wait_interruptible(|| self.0.take(), None)
                .map_err(|_| Errno::ERESTARTSYS)?,
        };
        let bytes = value.to_ne_bytes();
        let n = if sink.remaining() < 8 { 4 } else { 8 };
        sink.put_all(bytes.get(..n).unwrap_or(&bytes)).map_err(|_| Errno::EFAULT)?;
        Ok(n)
    }

    fn seek(&self, _: &File, _: u64, _: i64, _: u32) -> Result<u64> {
        Err(Errno::ESPIPE)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable<'_>>) -> u32 {
        vfs::poll_wait(table, &self.0.queue);
        if self.0.state.lock().count > 0 { POLLIN | POLLRDNORM } else { 0 }
    }

    fn ioctl(&self, _: &Arc<File>, ctx: &Context<'_>, cmd: u32, arg: usize) -> Result<usize> {
        self.0.ioctl(ctx, cmd, VirtAddr(arg as u64))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The clock's time in seconds since 1970, if there is a clock.
pub fn now() -> Option<i64> {
    Some(CLOCK.get()?.state.lock().read()?.to_seconds())
}

/// Finds the clock and offers `/dev/rtc0`. The time of day has been set by it already, when the
/// scheduler's clocks started.
///
/// # Errors
/// `EBUSY` when somebody else has its ports or its number, `ENODEV` when it tells nonsense.
pub fn init() -> Result<()> {
    let ports = PortRange::claim("rtc0", 0x70, 2)?;
    let state = State { ports, is_open: false, count: 0, kinds: 0 };
    let date = state.read().ok_or(Errno::ENODEV)?;
    let clock =
        Arc::new(Clock { state: IrqLock::new(&RTC, state), queue: Arc::new(WaitQueue::new()) });
    CLOCK.call_once(|| clock.clone());
    let seconds = date.to_seconds();
    log::info!(
        "rtc_cmos: the time is {}-{:02}-{:02}T{:02}:{:02}:{:02} UTC ({seconds})",
        date.year,
        date.month,
        date.day,
        date.hour,
        date.minute,
        date.second
    );
    let handler = Arc::new(move || clock.interrupt());
    if let Err(error) = request_gsi(8, Trigger::Firmware, "rtc0", handler) {
        log::warn!("rtc_cmos: no interrupt: {error:?}");
    }
    let dev = DeviceNumber::new(vfs::dev::dynamic_major(), 0);
    vfs::dev::register_char(dev, 1, "rtc", Arc::new(Opener))?;
    vfs::dev::add_node(DeviceNode {
        name: "rtc0".into(),
        kind: FileKind::CharDevice,
        dev,
        mode: 0o600,
        class: "rtc",
        attributes: alloc::vec::Vec::new(),
    });
    Ok(())
}
