//! Numbers and words as text: what `core::fmt` does for a few hundred instructions a number is done
//! here for a few tens. Generated files are mostly numbers, and programs like `ps` read thousands.

use alloc::vec::Vec;

/// A whole number that can be written.
pub trait Number: Copy {
    /// Whether it is below zero, and how far from it.
    fn parts(self) -> (bool, u64);
}

macro_rules! numbers {
    ($($unsigned:ty),*; $($signed:ty),*) => {
        $(impl Number for $unsigned {
            #[inline(always)]
            fn parts(self) -> (bool, u64) {
                (false, self as u64)
            }
        })*
        $(impl Number for $signed {
            #[inline(always)]
            fn parts(self) -> (bool, u64) {
                (self < 0, self.unsigned_abs() as u64)
            }
        })*
    };
}

numbers!(u8, u16, u32, u64, usize; i32, i64);

/// Places for the digits of any number, its sign, and blanks before it.
const PLACES: usize = 40;

/// Two digits for each number below a hundred.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// Writes a number so that it ends with the places; where it starts.
#[inline]
fn write_decimal(places: &mut [u8; PLACES], number: impl Number) -> usize {
    let (is_negative, mut left) = number.parts();
    let mut start = PLACES;
    let mut put = |digit: u8| {
        // Twenty digits and a sign at most.
        start -= 1;
        if let Some(place) = places.get_mut(start) {
            *place = digit;
        }
    };
    while left >= 100 {
        let [tens, ones] = PAIRS[(left % 100) as usize];
        left /= 100;
        put(ones);
        put(tens);
    }
    let [tens, ones] = PAIRS[left as usize % 100];
    put(ones);
    if left >= 10 {
        put(tens);
    }
    if is_negative {
        put(b'-');
    }
    start
}

/// Appends text.
pub trait Put {
    /// Words.
    fn text(&mut self, text: &str) -> &mut Self;
    /// A number in decimal digits.
    fn dec(&mut self, number: impl Number) -> &mut Self;
    /// A number in decimal digits behind as many blanks as make it `width` bytes (40 at most).
    fn dec_in(&mut self, number: impl Number, width: usize) -> &mut Self;
    /// A blank and a number in decimal digits.
    fn next_dec(&mut self, number: impl Number) -> &mut Self;
    /// A number in hexadecimal digits, at least so many.
    fn hex(&mut self, number: impl Number, digits: usize) -> &mut Self;
}

impl Put for Vec<u8> {
    #[inline]
    fn text(&mut self, text: &str) -> &mut Self {
        self.extend_from_slice(text.as_bytes());
        self
    }

    fn dec(&mut self, number: impl Number) -> &mut Self {
        self.dec_in(number, 0)
    }

    fn dec_in(&mut self, number: impl Number, width: usize) -> &mut Self {
        let mut places = [b' '; PLACES];
        let start = write_decimal(&mut places, number).min(PLACES.saturating_sub(width));
        self.extend_from_slice(places.get(start..).unwrap_or_default());
        self
    }

    fn next_dec(&mut self, number: impl Number) -> &mut Self {
        if let (false, digit @ 0..10) = number.parts() {
            self.extend_from_slice(&[b' ', b'0' + digit as u8]);
            return self;
        }
        let mut places = [b' '; PLACES];
        let start = write_decimal(&mut places, number);
        self.extend_from_slice(places.get(start - 1..).unwrap_or_default());
        self
    }

    fn hex(&mut self, number: impl Number, digits: usize) -> &mut Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let (_, number) = number.parts();
        let used = (67 - (number | 1).leading_zeros() as usize) / 4;
        let count = used.max(digits.min(16));
        for place in (0..count).rev() {
            self.push(DIGITS[(number >> (place * 4)) as usize & 15]);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn numbers_are_written_as_core_does() {
        let mut number = 1u64;
        for _ in 0..200 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            for shift in [0, 7, 20, 33, 47, 58, 63] {
                let number = number >> shift;
                let mut out = Vec::new();
                out.dec(number).text(" ").dec_in(number, 13).text(" ").hex(number, 8);
                let signed = -(number as i64 >> 1);
                out.text(" ").dec(signed).text(" ").dec_in(signed, 9).text(" ").hex(number, 1);
                let wanted =
                    format!("{number} {number:13} {number:08x} {signed} {signed:9} {number:x}");
                assert_eq!(out, wanted.as_bytes());
            }
        }
    }

    #[test]
    fn the_ends_are_written_too() {
        let mut out = Vec::new();
        out.dec(0u8)
            .next_dec(u64::MAX)
            .next_dec(i64::MIN)
            .next_dec(9)
            .next_dec(-1)
            .next_dec(10)
            .text(" ")
            .dec(100u32);
        out.text(" ").hex(0u64, 0).text(" ").hex(u64::MAX, 0).text(" ").hex(0u64, 16);
        let wanted = format!("0 {} {} 9 -1 10 100 0 {:x} {:016x}", u64::MAX, i64::MIN, u64::MAX, 0);
        assert_eq!(out, wanted.as_bytes());
    }
}
