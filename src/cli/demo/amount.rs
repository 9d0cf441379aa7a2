//! Exact amounts, apart from the product's own: the demo checks them.

use std::fmt;

/// `numeric(18,6)` in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Micros(pub i64);

impl Micros {
    /// Reads a decimal of up to six fractional digits.
    pub fn parse(text: &str) -> Option<Micros> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || fraction.len() > 6 || !plain(whole) || !plain(fraction) {
            return None;
        }
        let value: i64 = format!("{whole}{fraction:0<6}").parse().ok()?;
        Some(Micros(if negative { -value } else { value }))
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, value) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        write!(f, "{sign}{}.{:06}", value / 1_000_000, value % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_read_as_it_is_written() {
        for micros in [0, 1, -1, 999_999, -1_000_001, 10_000_500_000, i64::MAX] {
            assert_eq!(Micros::parse(&Micros(micros).to_string()), Some(Micros(micros)));
        }
        assert_eq!(Micros::parse("10000.5"), Some(Micros(10_000_500_000)));
        for text in ["", "-", ".5", "1e3", "1.0000001", "NaN", "+1", "--1", "1.-5"] {
            assert_eq!(Micros::parse(text), None, "{text}");
        }
    }
}
