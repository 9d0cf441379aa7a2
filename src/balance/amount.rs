//! Exact decimals.

use compact_str::CompactString;

/// Longest canonical text: 131,072 digits before the point and 16,383 behind it, with sign and point.
///
/// These are the limits of PostgreSQL's `numeric`, so nothing it can store is refused, and no exponent
/// can ask for more memory than this.
pub const MAX_TEXT_BYTES: usize = 131_072 + 16_383 + 2;

/// Digits that every double carries there and back (`DBL_DIG`).
const ALWAYS_CARRIED_DIGITS: usize = 15;

/// Longest text that a double can print: 308 digits before the point, or 324 behind it and 17 more.
const LONGEST_DOUBLE_TEXT: usize = 345;

/// An exact decimal in canonical text: no exponent, no leading zeros, no trailing fractional zeros or
/// point, no `-0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Amount(CompactString);

/// The text is no finite decimal, or longer than [`MAX_TEXT_BYTES`]. Does not show the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value is not a finite decimal number")]
pub struct NotDecimal;

/// A decimal text in its parts, leading and trailing zeros already gone.
struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    exponent: i64,
}

impl Amount {
    /// Reads a decimal as PostgreSQL prints `numeric`, integers and floats (`1e-05`): exactly.
    pub fn parse(text: &str) -> Result<Amount, NotDecimal> {
        let parts = Parts::split(text)?;
        if parts.exponent == 0 {
            return parts.plain(text);
        }
        parts.expanded()
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Zero.
    pub fn zero() -> Amount {
        Amount(CompactString::const_new("0"))
    }

    /// A boolean as `1` or `0`.
    pub fn from_bit(bit: bool) -> Amount {
        Amount(CompactString::const_new(if bit { "1" } else { "0" }))
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        &*self.0 == "0"
    }

    /// The same without its sign.
    pub fn abs(&self) -> Amount {
        self.0.strip_prefix('-').map_or_else(|| self.clone(), |text| Amount(text.into()))
    }

    /// The same with the other sign.
    pub fn negate(&self) -> Amount {
        match self.0.strip_prefix('-') {
            Some(text) => Amount(text.into()),
            None if self.is_zero() => self.clone(),
            None => Amount(format!("-{}", self.0).into()),
        }
    }

    /// Whether a reader that parses JSON numbers as doubles sees exactly this number: the rule that
    /// decides between a JSON number and a JSON string (CONTRACT 4).
    pub fn fits_double(&self) -> bool {
        fits_double(&self.0)
    }
}

/// [`Amount::fits_double`] for a text that is canonical already.
pub(crate) fn fits_double(canonical: &str) -> bool {
    let digits = canonical.bytes().filter(u8::is_ascii_digit).count();
    if digits <= ALWAYS_CARRIED_DIGITS {
        return true;
    }
    // The only place where a float appears. It never holds money: it shows what a reader's double would
    // print, and only the comparison of the two texts leaves this function. Rust prints the shortest
    // digits that read back as the same double, without exponent.
    canonical.len() <= LONGEST_DOUBLE_TEXT
        && canonical.parse::<f64>().is_ok_and(|double| double.to_string() == canonical)
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Parts<'a>, NotDecimal> {
        let (negative, unsigned) = match text.as_bytes() {
            [b'-', ..] => (true, text.get(1..).unwrap_or_default()),
            [b'+', ..] => (false, text.get(1..).unwrap_or_default()),
            _ => (false, text),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            None => (unsigned, 0),
            // Seven characters hold every exponent that can stay below MAX_TEXT_BYTES, with its sign.
            Some((mantissa, exponent)) if exponent.len() <= 7 => {
                (mantissa, exponent.parse().map_err(|_| NotDecimal)?)
            }
            Some(_) => return Err(NotDecimal),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let some = !whole.is_empty() || !fraction.is_empty();
        if !some || !digits(whole) || !digits(fraction) || mantissa.len() > MAX_TEXT_BYTES {
            return Err(NotDecimal);
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        Ok(Parts { negative, whole, fraction, exponent })
    }

    /// The canonical text where there is no exponent; mostly a piece of the original.
    fn plain(&self, text: &str) -> Result<Amount, NotDecimal> {
        if self.whole.is_empty() && self.fraction.is_empty() {
            return Ok(Amount::zero());
        }
        let sign = usize::from(self.negative);
        let point = usize::from(!self.fraction.is_empty());
        let length = sign + self.whole.len() + point + self.fraction.len();
        let untouched = !self.whole.is_empty() && text.get(sign..).is_some_and(|t| t.starts_with(self.whole));
        if let (true, Some(head)) = (untouched, text.get(..length)) {
            return Ok(Amount(head.into()));
        }
        let mut out = String::with_capacity(length + 1);
        out.push_str(if self.negative { "-" } else { "" });
        out.push_str(if self.whole.is_empty() { "0" } else { self.whole });
        if point == 1 {
            out.push('.');
            out.push_str(self.fraction);
        }
        Ok(Amount(out.into()))
    }

    /// The canonical text with the exponent worked in.
    fn expanded(&self) -> Result<Amount, NotDecimal> {
        let digits = [self.whole, self.fraction].concat();
        let leading = digits.len() - digits.trim_start_matches('0').len();
        let digits = digits.trim_matches('0');
        if digits.is_empty() {
            return Ok(Amount::zero());
        }
        let length = |n: usize| i64::try_from(n).map_err(|_| NotDecimal);
        // Digits before the point; negative: zeros between the point and the first digit.
        let point = length(self.whole.len())? - length(leading)? + self.exponent;
        let bound = length(MAX_TEXT_BYTES)?;
        if point.abs() + length(digits.len())? > bound {
            return Err(NotDecimal);
        }
        let magnitude = usize::try_from(point.unsigned_abs()).map_err(|_| NotDecimal)?;
        let mut out = String::with_capacity(magnitude + digits.len() + 3);
        out.push_str(if self.negative { "-" } else { "" });
        if point <= 0 {
            out.push_str("0.");
            out.extend(std::iter::repeat_n('0', magnitude));
            out.push_str(digits);
        } else if let Some((whole, fraction)) = digits.split_at_checked(magnitude) {
            out.push_str(whole);
            out.push_str(if fraction.is_empty() { "" } else { "." });
            out.push_str(fraction);
        } else {
            out.push_str(digits);
            out.extend(std::iter::repeat_n('0', magnitude - digits.len()));
        }
        Ok(Amount(out.into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        Amount::parse(text).unwrap().as_str().to_owned()
    }

    #[test]
    fn trailing_and_leading_zeros_signs_and_points_vanish() {
        for (text, expected) in [
            ("10000.500000", "10000.5"),
            ("0.000000", "0"),
            ("-0.00", "0"),
            ("-0", "0"),
            ("0", "0"),
            ("007", "7"),
            ("-00.50", "-0.5"),
            (".5", "0.5"),
            ("5.", "5"),
            ("+5", "5"),
            ("100", "100"),
            ("-100.0", "-100"),
            ("999999999999.999999", "999999999999.999999"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn exponents_as_floats_print_them_are_expanded_exactly() {
        for (text, expected) in [
            ("1e-05", "0.00001"),
            ("1.5e+20", "150000000000000000000"),
            ("-1.25E2", "-125"),
            ("1.25e1", "12.5"),
            ("0.0012e3", "1.2"),
            ("120e-1", "12"),
            ("12e0", "12"),
            ("0e99", "0"),
            ("100e-2", "1"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_finite_decimal_is_refused() {
        let wrong = [
            "",
            "-",
            ".",
            "-.",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e",
            "e5",
            "1.2.3",
            "1,5",
            " 1",
            "1 ",
            "0x1f",
            "1e999999",
            "1e-999999",
            "1e99999999999999999999",
            "--1",
            "1e1.5",
            "١",
        ];
        for text in wrong {
            assert_eq!(Amount::parse(text), Err(NotDecimal), "{text}");
        }
        assert_eq!(Amount::parse(&"9".repeat(MAX_TEXT_BYTES + 1)), Err(NotDecimal));
        assert!(Amount::parse(&"9".repeat(131_072)).is_ok());
    }

    #[test]
    fn a_debit_is_told_as_a_positive_amount() {
        let debit = Amount::parse("-250.10").unwrap();
        assert_eq!(debit.abs().as_str(), "250.1");
        assert_eq!(debit.negate().as_str(), "250.1");
        assert_eq!(debit.abs().negate(), debit);
        assert_eq!(Amount::zero().negate(), Amount::zero());
    }

    #[test]
    fn a_number_is_json_only_where_a_double_carries_it() {
        for carried in
            ["10000.5", "0.000001", "9007199254740992", "9007199254740994", "-0.1", "999999999.999999"]
        {
            assert!(Amount::parse(carried).unwrap().fits_double(), "{carried}");
        }
        for lost in [
            "9007199254740993",
            "123456789012345678901234567890",
            "999999999999.999999",
            "0.12345678901234567891",
        ] {
            assert!(!Amount::parse(lost).unwrap().fits_double(), "{lost}");
        }
        assert!(!Amount::parse("1e400").unwrap().fits_double());
        assert!(Amount::parse("1e300").unwrap().fits_double());
    }

    proptest! {
        #[test]
        fn parsing_agrees_with_the_digits_written_by_hand(
            negative: bool, whole in "[1-9][0-9]{0,80}", fraction in "[0-9]{0,40}[1-9]",
            zeros in 0_usize..9, shift in -60_i64..60,
        ) {
            let sign = if negative { "-" } else { "" };
            let pad = "0".repeat(zeros);
            let expected = format!("{sign}{whole}.{fraction}");
            prop_assert_eq!(canonical(&format!("{sign}{pad}{whole}.{fraction}{pad}")), &*expected);
            // Moving the point by hand and back by the exponent is the same number.
            let digits = format!("{whole}{fraction}");
            let scale = i64::try_from(fraction.len()).unwrap();
            let written = format!("{sign}{digits}e{}", -scale);
            prop_assert_eq!(canonical(&written), &*expected);
            let there = canonical(&format!("{expected}e{shift}"));
            prop_assert_eq!(canonical(&format!("{there}e{}", -shift)), &*expected);
            prop_assert_eq!(canonical(&there), there);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            if let Ok(amount) = Amount::parse(&text) {
                prop_assert_eq!(Amount::parse(amount.as_str()), Ok(amount));
            }
        }

        #[test]
        fn a_double_that_fits_reads_back_as_the_same_text(text in "-?[1-9][0-9]{0,17}(\\.[0-9]{0,3}[1-9])?") {
            let amount = Amount::parse(&text).unwrap();
            if amount.fits_double() {
                let double: f64 = amount.as_str().parse().unwrap();
                prop_assert_eq!(double.to_string(), amount.as_str());
            }
        }
    }
}
