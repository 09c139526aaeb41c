//! Dates of directory records: two words of local time, and hundredths of a second for births
//! (FAT specification 1.03, "Date and Time Formats").

use vfs::Time;

const DAY: i64 = 86_400;
/// 1980-01-01 and 2107-12-31, in days since 1970.
const FIRST_DAY: i64 = 3_652;
const LAST_DAY: i64 = 50_402;

/// A date, a time of day and, between its two seconds, hundredths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stamp {
    pub(crate) date: u16,
    pub(crate) time: u16,
    pub(crate) centis: u8,
}

/// The time zone of the stamps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Zone {
    /// Minutes that local time is ahead of UTC.
    pub(crate) offset_min: i32,
}

/// Days since 1970 of a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // March is the first month: the day that comes and goes is the last of the year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of days since 1970.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    (year + era * 400, month, day)
}

impl Zone {
    fn offset(self) -> i64 {
        i64::from(self.offset_min) * 60
    }

    /// The time of a stamp.
    pub(crate) fn read(self, stamp: Stamp) -> Time {
        let (date, time) = (i64::from(stamp.date), i64::from(stamp.time));
        // A month or a day of 0 is the first.
        let day = days(1980 + (date >> 9), (date >> 5 & 15).max(1), (date & 31).max(1));
        let of_day = (time >> 11) * 3600 + (time >> 5 & 63) * 60 + (time & 31) * 2;
        let centis = u32::from(stamp.centis);
        let seconds = day * DAY + of_day + i64::from(centis / 100) - self.offset();
        Time::new(seconds, centis % 100 * 10_000_000)
    }

    /// The stamp of a time, which is the nearest there is.
    pub(crate) fn write(self, time: Time) -> Stamp {
        let local = time.sec.saturating_add(self.offset());
        let day = local.div_euclid(DAY);
        if day < FIRST_DAY {
            return Stamp { date: 1 << 5 | 1, time: 0, centis: 0 };
        }
        if day > LAST_DAY {
            return Stamp {
                date: 127 << 9 | 12 << 5 | 31,
                time: 23 << 11 | 59 << 5 | 29,
                centis: 199,
            };
        }
        let (year, month, of_month) = date(day);
        let of_day = local.rem_euclid(DAY);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        Stamp {
            date: ((year - 1980) << 9 | month << 5 | of_month) as u16,
            time: (hour << 11 | minute << 5 | (second / 2)) as u16,
            centis: ((second & 1) as u32 * 100 + time.nsec / 10_000_000) as u8,
        }
    }

    /// A time of contents as it is kept: to two seconds.
    pub(crate) fn modified(self, time: Time) -> Time {
        self.read(Stamp { centis: 0, ..self.write(time) })
    }

    /// A time of access as it is kept: to the day.
    pub(crate) fn accessed(self, time: Time) -> Time {
        self.read(Stamp { centis: 0, time: 0, ..self.write(time) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_as_they_are_kept() {
        let zone = Zone { offset_min: 0 };
        let time = Time::new(1_700_000_001, 987_654_321);
        assert_eq!(zone.read(zone.write(time)), Time::new(1_700_000_001, 980_000_000));
        assert_eq!(zone.modified(time), Time::new(1_700_000_000, 0));
        assert_eq!(zone.accessed(time), Time::new(1_700_000_000 / DAY * DAY, 0));
        for day in FIRST_DAY..=LAST_DAY {
            let noon = Time::new(day * DAY + 43_200, 0);
            assert_eq!(zone.modified(noon), noon);
        }
        assert_eq!(zone.modified(Time::new(0, 0)), Time::new(315_532_800, 0));
        assert_eq!(zone.modified(Time::new(1 << 40, 0)), Time::new(4_354_819_198, 0));
    }

    #[test]
    fn local_time_is_ahead_or_behind() {
        let stamp = Stamp { date: 40 << 9 | 6 << 5 | 1, time: 12 << 11, centis: 0 };
        let utc = Zone { offset_min: 0 }.read(stamp);
        for offset_min in [-720, -90, 60, 720] {
            let zone = Zone { offset_min };
            assert_eq!(zone.read(stamp).sec, utc.sec - i64::from(offset_min) * 60);
            assert_eq!(zone.write(zone.read(stamp)), stamp);
        }
    }
}
