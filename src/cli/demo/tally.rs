//! Commits of the writers against events at the subscriber: each exactly once, in order, as promised.

use std::collections::HashMap;
use std::time::Duration;

use super::subscriber::{Arrival, CHANNELS};
use super::workload::Commit;

/// What the subscriber has seen of what the writers have done.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Events received, by channel.
    pub received: [u64; CHANNELS.len()],
    /// Events that never came, by channel.
    pub missing: [u64; CHANNELS.len()],
    /// Events that came again, by channel.
    pub duplicates: [u64; CHANNELS.len()],
    /// Events of transactions that must cause none: rolled back, pending, or unknown.
    pub uncalled: u64,
    /// Events with another balance than the database returned to the writer.
    pub wrong_balance: u64,
    /// Events of a user that came behind a later commit's.
    pub out_of_order: u64,
    /// Median time from the answer to COMMIT until the event was at the subscriber.
    pub p50: Duration,
    /// The 99th percentile of it.
    pub p99: Duration,
    /// Events that were at the subscriber before the writer had its answer: counted as 0.
    pub early: u64,
}

impl Tally {
    /// Every expected event came once, and nothing else.
    pub fn is_clean(&self) -> bool {
        let bad = self.missing.iter().chain(&self.duplicates).sum::<u64>();
        bad + self.uncalled + self.wrong_balance + self.out_of_order == 0
    }
}

/// Compares the two sides.
pub fn tally(commits: &[Commit], arrivals: &[Arrival]) -> Tally {
    let mut expected: HashMap<(u64, i32), (&Commit, [u64; CHANNELS.len()])> =
        commits.iter().map(|commit| ((commit.xid, commit.user), (commit, [0; CHANNELS.len()]))).collect();
    let mut last: HashMap<(usize, i32), u64> = HashMap::new();
    let mut waits = Vec::with_capacity(arrivals.len());
    let mut tally = Tally::default();
    for arrival in arrivals {
        add(&mut tally.received, arrival.channel);
        let Some((commit, seen)) = expected.get_mut(&(arrival.xid, arrival.user)) else {
            tally.uncalled += 1;
            continue;
        };
        let before = add(seen, arrival.channel);
        if before > 0 {
            add(&mut tally.duplicates, arrival.channel);
            continue;
        }
        tally.wrong_balance += u64::from(arrival.balance != Some(commit.balance));
        let last = last.entry((arrival.channel, arrival.user)).or_default();
        tally.out_of_order += u64::from(arrival.commit_lsn < *last);
        *last = arrival.commit_lsn.max(*last);
        tally.early += u64::from(arrival.at < commit.at);
        waits.push(arrival.at.saturating_duration_since(commit.at));
    }
    for (_, seen) in expected.values() {
        for (missing, count) in tally.missing.iter_mut().zip(seen) {
            *missing += u64::from(*count == 0);
        }
    }
    waits.sort_unstable();
    let percentile = |percent: usize| {
        let rank = (waits.len() * percent).div_ceil(100).saturating_sub(1);
        waits.get(rank).copied().unwrap_or_default()
    };
    (tally.p50, tally.p99) = (percentile(50), percentile(99));
    tally
}

/// Adds one; returns what was there.
fn add(counts: &mut [u64], channel: usize) -> u64 {
    let Some(count) = counts.get_mut(channel) else { return 0 };
    *count += 1;
    *count - 1
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::amount::Micros;
    use super::*;

    fn commit(xid: u64, user: i32, at: Instant) -> Commit {
        Commit { xid, user, balance: Micros(5), at }
    }

    fn both(xid: u64, user: i32, at: Instant) -> [Arrival; 2] {
        let balance = Some(Micros(5));
        [0, 1].map(|channel| Arrival { channel, xid, user, balance, commit_lsn: xid, at })
    }

    #[test]
    fn each_event_once_on_each_channel_is_clean() {
        let at = Instant::now();
        let later = at + Duration::from_millis(3);
        let commits = [commit(1, 7, at), commit(1, 8, at), commit(2, 7, later)];
        let arrivals = [both(1, 7, later), both(1, 8, later), both(2, 7, at)].concat();
        let tally = tally(&commits, &arrivals);
        assert!(tally.is_clean(), "{tally:?}");
        assert_eq!(tally.received, [3, 3]);
        assert_eq!((tally.p50, tally.p99, tally.early), (later - at, later - at, 2));
    }

    #[test]
    fn every_planted_fault_is_counted() {
        let at = Instant::now();
        let commits = [commit(1, 7, at), commit(2, 7, at), commit(3, 9, at)];
        let [first, again] = [both(1, 7, at), both(1, 7, at)];
        let mut wrong = both(3, 9, at);
        wrong[0].balance = Some(Micros(6));
        let only_one_channel = [wrong[0]];
        let rolled_back = [both(4, 7, at)[0]];
        let arrivals = [&both(2, 7, at)[..], &first, &again, &only_one_channel, &rolled_back].concat();
        let tally = tally(&commits, &arrivals);
        assert_eq!(tally.duplicates, [1, 1]);
        assert_eq!(tally.missing, [0, 1]);
        assert_eq!((tally.uncalled, tally.wrong_balance, tally.out_of_order), (1, 1, 2));
        assert!(!tally.is_clean());
    }
}
