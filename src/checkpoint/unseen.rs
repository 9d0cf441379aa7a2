//! Which commits the stream has brought that a snapshot may not see yet. No IO.

use std::collections::VecDeque;

use crate::lsn::{Lsn, Snapshot, Xid64};

/// Commits that are remembered one by one; 1 MiB. More than a server commits between two snapshots.
const REMEMBERED: usize = 1 << 16;

/// Commits that no snapshot was known to see when the stream brought them.
///
/// A commit is in WAL, and in the stream, before snapshots see it; under synchronous replication as long before as the
/// standby takes. If Redis loses it then, a load reads what was before. So it has to stay in the slot until it is seen.
#[derive(Debug, Default)]
pub struct Unseen {
    /// The newest snapshot.
    snapshot: Option<Snapshot>,
    /// Where their commit records begin, oldest first.
    commits: VecDeque<(Lsn, Xid64)>,
    /// Those beyond the bound: where the first begins, and the highest id.
    beyond: Option<(Lsn, Xid64)>,
}

impl Unseen {
    /// The stream brought a commit.
    pub fn received(&mut self, commit_lsn: Lsn, xid: Xid64) {
        if self.snapshot.as_ref().is_some_and(|snapshot| snapshot.sees(xid)) {
            return;
        }
        match &mut self.beyond {
            Some((_, highest)) => *highest = xid.max(*highest),
            None if self.commits.len() >= REMEMBERED => self.beyond = Some((commit_lsn, xid)),
            None => self.commits.push_back((commit_lsn, xid)),
        }
    }

    /// What a snapshot sees now, each later one sees too.
    pub fn seen(&mut self, snapshot: Snapshot) {
        self.commits.retain(|(_, xid)| !snapshot.sees(*xid));
        // Of those only the highest id is known: all are over where every id up to it is.
        self.beyond = self.beyond.filter(|(_, highest)| *highest >= snapshot.xmin);
        self.snapshot = Some(snapshot);
    }

    /// Where the first of them begins; the slot sends it again from there.
    pub fn first(&self) -> Option<Lsn> {
        self.commits.front().or(self.beyond.as_ref()).map(|(lsn, _)| *lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn a_commit_is_unseen_until_a_snapshot_sees_it() {
        let mut unseen = Unseen::default();
        unseen.received(Lsn(100), Xid64(7));
        unseen.received(Lsn(110), Xid64(6));
        unseen.seen(snapshot("6:8:6"));
        assert_eq!(unseen.first(), Some(Lsn(110)), "6 is not over");
        unseen.seen(snapshot("8:8:"));
        assert_eq!(unseen.first(), None);
    }

    #[test]
    fn what_the_last_snapshot_saw_is_not_remembered() {
        let mut unseen = Unseen::default();
        unseen.seen(snapshot("6:8:6"));
        unseen.received(Lsn(100), Xid64(7));
        assert_eq!(unseen.first(), None);
        unseen.received(Lsn(110), Xid64(6));
        unseen.received(Lsn(120), Xid64(8));
        assert_eq!(unseen.first(), Some(Lsn(110)));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_errs_to_the_earlier_side() {
        let mut unseen = Unseen::default();
        for xid in 0..=2 * REMEMBERED as u64 {
            unseen.received(Lsn(xid), Xid64(xid));
        }
        assert_eq!(unseen.commits.len(), REMEMBERED);
        let bound = REMEMBERED as u64;
        unseen.seen(snapshot(&format!("{bound}:{}:{bound}", 3 * bound)));
        assert_eq!(unseen.first(), Some(Lsn(bound)));
        unseen.seen(snapshot(&format!("{}:{}:", 2 * bound, 3 * bound)));
        assert_eq!(unseen.first(), Some(Lsn(bound)), "the last is not over");
        unseen.seen(snapshot(&format!("{}:{}:", 2 * bound + 1, 3 * bound)));
        assert_eq!(unseen.first(), None);
    }
}
