//! How far the acknowledgement stays behind what Redis holds. No IO and no clock.

use std::collections::VecDeque;
use std::time::Duration;

use crate::lsn::Lsn;

/// Checkpoints that are remembered: at most five a second for ten minutes.
const REMEMBERED: usize = 4096;

/// Holds back the position that PostgreSQL may forget, so that what Redis loses again (a replica that lagged took over,
/// a server came back with an older file) is still in the slot and is only sent again.
///
/// A checkpoint is acknowledged once it is `time` old, or once more than `bytes` of WAL were written behind what is
/// acknowledged: whichever comes first. An idle stream's checkpoints grow old too, so that nothing is held for ever.
#[derive(Debug)]
pub struct Margin {
    time: Duration,
    bytes: u64,
    most: u64,
    acknowledged: Lsn,
    newest: Lsn,
    /// When they were stored, and up to where; oldest first.
    held: VecDeque<(Duration, Lsn)>,
}

impl Margin {
    /// Begins at `start`, which is acknowledged already. No limit holds back more than `most` bytes.
    pub fn new(start: Lsn, time: Duration, bytes: u64, most: u64) -> Margin {
        Margin { time, bytes, most, acknowledged: start, newest: start, held: VecDeque::new() }
    }

    /// Every node held a checkpoint at `lsn` at the time `now`, counted from any fixed moment.
    pub fn stored(&mut self, lsn: Lsn, now: Duration) {
        if lsn <= self.newest {
            return;
        }
        self.newest = lsn;
        if self.held.len() >= REMEMBERED {
            self.held.pop_back();
        }
        self.held.push_back((now, lsn));
    }

    /// What may be acknowledged at the time `now`, and no more than `limit` unless that is too far behind; never goes back.
    pub fn acknowledgeable(&mut self, now: Duration, limit: Option<Lsn>) -> Lsn {
        while let Some(&(stored, lsn)) = self.held.front() {
            let held_back = self.newest.bytes_since(self.acknowledged);
            let is_limited = limit.is_some_and(|limit| lsn > limit) && held_back <= self.most;
            let is_old = now.saturating_sub(stored) >= self.time || held_back > self.bytes;
            if is_limited || !is_old {
                break;
            }
            self.acknowledged = lsn;
            self.held.pop_front();
        }
        self.acknowledged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_checkpoint_is_acknowledged_once_it_is_old_enough() {
        let mut margin = Margin::new(Lsn(10), s(10), 1000, u64::MAX);
        margin.stored(Lsn(20), s(1));
        margin.stored(Lsn(30), s(5));
        assert_eq!(margin.acknowledgeable(s(10), None), Lsn(10));
        assert_eq!(margin.acknowledgeable(s(11), None), Lsn(20));
        assert_eq!(margin.acknowledgeable(s(15), None), Lsn(30), "though nothing was stored since");
    }

    #[test]
    fn no_more_wal_is_held_than_the_bytes_allow() {
        let mut margin = Margin::new(Lsn(0), s(10), 100, u64::MAX);
        for lsn in [50, 100, 150] {
            margin.stored(Lsn(lsn), s(0));
        }
        assert_eq!(margin.acknowledgeable(s(0), None), Lsn(50));
        margin.stored(Lsn(1000), s(0));
        assert_eq!(margin.acknowledgeable(s(0), None), Lsn(1000));
    }

    #[test]
    fn nothing_past_the_limit_is_acknowledged() {
        let mut margin = Margin::new(Lsn(0), Duration::ZERO, 100, 1000);
        margin.stored(Lsn(50), s(1));
        margin.stored(Lsn(500), s(1));
        assert_eq!(margin.acknowledgeable(s(1), Some(Lsn(499))), Lsn(50), "though it is old and much");
        assert_eq!(margin.acknowledgeable(s(1), Some(Lsn(20))), Lsn(50));
        assert_eq!(margin.acknowledgeable(s(1), Some(Lsn(500))), Lsn(500));
        margin.stored(Lsn(1500), s(1));
        assert_eq!(margin.acknowledgeable(s(1), Some(Lsn(500))), Lsn(500));
        margin.stored(Lsn(1501), s(1));
        assert_eq!(
            margin.acknowledgeable(s(1), Some(Lsn(500))),
            Lsn(1500),
            "the database's disk comes first"
        );
    }

    #[test]
    fn without_a_margin_the_newest_is_acknowledged_at_once() {
        let mut margin = Margin::new(Lsn(0), Duration::ZERO, u64::MAX, u64::MAX);
        margin.stored(Lsn(7), s(3));
        assert_eq!(margin.acknowledgeable(s(3), None), Lsn(7));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_errs_to_the_later_side() {
        let mut margin = Margin::new(Lsn(0), s(10), u64::MAX, u64::MAX);
        for lsn in 1..=10_000 {
            margin.stored(Lsn(lsn), Duration::from_millis(lsn));
            let acknowledged = margin.acknowledgeable(Duration::from_millis(lsn), None);
            assert!(acknowledged.0 + 10_000 <= lsn || acknowledged == Lsn(0));
        }
        assert_eq!(margin.held.len(), REMEMBERED);
        assert_eq!(margin.acknowledgeable(s(30), None), Lsn(10_000));
    }
}
