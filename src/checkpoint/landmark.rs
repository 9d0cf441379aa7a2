//! Whether the stream goes on with the history that Redis holds. No IO.
//!
//! A copy of the server's files that was put back has the same name and timeline, and once it has been written to for a
//! while also as much WAL. What it has no more is the transaction that was applied last, at its place: between that one and
//! what a checkpoint says there was no other.

use std::collections::VecDeque;

use crate::lsn::Lsn;

/// A transaction, known again by where it committed, its number and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landmark {
    /// Start of its commit record.
    pub commit_lsn: Lsn,
    /// Its 32-bit transaction id: of the epoch before it only the reader knows.
    pub xid: u32,
    /// When it committed, in microseconds since 2000.
    pub time: i64,
}

/// From transactions that were received to the last one that is in Redis.
#[derive(Debug, Clone, Default)]
pub struct Landmarks {
    /// Those that are not in Redis, with their ends: as many as the [`Tracker`](super::Tracker) has.
    open: VecDeque<(Lsn, Landmark)>,
    applied: Option<Landmark>,
}

impl Landmarks {
    /// Where `applied` is the last one that is there.
    pub fn new(applied: Option<Landmark>) -> Landmarks {
        Landmarks { open: VecDeque::new(), applied }
    }

    /// A transaction was received whole.
    pub fn received(&mut self, end: Lsn, landmark: Landmark) {
        self.open.push_back((end, landmark));
    }

    /// Everything before `applied` is in Redis. Returns the last transaction there; one that was there before, and is sent
    /// again, is none.
    pub fn applied(&mut self, applied: Lsn) -> Option<Landmark> {
        while let Some((end, landmark)) = self.open.front().copied()
            && end <= applied
        {
            self.open.pop_front();
            if self.applied.is_none_or(|before| before.commit_lsn < landmark.commit_lsn) {
                self.applied = Some(landmark);
            }
        }
        self.applied
    }
}

/// The last transaction that a checkpoint counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// That transaction.
    pub landmark: Landmark,
    /// The checkpoint's position: behind that transaction and before it there is no other.
    pub until: Lsn,
}

/// What the stream has to bring, if it is of the history that Redis holds.
#[derive(Debug, Clone, Copy)]
pub struct Proof {
    landmark: Landmark,
    until: Lsn,
    /// Whether the stream begins before it.
    is_sent: bool,
    seen: bool,
}

impl Proof {
    /// Of a stream from `from`.
    pub fn new(Counted { landmark, until }: Counted, from: Lsn) -> Proof {
        Proof { landmark, until, is_sent: from <= landmark.commit_lsn, seen: false }
    }

    /// Whether the next transaction can be of that history.
    pub fn meets(&mut self, next: Landmark) -> bool {
        if next.commit_lsn < self.landmark.commit_lsn {
            return true;
        }
        if next.commit_lsn == self.landmark.commit_lsn {
            self.seen = true;
            return next == self.landmark;
        }
        next.commit_lsn >= self.until && (self.seen || !self.is_sent)
    }

    /// Whether the server can have nothing to send before `wal_end`, no transaction being open. What it says of that
    /// passes a commit only once that is sent.
    pub fn passes(&self, wal_end: Lsn) -> bool {
        self.seen || !self.is_sent || wal_end <= self.landmark.commit_lsn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64) -> Landmark {
        Landmark { commit_lsn: Lsn(lsn), xid: 7, time: 9 }
    }

    /// Whether a stream from there brings these, behind a checkpoint at 100 whose last transaction is at 50.
    fn is_ours(from: u64, stream: &[Landmark]) -> bool {
        let mut proof = Proof::new(Counted { landmark: at(50), until: Lsn(100) }, Lsn(from));
        stream.iter().all(|next| proof.meets(*next))
    }

    #[test]
    fn a_stream_that_brings_the_last_transaction_at_its_place_goes_on() {
        assert!(is_ours(10, &[at(20), at(50), at(50), at(100), at(120)]));
        assert!(is_ours(60, &[at(100), at(120)]), "it begins behind it");
        assert!(is_ours(10, &[at(20)]), "it has not come so far");
    }

    #[test]
    fn one_that_brings_another_there_or_none_or_one_behind_it_is_of_another_history() {
        assert!(!is_ours(10, &[at(20), Landmark { xid: 8, ..at(50) }]));
        assert!(!is_ours(10, &[at(20), Landmark { time: 8, ..at(50) }]));
        assert!(!is_ours(10, &[at(20), at(51)]) && !is_ours(50, &[at(120)]));
        assert!(!is_ours(10, &[at(50), at(99)]) && !is_ours(60, &[at(99)]), "there was nothing up to 100");
    }

    #[test]
    fn a_server_that_says_nothing_of_the_last_transaction_and_is_past_it_is_of_another_history() {
        let counted = Counted { landmark: at(50), until: Lsn(100) };
        let mut proof = Proof::new(counted, Lsn(10));
        assert!(proof.passes(Lsn(50)) && !proof.passes(Lsn(51)));
        assert!(proof.meets(at(50)) && proof.passes(Lsn(51)));
        assert!(Proof::new(counted, Lsn(60)).passes(Lsn(90)), "the stream begins behind it");
    }

    #[test]
    fn the_last_one_in_redis_is_known_and_never_an_earlier_one() {
        let mut landmarks = Landmarks::new(Some(at(20)));
        landmarks.received(Lsn(11), at(10));
        landmarks.received(Lsn(31), at(30));
        landmarks.received(Lsn(41), at(40));
        assert_eq!(landmarks.applied(Lsn(30)), Some(at(20)), "what is sent again was there before");
        assert_eq!(landmarks.applied(Lsn(31)), Some(at(30)));
        assert_eq!(landmarks.applied(Lsn(90)), Some(at(40)));
        assert!(landmarks.open.is_empty());
    }
}
