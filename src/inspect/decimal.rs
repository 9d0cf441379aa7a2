//! The difference of two decimals, exactly: digit by digit, as on paper.

use std::cmp::Ordering;

use crate::balance::Amount;

/// `left - right`.
pub(super) fn difference(left: &Amount, right: &Amount) -> Amount {
    let (left, right) = (Signed::of(left), Signed::of(right));
    let scale = left.fraction.len().max(right.fraction.len());
    let (a, b) = aligned(left.digits(scale), right.digits(scale));
    // a - b: both of one sign are taken from each other, else put together.
    let (negative, digits) = match (left.negative == right.negative, a.cmp(&b)) {
        (false, _) => (left.negative, sum(&a, &b)),
        (true, Ordering::Less) => (!left.negative, less(&b, &a)),
        (true, _) => (left.negative, less(&a, &b)),
    };
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let text = |digits: &[u8]| digits.iter().map(|digit| char::from(b'0' + digit)).collect::<String>();
    let text = format!("{}{}.{}", if negative { "-" } else { "" }, text(whole), text(fraction));
    Amount::parse(&text).unwrap_or_else(|_| Amount::zero())
}

struct Signed<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
}

impl Signed<'_> {
    fn of(amount: &Amount) -> Signed<'_> {
        let text = amount.as_str();
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        Signed { negative: unsigned.len() < text.len(), whole, fraction }
    }

    /// All digits, so many of them behind the point.
    fn digits(&self, scale: usize) -> Vec<u8> {
        let zeros = std::iter::repeat_n(0, scale.saturating_sub(self.fraction.len()));
        let digits = self.whole.bytes().chain(self.fraction.bytes()).map(|byte| byte - b'0');
        digits.chain(zeros).collect()
    }
}

/// Both with as many digits as the longer one, and one for what is carried: they compare as the numbers do.
fn aligned(a: Vec<u8>, b: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let length = a.len().max(b.len()) + 1;
    let fill = |digits: Vec<u8>| {
        let zeros = vec![0; length - digits.len()];
        [zeros, digits].concat()
    };
    (fill(a), fill(b))
}

fn sum(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut carried = 0;
    by_digit(a, b, |a, b| {
        let sum = a + b + carried;
        carried = sum / 10;
        sum % 10
    })
}

/// `a - b`, of which `a` is not the smaller one.
fn less(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut borrowed = 0;
    by_digit(a, b, |a, b| {
        let taken = b + borrowed;
        borrowed = u8::from(a < taken);
        a + 10 * borrowed - taken
    })
}

/// From the last digit to the first.
fn by_digit(a: &[u8], b: &[u8], mut digit: impl FnMut(u8, u8) -> u8) -> Vec<u8> {
    let mut digits: Vec<u8> = a.iter().zip(b).rev().map(|(a, b)| digit(*a, *b)).collect();
    digits.reverse();
    digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn minus(left: &str, right: &str) -> String {
        difference(&Amount::parse(left).unwrap(), &Amount::parse(right).unwrap()).as_str().to_owned()
    }

    #[test]
    fn differences_are_exact() {
        for (left, right, expected) in [
            ("100", "100.0", "0"),
            ("100", "90", "10"),
            ("90", "100", "-10"),
            ("0.1", "0.3", "-0.2"),
            ("-5", "5", "-10"),
            ("5", "-5", "10"),
            ("-5.25", "-5", "-0.25"),
            ("0", "0.000001", "-0.000001"),
            ("999999999999.999999", "-0.000001", "1000000000000"),
            ("123456789012345678901234567890.5", "0.5", "123456789012345678901234567890"),
        ] {
            assert_eq!(minus(left, right), expected, "{left} - {right}");
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_agree_with_the_machine(a: i64, b: i64, scale in 0_u32..12) {
            let expected = i128::from(a) - i128::from(b);
            let shift = |n: i128| Amount::parse(&format!("{n}e-{scale}")).unwrap();
            prop_assert_eq!(difference(&shift(a.into()), &shift(b.into())), shift(expected));
        }
    }
}
