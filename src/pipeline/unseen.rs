//! Which commits the stream has brought that a snapshot may not see yet, and of whom. No IO.

use std::collections::{HashSet, VecDeque};

use crate::balance::User;
use crate::lsn::{Lsn, Snapshot, Xid64};

/// Commits that are remembered one by one. More than a server commits between two snapshots.
const COMMITS: usize = 1 << 16;
/// Users that are remembered by name, of all commits together.
const USERS: usize = 1 << 16;

/// Commits that no snapshot was known to see when the stream brought them.
///
/// A commit is in WAL, and in the stream, before snapshots see it; under synchronous replication as long before as the
/// standby takes. If Redis loses it then, a row that is read is older, and no fence tells. So it has to stay in the slot
/// until it is seen, and a row of its users is not written from an older snapshot: its fence would stop what the slot
/// sends again.
#[derive(Debug, Default)]
pub struct Unseen {
    /// The newest snapshot.
    snapshot: Option<Snapshot>,
    /// Oldest first.
    commits: VecDeque<Commit>,
    /// Users whom these name.
    named: usize,
    /// Whom the transaction that is being received has changed so far.
    open: Changed,
    /// Commits beyond the bound: where the first begins, and the highest id.
    beyond: Option<(Lsn, Xid64)>,
}

#[derive(Debug)]
struct Commit {
    /// Where its record begins.
    lsn: Lsn,
    xid: Xid64,
    changed: Changed,
}

/// Whom a transaction has changed.
#[derive(Debug)]
enum Changed {
    Some(Vec<User>),
    /// More than are remembered.
    Anybody,
}

impl Default for Changed {
    fn default() -> Changed {
        Changed::Some(Vec::new())
    }
}

impl Unseen {
    /// The stream goes on in a transaction that has changed this user's row.
    pub fn changed(&mut self, xid: Xid64, user: &User) {
        if self.is_seen(xid) {
            return;
        }
        match &mut self.open {
            Changed::Some(users) if self.named + users.len() < USERS => users.push(user.clone()),
            open => *open = Changed::Anybody,
        }
    }

    /// The transaction has committed.
    pub fn received(&mut self, lsn: Lsn, xid: Xid64) {
        let changed = std::mem::take(&mut self.open);
        if self.is_seen(xid) {
            return;
        }
        match &mut self.beyond {
            Some((_, highest)) => *highest = xid.max(*highest),
            None if self.commits.len() >= COMMITS => self.beyond = Some((lsn, xid)),
            None => {
                self.named += changed.named();
                self.commits.push_back(Commit { lsn, xid, changed });
            }
        }
    }

    fn is_seen(&self, xid: Xid64) -> bool {
        self.snapshot.as_ref().is_some_and(|snapshot| snapshot.sees(xid))
    }

    /// What a snapshot sees now, each later one sees too.
    pub fn seen(&mut self, snapshot: Snapshot) {
        self.commits.retain(|commit| !snapshot.sees(commit.xid));
        self.named = self.commits.iter().map(|commit| commit.changed.named()).sum();
        // Of those only the highest id is known: all are over where every id up to it is.
        self.beyond = self.beyond.filter(|(_, highest)| *highest >= snapshot.xmin);
        self.snapshot = Some(snapshot);
    }

    /// Where the first of them begins; the slot sends it again from there.
    pub fn first(&self) -> Option<Lsn> {
        let first = self.commits.front().map(|commit| commit.lsn);
        first.or(self.beyond.map(|(lsn, _)| lsn))
    }

    /// Of these users, whose change may be hidden from a snapshot; `None` where nobody knows of whom it is.
    pub fn hidden<'u>(
        &self,
        snapshot: &Snapshot,
        users: impl Iterator<Item = &'u User>,
    ) -> Option<HashSet<User>> {
        let mut changed = HashSet::new();
        for commit in self.commits.iter().filter(|commit| !snapshot.sees(commit.xid)) {
            match &commit.changed {
                Changed::Some(users) => changed.extend(users),
                Changed::Anybody => return None,
            }
        }
        if self.beyond.is_some_and(|(_, highest)| highest >= snapshot.xmin) {
            return None;
        }
        Some(users.filter(|user| changed.contains(user)).cloned().collect())
    }
}

impl Changed {
    fn named(&self) -> usize {
        match self {
            Changed::Some(users) => users.len(),
            Changed::Anybody => 0,
        }
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
        assert_eq!((unseen.first(), unseen.named), (None, 0));
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
        assert_eq!((hidden(&unseen, "6:6:").as_str(), unseen.named), ("3", 2), "all snapshots see 6 by now");
    }

    #[test]
    fn of_more_users_than_are_remembered_nobody_is_read_before_the_commit_is_seen() {
        let mut unseen = Unseen::default();
        for id in 0..=USERS {
            unseen.changed(Xid64(6), &user(&id.to_string()));
        }
        unseen.received(Lsn(6), Xid64(6));
        assert_eq!((unseen.named, unseen.first()), (0, Some(Lsn(6))));
        let nobody = [user("1")];
        assert!(unseen.hidden(&snapshot("6:6:"), nobody.iter()).is_none());
        assert!(unseen.hidden(&snapshot("7:7:"), nobody.iter()).is_some());
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
        unseen.seen(snapshot(&format!("{}:{}:", 2 * bound, 3 * bound)));
        assert_eq!(unseen.first(), Some(Lsn(bound)), "the last is not over");
        assert!(unseen.hidden(&snapshot(&format!("{}:{}:", 2 * bound, 3 * bound)), [].iter()).is_none());
        unseen.seen(snapshot(&format!("{}:{}:", 2 * bound + 1, 3 * bound)));
        assert_eq!(unseen.first(), None);
    }
}
