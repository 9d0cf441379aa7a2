//! What was sent against what was heard.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::super::limits::per_second;
use crate::error::{Error, Result};

/// A committed transaction.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Its id.
    pub xid: u64,
    /// When it was to be sent, from the beginning.
    pub due: Duration,
    /// How much later it was.
    pub late: Duration,
    /// When it was sent.
    pub at: Instant,
}

/// A message at the subscriber.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    /// The transaction that it tells of.
    pub xid: u64,
    /// When it had been read.
    pub at: Instant,
}

/// What one load came to. Only the two counts have the warm-up in them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Transactions.
    pub written: u64,
    /// Those of which a message came.
    pub heard: u64,
    /// Median time from sent to heard.
    pub p50: Duration,
    /// The 99th percentile of it.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
    /// Transactions that were sent in a second.
    pub rate: f64,
    /// The 99th percentile of how much later than due one was sent.
    pub late: Duration,
}

/// Compares the two, from when the writers are `warm`.
pub fn tally(sent: &[Sent], heard: &[Heard], warm: Duration) -> Result<Figures> {
    let mut unheard: HashMap<u64, &Sent> = sent.iter().map(|sent| (sent.xid, sent)).collect();
    let (mut waits, mut strange) = (Vec::new(), 0_u64);
    for heard in heard {
        match unheard.remove(&heard.xid) {
            Some(sent) if sent.due >= warm => waits.push(heard.at.saturating_duration_since(sent.at)),
            Some(_) => {}
            None => strange += 1,
        }
    }
    if strange > 0 {
        let fact = format!("{strange} messages tell of a transaction again, or of one that nobody wrote");
        return Err(Error::definite(fact, "report this as a bug"));
    }
    if waits.is_empty() {
        let fact = format!("no message of {} transactions was heard", sent.len());
        return Err(Error::definite(fact, "try again when less else runs"));
    }
    let measured = || sent.iter().filter(|sent| sent.due >= warm);
    let mut late: Vec<Duration> = measured().map(|sent| sent.late).collect();
    waits.sort_unstable();
    late.sort_unstable();
    Ok(Figures {
        written: sent.len() as u64,
        heard: heard.len() as u64,
        p50: percentile(&waits, 50),
        p99: percentile(&waits, 99),
        longest: percentile(&waits, 100),
        rate: rate(measured()),
        late: percentile(&late, 99),
    })
}

/// The smallest that is no smaller than so many of a hundred; of what is sorted.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).copied().unwrap_or_default()
}

/// From the first to the last: one less than there are lie between them.
fn rate<'a>(sent: impl Iterator<Item = &'a Sent> + Clone) -> f64 {
    let times = || sent.clone().map(|sent| sent.at);
    match (times().min(), times().max()) {
        (Some(first), Some(last)) => per_second(times().skip(1).count() as f64, last - first),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARM: Duration = Duration::from_secs(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// One each 10 ms, from the beginning.
    fn sent(begin: Instant, count: u64) -> Vec<Sent> {
        let one = |n| Sent { xid: 700 + n, due: ms(10 * n), late: ms(2), at: begin + ms(10 * n + 2) };
        (0..count).map(one).collect()
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<Duration> = (1..=200).map(ms).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&values, percent)), [ms(100), ms(198), ms(200)]);
        let few = [ms(3), ms(5), ms(9)];
        assert_eq!([50, 99, 100].map(|percent| percentile(&few, percent)), [ms(5), ms(9), ms(9)]);
        assert_eq!(percentile(&[ms(7)], 50), ms(7));
        assert_eq!(percentile(&[], 99), ms(0));
    }

    #[test]
    fn messages_find_their_transactions_in_any_order_and_the_warm_up_is_only_counted() {
        let sent = sent(Instant::now(), 200);
        // What is heard in the first second takes far longer.
        let wait = |n: usize| if n < 100 { ms(500) } else { ms(n as u64 - 99) };
        let heard: Vec<Heard> =
            sent.iter().enumerate().rev().map(|(n, s)| Heard { xid: s.xid, at: s.at + wait(n) }).collect();
        let figures = tally(&sent, &heard, WARM).unwrap();
        assert_eq!((figures.written, figures.heard), (200, 200));
        assert_eq!((figures.p50, figures.p99, figures.longest), (ms(50), ms(99), ms(100)));
        assert!((figures.rate - 100.0).abs() < 1e-6, "{figures:?}");
        assert_eq!(figures.late, ms(2));
    }

    #[test]
    fn what_is_lost_is_counted_and_what_nobody_wrote_or_comes_again_is_an_error() {
        let begin = Instant::now();
        let sent = sent(begin, 200);
        let mut heard: Vec<Heard> = sent.iter().map(|s| Heard { xid: s.xid, at: s.at + ms(1) }).collect();
        let last = heard.pop().unwrap();
        let figures = tally(&sent, &heard, WARM).unwrap();
        assert_eq!((figures.written, figures.heard), (200, 199));
        for strange in [Heard { xid: 1, at: begin }, heard[7]] {
            let all = [&heard[..], &[last, strange]].concat();
            let error = tally(&sent, &all, WARM).unwrap_err().to_string();
            assert!(error.starts_with("1 messages"), "{error}");
        }
        let error = tally(&sent, &[], WARM).unwrap_err().to_string();
        assert!(error.starts_with("no message of 200"), "{error}");
    }
}
