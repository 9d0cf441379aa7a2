//! Which commits the stream has brought that a snapshot may not see yet, and of whom. No IO.

use std::collections::{HashSet, VecDeque};

use crate::balance::User;
use crate::lsn::{Lsn, Snapshot, Xid64};

/// Commits that are remembered one by one. More than a server commits between two snapshots.
const COMMITS: usize = 1 << 16;
/// Changes of users that are remembered, of all transactions together.
const CHANGES: usize = 1 << 16;

/// Commits that no snapshot was known to see when the stream brought them.
///
/// A commit is in WAL, and in the stream, before snapshots see it; under synchronous replication as long before as the
/// standby takes. If Redis loses it then, a row that is read is older, and no fence tells. So it has to stay in the slot
/// until it is seen, and a row of its users is not written from a snapshot that does not see it: its fence would stop what
/// the slot sends again. A snapshot that is older than the newest one is not held against what that one sees; whoever
/// notices the loss reads once more.
#[derive(Debug, Default)]
pub struct Unseen {
    /// The newest snapshot.
    snapshot: Option<Snapshot>,
    /// Oldest first.
    commits: VecDeque<Commit>,
    /// Whom they have changed, and whom the transaction that is being received has; oldest first.
    changes: VecDeque<(Xid64, User)>,
    /// Whether of the transaction that is being received somebody is missing there.
    is_cut: bool,
    /// Commits beyond the bound: where the first begins, and the highest id.
    beyond: Option<(Lsn, Xid64)>,
}

#[derive(Debug)]
struct Commit {
    /// Where its record begins.
    lsn: Lsn,
    xid: Xid64,
    /// Whether it has changed more users than are remembered.
    is_cut: bool,
}

impl Unseen {
    /// The stream goes on in a transaction that has changed this user's row.
    pub fn changed(&mut self, xid: Xid64, user: &User) {
        if self.is_seen(xid) {
            return;
        }
        match self.changes.len() < CHANGES {
            true => self.changes.push_back((xid, user.clone())),
            false => self.is_cut = true,
        }
    }

    /// The transaction has committed.
    pub fn received(&mut self, lsn: Lsn, xid: Xid64) {
        let is_cut = std::mem::take(&mut self.is_cut);
        if self.is_seen(xid) {
            return;
        }
        if self.commits.len() < COMMITS {
            return self.commits.push_back(Commit { lsn, xid, is_cut });
        }
        let (first, highest) = self.beyond.unwrap_or((lsn, xid));
        self.beyond = Some((first, highest.max(xid)));
    }

    fn is_seen(&self, xid: Xid64) -> bool {
        self.snapshot.as_ref().is_some_and(|snapshot| snapshot.sees(xid))
    }

    /// What a snapshot sees now, each later one sees too.
    pub fn seen(&mut self, snapshot: Snapshot) {
        self.commits.retain(|commit| !snapshot.sees(commit.xid));
        self.changes.retain(|(xid, _)| !snapshot.sees(*xid));
        // Of those only the highest id is known: all are over where every id up to it is.
        self.beyond = self.beyond.filter(|(_, highest)| *highest >= snapshot.xmin);
        self.snapshot = Some(snapshot);
    }

    /// Where the first of them begins; the slot sends it again from there.
    pub fn first(&self) -> Option<Lsn> {
        let first = self.commits.front().map(|commit| commit.lsn);
        first.into_iter().chain(self.beyond.map(|(lsn, _)| lsn)).min()
    }

    /// Of these users, whose change may be hidden from a snapshot; `None` where nobody knows of whom it is.
    pub fn hidden<'u>(
        &self,
        snapshot: &Snapshot,
        users: impl Iterator<Item = &'u User>,
    ) -> Option<HashSet<User>> {
        let is_unknown = |commit: &Commit| commit.is_cut && !snapshot.sees(commit.xid);
        let is_beyond = self.beyond.is_some_and(|(_, highest)| highest >= snapshot.xmin);
        if is_beyond || self.commits.iter().any(is_unknown) {
            return None;
        }
        let mut changes = self.changes.iter().filter(|(xid, _)| !snapshot.sees(*xid)).peekable();
        if changes.peek().is_none() {
            return Some(HashSet::new());
        }
        let users: HashSet<&User> = users.collect();
        Some(changes.map(|(_, user)| user).filter(|user| users.contains(user)).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    fn user(id: &str) -> User {
        User { user_type: "live".into(), id: id.into(), numeric_id: true }
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
        unseen.changed(Xid64(7), &user("1"));
        unseen.received(Lsn(100), Xid64(7));
        assert_eq!((unseen.first(), unseen.changes.len()), (None, 0));
        unseen.received(Lsn(110), Xid64(6));
        unseen.received(Lsn(120), Xid64(8));
        assert_eq!(unseen.first(), Some(Lsn(110)));
    }

    #[test]
    fn from_a_snapshot_that_does_not_see_a_commit_its_users_are_hidden() {
        let mut unseen = Unseen::default();
        for (xid, ids) in [(6, ["1", "2"]), (7, ["3", "4"])] {
            ids.iter().for_each(|id| unseen.changed(Xid64(xid), &user(id)));
            unseen.received(Lsn(xid), Xid64(xid));
        }
        let users = ["2", "3", "9"].map(user);
        let hidden = |unseen: &Unseen, text| {
            let hidden = unseen.hidden(&snapshot(text), users.iter()).unwrap();
            let mut ids: Vec<String> = hidden.iter().map(|user| user.id.to_string()).collect();
            ids.sort_unstable();
            ids.join(" ")
        };
        assert_eq!(hidden(&unseen, "6:6:"), "2 3");
        assert_eq!(hidden(&unseen, "6:8:6"), "2");
        assert_eq!(hidden(&unseen, "8:8:"), "");
        unseen.seen(snapshot("7:7:"));
        assert_eq!(hidden(&unseen, "6:6:"), "3", "who sees less than the newest snapshot rests on the load");
        unseen.changed(Xid64(8), &user("9"));
        assert_eq!(hidden(&unseen, "8:8:"), "9", "it has not committed yet, and is in redis in part");
    }

    #[test]
    fn of_more_users_than_are_remembered_nobody_is_read_before_the_commit_is_seen() {
        let mut unseen = Unseen::default();
        for id in 0..=CHANGES {
            unseen.changed(Xid64(6), &user(&id.to_string()));
        }
        unseen.received(Lsn(6), Xid64(6));
        assert_eq!((unseen.changes.len(), unseen.first()), (CHANGES, Some(Lsn(6))));
        let anybody = [user("1")];
        assert!(unseen.hidden(&snapshot("6:6:"), anybody.iter()).is_none());
        assert!(unseen.hidden(&snapshot("7:7:"), anybody.iter()).is_some());
        unseen.seen(snapshot("7:7:"));
        unseen.received(Lsn(7), Xid64(7));
        assert!(unseen.hidden(&snapshot("7:7:"), anybody.iter()).is_some(), "all of its users are known");
    }

    #[test]
    fn commits_that_are_remembered_are_bounded_and_err_to_the_earlier_side() {
        let mut unseen = Unseen::default();
        for xid in 0..=2 * COMMITS as u64 {
            unseen.received(Lsn(xid), Xid64(xid));
        }
        assert_eq!(unseen.commits.len(), COMMITS);
        let bound = COMMITS as u64;
        unseen.seen(snapshot(&format!("{bound}:{}:{bound}", 3 * bound)));
        assert_eq!(unseen.first(), Some(Lsn(bound)));
        // As many as there is room for again, and later than those beyond.
        unseen.received(Lsn(4 * bound), Xid64(4 * bound));
        unseen.seen(snapshot(&format!("{}:{}:", 2 * bound, 3 * bound)));
        assert_eq!(unseen.first(), Some(Lsn(bound)), "the last is not over");
        assert!(unseen.hidden(&snapshot(&format!("{}:{}:", 2 * bound, 3 * bound)), [].iter()).is_none());
        unseen.seen(snapshot(&format!("{}:{}:", 2 * bound + 1, 3 * bound)));
        assert_eq!(unseen.first(), Some(Lsn(4 * bound)), "though more came meanwhile");
        unseen.seen(snapshot(&format!("{}:{}:", 5 * bound, 5 * bound)));
        assert_eq!(unseen.first(), None);
    }
}
