//! Amounts of data as people write them: `64MiB`, `8GiB`.

/// Units, largest first, in bytes.
const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A whole number and a unit, in bytes.
pub(super) fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*bytes)
}

/// The shortest text that [`parse`] reads back.
pub fn show(bytes: u64) -> String {
    let fits = |(_, unit): &(&str, u64)| bytes > 0 && bytes.is_multiple_of(*unit);
    let (name, unit) = UNITS.into_iter().find(fits).unwrap_or(("B", 1));
    format!("{}{name}", bytes / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        assert_eq!(parse("8GiB"), Some(8 << 30));
        assert_eq!(parse("64 MiB"), Some(64 << 20));
        assert_eq!(parse("1TiB"), Some(1 << 40));
        for bad in ["", "8", "GiB", "8GB", "8gib", "-1GiB", "1.5GiB", "99999999999TiB"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for text in ["0B", "1000B", "1KiB", "64MiB", "1536MiB", "8GiB", "2TiB"] {
            assert_eq!(parse(text).map(show).as_deref(), Some(text));
        }
    }
}
