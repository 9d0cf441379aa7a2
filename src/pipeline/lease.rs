//! When the lease may be renewed, and what it says. No IO.
//!
//! Every lease is a proof: the end of WAL was read, together with the database's clock, on a connection that does not
//! stream; then everything before that end was applied; then every node took a checkpoint over the one before, so
//! that none has lost anything. A stream that is cut or late, a flight that is stuck and a node that forgot leave it
//! to expire.

use std::time::{Duration, Instant};

use crate::balance::time::commit_iso;
use crate::health::progress::WalEnd;
use crate::lsn::Lsn;
use crate::pgoutput::PgTime;
use crate::sink::{Freshness, PROOF_LIMIT};

/// Shortest time between two renewals.
const RENEW_INTERVAL: Duration = Duration::from_secs(1);

/// What the next lease will say.
#[derive(Debug, Default)]
pub struct Lease {
    /// An end of WAL that is not applied yet.
    pending: Option<WalEnd>,
    /// The last one that is.
    proven: Option<WalEnd>,
    /// When the last change that is in Redis committed.
    committed: Option<PgTime>,
    /// When a renewal was tried last.
    tried: Option<Instant>,
}

impl Lease {
    /// Takes the next end of WAL, unless one waits for the stream.
    pub fn take(&mut self, told: impl FnOnce() -> Option<WalEnd>) {
        if self.pending.is_none() {
            self.pending = told();
        }
    }

    /// Everything before `applied` is in Redis; whether that proved something, so that the next end may be taken.
    pub fn applied(&mut self, applied: Lsn) -> bool {
        let proven = self.pending.take_if(|end| end.lsn <= applied);
        self.proven = proven.or(self.proven);
        proven.is_some()
    }

    /// Whether the stream is to be asked how far WAL is.
    pub fn waits_for_wal(&self) -> bool {
        self.pending.is_some()
    }

    /// Changes of these commits are in Redis.
    pub fn note(&mut self, committed: &[PgTime]) {
        self.committed = committed.last().copied().or(self.committed);
    }

    /// Whether a renewal is due, as far as the database is concerned.
    pub fn is_due(&self) -> bool {
        self.tried.is_none_or(|tried| tried.elapsed() >= RENEW_INTERVAL)
            && self.proven.is_some_and(|end| end.asked.elapsed() < PROOF_LIMIT)
    }

    /// A renewal was tried, or may not be.
    pub fn try_later(&mut self) {
        self.tried = Some(Instant::now());
    }

    /// What a lease may say once every node holds a checkpoint at or past the end that is proven. What is applied beyond that
    /// may have come without what the publication did not carry.
    pub fn freshness(&self) -> Option<Freshness> {
        let proven = self.proven?;
        Some(Freshness {
            position: proven.lsn,
            asked: proven.asked,
            committed_at: self.committed.map(|time| commit_iso(time).into()),
            as_of: commit_iso(PgTime(proven.clock)).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(lsn: u64) -> WalEnd {
        WalEnd { lsn: Lsn(lsn), clock: 0, asked: Instant::now() }
    }

    #[test]
    fn only_an_end_that_was_applied_proves_anything() {
        let mut lease = Lease::default();
        assert!(!lease.is_due() && lease.freshness().is_none());
        lease.take(|| Some(end(10)));
        lease.take(|| Some(end(20)));
        assert!(!lease.applied(Lsn(9)) && lease.waits_for_wal() && !lease.is_due());
        assert!(lease.applied(Lsn(10)), "a later end does not take the place of one that waits");
        assert!(lease.is_due() && !lease.waits_for_wal());
        assert_eq!(lease.freshness().map(|fresh| fresh.position), Some(Lsn(10)));
        lease.try_later();
        assert!(!lease.is_due(), "at most one in a while");
    }

    #[test]
    fn an_old_proof_renews_nothing() {
        let Some(asked) = Instant::now().checked_sub(PROOF_LIMIT) else { return };
        let mut lease = Lease::default();
        lease.take(|| Some(WalEnd { asked, ..end(10) }));
        assert!(lease.applied(Lsn(10)) && !lease.is_due());
    }
}
