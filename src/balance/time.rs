//! Timestamps as ISO-8601 text in UTC with milliseconds and `Z`.

use compact_str::CompactString;

use crate::pgoutput::PgTime;

const SECOND_MS: i64 = 1000;
const DAY_MS: i64 = 86_400 * SECOND_MS;
/// Days from 1970-01-01 to 2000-01-01, the epoch of [`PgTime`].
const PG_EPOCH_DAYS: i64 = 10_957;

/// A commit time, cut to milliseconds: `2026-01-15T10:30:00.000Z`.
pub fn commit_iso(time: PgTime) -> CompactString {
    iso(time.0.div_euclid(1000).saturating_add(PG_EPOCH_DAYS * DAY_MS))
}

/// A `timestamp` or `timestamptz` as PostgreSQL prints it in DateStyle ISO, in UTC, cut to milliseconds.
/// One without a zone is read as UTC. `None` for infinity, years before 1 and everything else.
pub fn timestamp_iso(text: &str) -> Option<CompactString> {
    in_utc(text).or_else(|| anywhere(text))
}

/// The common form, in UTC and of this century: what it says needs no calendar, only to be copied.
fn in_utc(text: &str) -> Option<CompactString> {
    let [b'2', b'0', y3, y4, b'-', m1, m2, b'-', d1, d2, b' ', h1, h2, b':', i1, i2, b':', s1, s2, rest @ ..] =
        text.as_bytes()
    else {
        return None;
    };
    let fraction = match rest.strip_suffix(b"+00").unwrap_or(rest) {
        [] => &[],
        [b'.', fraction @ ..] => fraction,
        _ => return None,
    };
    let digits = [y3, y4, m1, m2, d1, d2, h1, h2, i1, i2, s1, s2];
    if !digits.into_iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    let two = |tens: &u8, ones: &u8| 10 * (tens - b'0') + (ones - b'0');
    let is_clock = two(h1, h2) < 24 && two(i1, i2) < 60 && two(s1, s2) < 60;
    let is_month = (1..=12).contains(&two(m1, m2));
    let is_day = (1..=28).contains(&two(d1, d2)) || text.get(..10).and_then(days_of).is_some();
    if !(is_clock && is_month && is_day) {
        return None;
    }
    let [f1, f2, f3] = [0, 1, 2].map(|at| fraction.get(at).copied().unwrap_or(b'0'));
    let text = [
        b'2', b'0', *y3, *y4, b'-', *m1, *m2, b'-', *d1, *d2, b'T', *h1, *h2, b':', *i1, *i2, b':', *s1, *s2,
        b'.', f1, f2, f3, b'Z',
    ];
    CompactString::from_utf8(text).ok()
}

/// Every form.
fn anywhere(text: &str) -> Option<CompactString> {
    let (date, clock) = text.split_once([' ', 'T'])?;
    let days = days_of(date)?;
    let zone_at = clock.find(['+', '-', 'Z']).unwrap_or(clock.len());
    let (clock, zone) = clock.split_at_checked(zone_at)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let seconds = clock_seconds(clock)?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let ms = fraction.bytes().chain([b'0'; 3]).take(3).fold(0, |sum, b| sum * 10 + i64::from(b - b'0'));
    Some(iso(days * DAY_MS + (seconds - zone_seconds(zone)?) * SECOND_MS + ms))
}

/// A `date`: `2026-01-15`, as it is. A day has no zone, so it is not made an instant.
pub fn date_iso(text: &str) -> Option<&str> {
    days_of(text).map(|_| text)
}

/// 24 bytes for the years to 9999: no allocation.
fn iso(unix_ms: i64) -> CompactString {
    let (days, ms) = (unix_ms.div_euclid(DAY_MS), unix_ms.rem_euclid(DAY_MS));
    let (year, month, day) = civil_from_days(days);
    let (seconds, ms) = (ms / SECOND_MS, ms % SECOND_MS);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut out = CompactString::const_new(if year < 0 { "-" } else { "" });
    let parts = [
        (4, year, '-'),
        (2, month, '-'),
        (2, day, 'T'),
        (2, hour, ':'),
        (2, minute, ':'),
        (2, second, '.'),
        (3, ms, 'Z'),
    ];
    for (width, number, end) in parts {
        digits(&mut out, width, number.unsigned_abs());
        out.push(end);
    }
    out
}

/// Appends `number` in at least `width` digits. Every event has several timestamps, and `{:02}` takes five
/// times as long.
fn digits(out: &mut CompactString, width: u32, number: u64) {
    if width > 1 || number > 9 {
        digits(out, width.saturating_sub(1), number / 10);
    }
    out.push(char::from_digit(u32::try_from(number % 10).unwrap_or(0), 10).unwrap_or('0'));
}

/// Days since 1970-01-01 of `YYYY-MM-DD`; years have four digits or more.
fn days_of(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, '-');
    let year = parts.next()?;
    let year = number(year, 4..=6)?;
    let (month, day) = (number(parts.next()?, 2..=2)?, number(parts.next()?, 2..=2)?);
    let days = days_from_civil(year, month, day);
    (year > 0 && civil_from_days(days) == (year, month, day)).then_some(days)
}

fn clock_seconds(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, ':');
    let mut next = || number(parts.next()?, 2..=2);
    let (hour, minute, second) = (next()?, next()?, next()?);
    (hour <= 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

/// Seconds east of UTC of `+00`, `-03:30`, `+05:53:28`, `Z` or nothing.
fn zone_seconds(text: &str) -> Option<i64> {
    let (sign, rest) = match text.as_bytes() {
        [] | [b'Z'] => return Some(0),
        [b'-', ..] => (-1, text.get(1..)?),
        _ => (1, text.get(1..)?),
    };
    let mut parts = rest.splitn(3, ':').map(|part| number(part, 2..=2));
    let hours = parts.next()??;
    let (minutes, seconds) = (parts.next().unwrap_or(Some(0))?, parts.next().unwrap_or(Some(0))?);
    Some(sign * (hours * 3600 + minutes * 60 + seconds))
}

fn number(text: &str, length: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let plain = length.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, by eras of 400 years
/// (<https://howardhinnant.github.io/date_algorithms.html>).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`]: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = (shifted + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_timestamp_becomes_utc_with_milliseconds() {
        for (text, expected) in [
            ("2026-01-15 10:30:00.5+00", "2026-01-15T10:30:00.500Z"),
            ("2026-01-15 10:30:00", "2026-01-15T10:30:00.000Z"),
            ("2026-01-15 10:30:00.123999", "2026-01-15T10:30:00.123Z"),
            ("2026-01-15 01:00:00+05:30", "2026-01-14T19:30:00.000Z"),
            ("2026-12-31 23:00:00-03", "2027-01-01T02:00:00.000Z"),
            ("1900-01-01 00:00:00+05:53:28", "1899-12-31T18:06:32.000Z"),
            ("2024-02-29 00:00:00Z", "2024-02-29T00:00:00.000Z"),
            ("2024-02-29 00:00:00+00", "2024-02-29T00:00:00.000Z"),
            ("2026-12-31 23:59:59.1+00", "2026-12-31T23:59:59.100Z"),
            ("12026-01-15 10:30:00+00", "12026-01-15T10:30:00.000Z"),
        ] {
            assert_eq!(timestamp_iso(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_instant_is_refused() {
        let wrong = [
            "infinity",
            "-infinity",
            "0044-03-15 00:00:00 BC",
            "0044-03-15 00:00:00+00 BC",
            "2026-02-29 00:00:00",
            "2026-02-29 00:00:00+00",
            "2026-01-15 25:00:00+00",
            "2026-01-15",
            "2026-13-01 00:00:00",
            "2026-01-15 1:00:00",
            "2026-01-15 10:30",
            "2026-01-15 10:30:00.x",
            "",
        ];
        for text in wrong {
            assert_eq!(timestamp_iso(text), None, "{text}");
        }
        for text in ["infinity", "0044-03-15 BC", "2026-02-30", ""] {
            assert_eq!(date_iso(text), None, "{text}");
        }
        assert_eq!(date_iso("2026-01-15"), Some("2026-01-15"));
    }

    #[test]
    fn commit_times_count_from_the_year_2000() {
        assert_eq!(commit_iso(PgTime(0)), "2000-01-01T00:00:00.000Z");
        assert_eq!(commit_iso(PgTime(821_788_200_500_999)), "2026-01-15T10:30:00.500Z");
        assert_eq!(commit_iso(PgTime(-1)), "1999-12-31T23:59:59.999Z");
    }

    proptest! {
        #[test]
        fn the_common_form_says_what_every_form_says(
            text in "20[0-3][0-9]-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,7})?(\\+00)?",
        ) {
            let common = in_utc(&text);
            prop_assume!(common.is_some());
            prop_assert_eq!(common, anywhere(&text));
        }

        #[test]
        fn an_instant_is_written_as_it_is_read(unix_ms in -62_135_596_800_000_i64..300_000_000_000_000) {
            let text = iso(unix_ms);
            prop_assert_eq!(anywhere(&text), Some(text.clone()));
        }

        #[test]
        fn the_calendar_runs_both_ways(days in -800_000_i64..3_000_000) {
            let (year, month, day) = civil_from_days(days);
            prop_assert_eq!(days_from_civil(year, month, day), days);
        }
    }
}
