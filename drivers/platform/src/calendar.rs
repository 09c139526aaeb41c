//! Dates and seconds since 1970, in the Gregorian calendar.

/// A date and time of day, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// Year, `1970` for example.
    pub year: i32,
    /// Month, from 1.
    pub month: u32,
    /// Day of the month, from 1.
    pub day: u32,
    /// Hour.
    pub hour: u32,
    /// Minute.
    pub minute: u32,
    /// Second.
    pub second: u32,
}

/// Days from 1970-01-01 to a date; years start in March for this, so that the leap day is last.
fn days(year: i32, month: u32, day: u32) -> i64 {
    let shifted = i64::from(year) - i64::from(month <= 2);
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

impl DateTime {
    /// Whether every field is in its range.
    pub fn is_valid(&self) -> bool {
        let long = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let Some(last) = self.month.checked_sub(1).and_then(|m| long.get(m as usize)) else {
            return false;
        };
        let is_leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let last = if self.month == 2 && !is_leap { 28 } else { *last };
        (1..=last).contains(&self.day)
            && (1970..=9999).contains(&self.year)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60
    }

    /// Seconds since 1970-01-01 00:00 UTC.
    pub fn to_seconds(&self) -> i64 {
        let seconds = i64::from(self.hour * 3600 + self.minute * 60 + self.second);
        days(self.year, self.month, self.day) * 86_400 + seconds
    }

    /// The date that many seconds after 1970-01-01 00:00 UTC.
    pub fn from_seconds(seconds: i64) -> Self {
        let of_day = seconds.rem_euclid(86_400) as u32;
        let z = seconds.div_euclid(86_400) + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
        let month = ((month_from_march + 2) % 12 + 1) as u32;
        let year = (year_of_era + era * 400) as i32 + i32::from(month <= 2);
        Self {
            year,
            month,
            day,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }

    /// Day of the week (0 is Sunday) and of the year (from 0).
    pub fn weekday_and_yearday(&self) -> (u32, u32) {
        let day = days(self.year, self.month, self.day);
        let yearday = day - days(self.year, 1, 1);
        ((day + 4).rem_euclid(7) as u32, yearday as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_round_trip() {
        for seconds in (0..4_000_000_000i64).step_by(86_399 * 11) {
            let date = DateTime::from_seconds(seconds);
            assert!(date.is_valid(), "{date:?}");
            assert_eq!(date.to_seconds(), seconds);
        }
        let leap = DateTime::from_seconds(951_782_400);
        assert_eq!((leap.year, leap.month, leap.day), (2000, 2, 29));
        assert_eq!(leap.weekday_and_yearday(), (2, 59));
    }
}
