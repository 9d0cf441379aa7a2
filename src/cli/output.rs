//! Lines for people. A reader that has gone (`lockstep check | head`) is no reason to panic.

use std::fmt;
use std::io::{self, Write};

/// One line of result.
pub(super) fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// One line of error.
pub(super) fn complain(error: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "lockstep: {error}");
}

/// Names and values in two columns.
pub(super) fn table(rows: &[(&str, String)]) {
    columns(rows).iter().for_each(say);
}

/// The same as lines.
pub(super) fn columns(rows: &[(&str, String)]) -> Vec<String> {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect()
}

/// A number of bytes with the unit that people would choose.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.into_iter().find(|(_, shift)| count >> shift > 0) {
        Some((unit, shift)) => {
            let tenths = (u128::from(count) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{count} bytes"),
    }
}

/// A number with a comma behind every third digit.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let comma_before = |at: usize| at > 0 && (digits.len() - at).is_multiple_of(3);
    let parts = digits.char_indices().flat_map(|(at, digit)| [comma_before(at).then_some(','), Some(digit)]);
    parts.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::{bytes, grouped};

    #[test]
    fn thousands_are_told_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn bytes_are_shown_in_the_largest_whole_unit() {
        let shown = [0, 1023, 1024, 1536, 1 << 20, 5 << 30, u64::MAX].map(bytes);
        assert_eq!(
            shown,
            ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "1.0 MiB", "5.0 GiB", "17179869183.9 GiB"]
        );
    }
}
