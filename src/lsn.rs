//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log, written `X/X` as PostgreSQL does.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position before everything; PostgreSQL's `InvalidXLogRecPtr`.
    pub const ZERO: Lsn = Lsn(0);

    /// Bytes from `earlier` to here; zero when `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The same place, taken back over a page header that nothing has been written behind yet.
    ///
    /// The insert position skips a fresh page's header (`XLogBytePosToRecPtr`), the flush position
    /// does not (`XLogBytePosToEndRecPtr`): without this, an idle server never "passes" its own
    /// insert position. Headers are 24 bytes, 40 on the first page of a segment
    /// (`SizeOfXLogShortPHD`, `SizeOfXLogLongPHD`); pages are 8192 bytes.
    pub fn before_page_header(self) -> Lsn {
        const PAGE_BYTES: u64 = 8192;
        match self.0 % PAGE_BYTES {
            header @ (24 | 40) => Lsn(self.0 - header),
            _ => self,
        }
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not of the form `X/X`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a WAL position: expected the form 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| {
            let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

/// Where an event stands in commit order: its transaction's commit, then its last row in it.
///
/// Ordinals count the rows of a transaction from 1, so that `(lsn, 0)` stands before every row of a
/// commit that begins exactly there: the position a loaded row is written at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Start of the commit record (`Commit.commit_lsn`), the order of commits.
    pub commit_lsn: Lsn,
    /// Number of the row within the transaction, from 1.
    pub ordinal: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.commit_lsn, self.ordinal)
    }
}

/// A transaction id widened to 64 bits by the epoch, as `pg_current_snapshot()` prints it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid64(pub u64);

impl Xid64 {
    /// The 64-bit id nearest to `self` whose low half is `xid`.
    ///
    /// Ids alive at one time are less than 2^31 apart (`TransactionIdPrecedes`), so the nearest is it.
    pub fn widen(self, xid: u32) -> Xid64 {
        const HALF: i64 = 1 << 32;
        let base = self.0 & !0xFFFF_FFFF;
        let candidate = base | u64::from(xid);
        let distance = i64::from(xid) - i64::try_from(self.0 & 0xFFFF_FFFF).unwrap_or(0);
        match distance {
            d if d > HALF / 2 && candidate >= 1 << 32 => Xid64(candidate - (1 << 32)),
            d if d < -HALF / 2 => Xid64(candidate + (1 << 32)),
            _ => Xid64(candidate),
        }
    }
}

/// What a database snapshot sees, from `pg_current_snapshot()`: `xmin:xmax:xip,xip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Every id below is over: visible if it committed.
    pub xmin: Xid64,
    /// No id from here on is visible.
    pub xmax: Xid64,
    /// Ids between the two that were still running; sorted.
    pub running: Vec<Xid64>,
}

impl Snapshot {
    /// Whether the committed transaction `xid` is visible.
    pub fn sees(&self, xid: Xid64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }
}

/// The text was not what `pg_current_snapshot()::text` prints.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a snapshot: expected the form 10:20:10,14,15")]
pub struct ParseSnapshotError(String);

impl FromStr for Snapshot {
    type Err = ParseSnapshotError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.splitn(3, ':');
            let xmin = Xid64(parts.next()?.parse().ok()?);
            let xmax = Xid64(parts.next()?.parse().ok()?);
            let list = parts.next()?;
            let ids = list.split(',').filter(|id| !id.is_empty());
            let mut running = ids.map(|id| id.parse().ok().map(Xid64)).collect::<Option<Vec<_>>>()?;
            running.sort_unstable();
            Some(Snapshot { xmin, xmax, running })
        };
        parse().ok_or_else(|| ParseSnapshotError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_reads_back_what_it_prints() {
        for value in [0, 1, 0x16_B374_D848, u64::MAX] {
            assert_eq!(Lsn(value).to_string().parse(), Ok(Lsn(value)));
        }
        for wrong in ["", "/", "1", "1/", "/1", "1/123456789", "+1/1", "g/1", "1/1/1"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_insert_position_behind_a_fresh_page_header_is_the_flush_position() {
        assert_eq!(Lsn(8192 * 5 + 24).before_page_header(), Lsn(8192 * 5));
        assert_eq!(Lsn(8192 * 2048 + 40).before_page_header(), Lsn(8192 * 2048));
        assert_eq!(Lsn(8192 * 5 + 64).before_page_header(), Lsn(8192 * 5 + 64));
    }

    #[test]
    fn xid_is_widened_to_the_nearest_epoch() {
        let reference = Xid64((7 << 32) | 100);
        assert_eq!(reference.widen(90), Xid64((7 << 32) | 90));
        assert_eq!(reference.widen(200), Xid64((7 << 32) | 200));
        assert_eq!(reference.widen(u32::MAX), Xid64((6 << 32) | 0xFFFF_FFFF));
        assert_eq!(Xid64((7 << 32) | 0xFFFF_FFF0).widen(3), Xid64((8 << 32) | 3));
        assert_eq!(Xid64(5).widen(u32::MAX), Xid64(0xFFFF_FFFF), "no epoch before the first");
    }

    #[test]
    fn snapshot_sees_what_committed_before_it() {
        let snapshot: Snapshot = "10:20:10,14".parse().unwrap();
        assert!(snapshot.sees(Xid64(9)));
        assert!(!snapshot.sees(Xid64(10)));
        assert!(snapshot.sees(Xid64(11)));
        assert!(!snapshot.sees(Xid64(14)));
        assert!(!snapshot.sees(Xid64(20)));
        assert!("10:20".parse::<Snapshot>().is_err());
        assert_eq!("10:10:".parse::<Snapshot>().unwrap().running, []);
    }
}
