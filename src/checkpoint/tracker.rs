//! From flights that are in Redis to the position that PostgreSQL may forget. No IO.

use std::collections::VecDeque;

use crate::lsn::Lsn;

/// Bookkeeping of three positions, each at or before the next: what the checkpoint in Redis says, what is in Redis,
/// what was received.
///
/// None of them ever goes back, not even when a new connection sends transactions again.
/// It holds one entry for each transaction that was handed on and is not in Redis yet, so it is as bounded
/// as the flight that is out and the one that is gathered meanwhile.
#[derive(Debug, Clone)]
pub struct Tracker {
    /// Number of the last window handed on.
    last_sequence: u64,
    /// Number of the last window that is in Redis.
    applied_sequence: u64,
    /// Ends of transactions that are not in Redis: number of the last window, position.
    open_ends: VecDeque<(u64, Lsn)>,
    received: Lsn,
    applied: Lsn,
    stored: Lsn,
}

impl Tracker {
    /// Begins at `start`, up to which everything is in Redis and recorded there.
    pub fn new(start: Lsn) -> Tracker {
        Tracker {
            last_sequence: 0,
            applied_sequence: 0,
            open_ends: VecDeque::new(),
            received: start,
            applied: start,
            stored: start,
        }
    }

    /// A window was handed on; `end_lsn` if it was its transaction's last. Returns the window's number, to be
    /// given to [`applied`](Tracker::applied).
    pub fn received(&mut self, end_lsn: Option<Lsn>) -> u64 {
        self.last_sequence += 1;
        if let Some(end) = end_lsn {
            self.received = self.received.max(end);
            self.open_ends.push_back((self.last_sequence, end));
        }
        self.last_sequence
    }

    /// Every window up to number `sequence` is in Redis. Numbers that were not given out yet count as the last.
    pub fn applied(&mut self, sequence: u64) {
        self.applied_sequence = self.applied_sequence.max(sequence.min(self.last_sequence));
        while let Some(&(last, end)) = self.open_ends.front()
            && last <= self.applied_sequence
        {
            self.applied = self.applied.max(end);
            self.open_ends.pop_front();
        }
    }

    /// The server has nothing to send before `wal_end`: follows it, where nothing that was received is open or
    /// on its way to Redis. Without this an idle database's slot would hold other databases' WAL for ever.
    ///
    /// `idle` is [`Assembler::is_idle`](crate::txn::Assembler::is_idle).
    pub fn keepalive(&mut self, wal_end: Lsn, idle: bool) {
        if idle && self.applied_sequence == self.last_sequence {
            self.received = self.received.max(wal_end);
            self.applied = self.applied.max(wal_end);
        }
    }

    /// Every Redis node holds a checkpoint at `lsn`, which counts up to what is applied.
    pub fn stored(&mut self, lsn: Lsn) {
        self.stored = self.stored.max(lsn.min(self.applied));
    }

    /// End of the last transaction that was received whole, or the idle position followed since.
    pub fn received_lsn(&self) -> Lsn {
        self.received
    }

    /// Everything before it is in Redis: what the next checkpoint says.
    pub fn applied_lsn(&self) -> Lsn {
        self.applied
    }

    /// The last checkpoint that every node holds: the most that PostgreSQL may be told to forget.
    pub fn stored_lsn(&self) -> Lsn {
        self.stored
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_stored_checkpoint_is_acknowledged() {
        let mut tracker = Tracker::new(Lsn(10));
        let sequence = tracker.received(Some(Lsn(20)));
        assert_eq!((tracker.received_lsn(), tracker.applied_lsn()), (Lsn(20), Lsn(10)));
        tracker.applied(sequence);
        assert_eq!((tracker.applied_lsn(), tracker.stored_lsn()), (Lsn(20), Lsn(10)));
        tracker.stored(Lsn(20));
        assert_eq!(tracker.stored_lsn(), Lsn(20));
    }

    #[test]
    fn a_window_that_is_not_the_last_moves_nothing() {
        let mut tracker = Tracker::new(Lsn(10));
        let first = tracker.received(None);
        let last = tracker.received(Some(Lsn(20)));
        tracker.applied(first);
        assert_eq!(tracker.applied_lsn(), Lsn(10));
        tracker.applied(last);
        assert_eq!(tracker.applied_lsn(), Lsn(20));
    }

    #[test]
    fn a_flight_of_several_transactions_is_applied_up_to_its_last() {
        let mut tracker = Tracker::new(Lsn(10));
        tracker.received(Some(Lsn(20)));
        let second = tracker.received(Some(Lsn(30)));
        let third = tracker.received(Some(Lsn(40)));
        tracker.applied(second);
        assert_eq!(tracker.applied_lsn(), Lsn(30));
        tracker.applied(third);
        assert_eq!((tracker.applied_lsn(), tracker.open_ends.len()), (Lsn(40), 0));
    }

    #[test]
    fn a_keepalive_is_followed_only_when_nothing_is_open_or_unapplied() {
        let mut tracker = Tracker::new(Lsn(10));
        tracker.keepalive(Lsn(15), false);
        assert_eq!(tracker.applied_lsn(), Lsn(10), "a transaction is open");
        let sequence = tracker.received(Some(Lsn(20)));
        tracker.keepalive(Lsn(30), true);
        assert_eq!(tracker.applied_lsn(), Lsn(10), "a transaction is on its way");
        tracker.applied(sequence);
        tracker.keepalive(Lsn(30), true);
        assert_eq!((tracker.applied_lsn(), tracker.stored_lsn()), (Lsn(30), Lsn(10)));
    }

    #[test]
    fn a_transaction_that_is_sent_again_moves_nothing_back() {
        let mut tracker = Tracker::new(Lsn(10));
        let first = tracker.received(Some(Lsn(40)));
        tracker.applied(first);
        let again = tracker.received(Some(Lsn(20)));
        tracker.keepalive(Lsn(30), true);
        tracker.applied(again);
        assert_eq!((tracker.received_lsn(), tracker.applied_lsn()), (Lsn(40), Lsn(40)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Received { gap: u64, last: bool },
        Applied(u64),
        Keepalive { ahead: u64, idle: bool },
        Stored(u64),
        Reconnected { back: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_u64..50, any::<bool>()).prop_map(|(gap, last)| Step::Received { gap, last }),
            4 => (0_u64..60).prop_map(Step::Applied),
            2 => (0_u64..50, any::<bool>()).prop_map(|(ahead, idle)| Step::Keepalive { ahead, idle }),
            3 => (0_u64..3000).prop_map(Step::Stored),
            1 => (0_u64..200).prop_map(|back| Step::Reconnected { back }),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn positions_stay_in_order_and_never_go_back(steps in steps()) {
            let mut tracker = Tracker::new(Lsn(100));
            let mut wal = 100;
            // Ends that came for the first time and are not applied: what must not be acknowledged.
            let mut unapplied: Vec<(u64, Lsn)> = Vec::new();
            for step in steps {
                let before = tracker.clone();
                match step {
                    Step::Received { gap, last } => {
                        wal += gap;
                        let end = last.then_some(Lsn(wal));
                        let fresh = end.filter(|end| *end > tracker.received_lsn());
                        let sequence = tracker.received(end);
                        unapplied.extend(fresh.map(|end| (sequence, end)));
                    }
                    Step::Applied(sequence) => {
                        tracker.applied(sequence);
                        unapplied.retain(|(last, _)| *last > sequence);
                    }
                    Step::Keepalive { ahead, idle } => tracker.keepalive(Lsn(wal + ahead), idle),
                    Step::Stored(lsn) => tracker.stored(Lsn(lsn)),
                    Step::Reconnected { back } => wal = wal.saturating_sub(back).max(tracker.stored_lsn().0),
                }
                prop_assert!(tracker.stored_lsn() <= tracker.applied_lsn());
                prop_assert!(tracker.applied_lsn() <= tracker.received_lsn());
                prop_assert!(before.stored_lsn() <= tracker.stored_lsn());
                prop_assert!(before.applied_lsn() <= tracker.applied_lsn());
                prop_assert!(before.received_lsn() <= tracker.received_lsn());
                prop_assert!(unapplied.iter().all(|(_, end)| tracker.applied_lsn() < *end));
                prop_assert!(tracker.open_ends.iter().all(|(last, _)| *last > tracker.applied_sequence));
            }
        }
    }
}
