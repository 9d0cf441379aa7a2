//! What could not be applied as written, and is not right yet: for whom, why, where, and since when. No IO.
//!
//! The list is bounded, the newest kept, and lies in Redis, where it is written before PostgreSQL may forget what it
//! tells of. A user is on it once, with the last incident; rows that touch no key have one entry for each table and
//! reason.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};
use serde::{Deserialize, Serialize};

use tokio::time::Instant;

use crate::balance::{Truncated, User};
use crate::lsn::{Lsn, Position};
use crate::metrics::count_gauge;

/// Entries that are kept; beyond it those that are healed go first, then the oldest.
pub const MAX_ENTRIES: usize = 1000;
/// Shortest time between two writes of the list.
const WRITE_INTERVAL: Duration = Duration::from_millis(200);

/// What was healed is no incident: an entry that is open in Redis is looked at again by the next start.
const NOWHERE: Lsn = Lsn(u64::MAX);

/// Whether what an entry tells of is still so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The user's keys stay deleted.
    Open,
    /// They were written since, or are rightly gone.
    Healed,
}

/// One entry: a line of JSON in Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Whether it is still so.
    pub state: State,
    /// Type and id; `None`: rows that touch no key.
    pub user: Option<(String, String)>,
    /// Schema and name of the table, where it is known.
    pub table: Option<String>,
    /// Why, without values.
    pub reason: String,
    /// The commit of the last incident; of a row that was read, the position it was read before.
    pub commit_lsn: String,
    /// Number of the row in that commit; 0: it was read from the database.
    pub row: u32,
    /// The transaction, where the stream brought it.
    pub xid: Option<u64>,
    /// When it committed, where the stream brought it, ISO-8601.
    pub committed_at: Option<String>,
    /// Incidents so far.
    pub count: u64,
}

impl Entry {
    fn position(&self) -> Position {
        Position { commit_lsn: self.commit_lsn.parse().unwrap_or(Lsn::ZERO), ordinal: self.row }
    }

    fn name(&self) -> Name {
        match &self.user {
            Some(user) => Name::User(user.clone()),
            None => Name::Rows(self.table.clone().unwrap_or_default(), self.reason.clone()),
        }
    }
}

/// Something that could not be applied as written.
#[derive(Debug, Clone)]
pub struct Incident<'a> {
    /// Whose; `None`: a row that touches no key.
    pub user: Option<&'a User>,
    /// Schema and name of the table, where it is known.
    pub table: Option<String>,
    /// Why, without values.
    pub reason: String,
    /// Where.
    pub position: Position,
    /// The transaction, and when it committed, where the stream brought it.
    pub commit: Option<(u64, String)>,
}

/// What is open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Open {
    /// Type and id of users.
    pub users: Vec<(String, String)>,
    /// Tables with rows that touch no key.
    pub tables: Vec<String>,
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    User((String, String)),
    Rows(String, String),
}

/// The list.
#[derive(Debug)]
pub struct Quarantine {
    /// With the number of the last incident: the oldest goes first.
    entries: HashMap<Name, (u64, Entry)>,
    incidents: u64,
    open: usize,
    /// Grows with every change.
    version: u64,
    /// The version that Redis holds, and the mark of its text.
    written: (u64, u64),
    /// The one that was handed out last, which Redis may hold.
    sent: (u64, u64),
    /// Position of the first incident that was not handed out yet, and of the first that was and may be nowhere.
    waits: Option<Lsn>,
    out: Option<Lsn>,
    tried: Option<Instant>,
    /// Told how many are open.
    gauge: IntGauge,
    /// Told how many were dropped while they were open.
    forgotten: IntCounter,
}

impl Quarantine {
    /// An empty one.
    pub fn new(gauge: IntGauge, forgotten: IntCounter) -> Quarantine {
        let empty = (0, mark(""));
        Quarantine {
            entries: HashMap::new(),
            incidents: 0,
            open: 0,
            version: 0,
            written: empty,
            sent: empty,
            waits: None,
            out: None,
            tried: None,
            gauge,
            forgotten,
        }
    }

    /// Takes the list that Redis keeps, unless this is the one that Redis was given: then what came since stands, though
    /// the stream does not tell all of it again. Positions past the end of WAL are of another history: whatever comes is
    /// later. Returns whether it is another's.
    pub fn remember(&mut self, record: Option<&str>, wal_end: Lsn) -> bool {
        let record = record.unwrap_or_default();
        let found = mark(record);
        if found == self.sent.1 {
            self.written = self.sent;
        }
        let is_ours = found == self.written.1;
        if is_ours {
            (self.waits, self.out) = (self.is_dirty().then_some(Lsn::ZERO), None);
        } else {
            self.entries.clear();
            for entry in entries(record) {
                self.incidents += 1;
                self.entries.insert(entry.name(), (self.incidents, entry));
            }
            self.written = (self.version, found);
            (self.waits, self.out) = (None, None);
        }
        for (_, entry) in self.entries.values_mut() {
            if entry.position().commit_lsn > wal_end {
                entry.commit_lsn = Lsn::ZERO.to_string();
            }
        }
        self.open = self.entries.values().filter(|(_, entry)| entry.state == State::Open).count();
        count_gauge(&self.gauge, self.open as u64);
        !is_ours
    }

    /// Takes an incident in, unless it is known: the stream says it again after a restart.
    pub fn record(&mut self, incident: Incident<'_>) {
        let user = incident.user.map(|user| (user.user_type.to_string(), user.id.to_string()));
        let mut entry = Entry {
            state: State::Open,
            user,
            table: incident.table,
            reason: incident.reason,
            commit_lsn: incident.position.commit_lsn.to_string(),
            row: incident.position.ordinal,
            xid: incident.commit.as_ref().map(|(xid, _)| *xid),
            committed_at: incident.commit.map(|(_, time)| time),
            count: 1,
        };
        let name = entry.name();
        let known = self.entries.get(&name).map(|(_, known)| known);
        if known.is_some_and(|known| known.position() >= incident.position) {
            return;
        }
        entry.count = known.map_or(1, |known| known.count.saturating_add(1));
        self.open += usize::from(known.is_none_or(|known| known.state == State::Healed));
        self.incidents += 1;
        self.entries.insert(name, (self.incidents, entry));
        if self.entries.len() > MAX_ENTRIES {
            self.forget_one();
        }
        self.changed(incident.position.commit_lsn);
    }

    /// A user was read, and is in doubt even so: no incident of its own, unless none is known.
    pub fn stays(&mut self, incident: Incident<'_>) {
        let known = incident.user.map(name_of).and_then(|name| self.entries.get_mut(&name));
        match known {
            Some((_, Entry { state: State::Open, .. })) => {}
            Some((_, entry)) => {
                entry.state = State::Open;
                self.open += 1;
                self.changed(incident.position.commit_lsn);
            }
            // Else it may be one that was forgotten, and would drive out a newer one.
            None if self.open < MAX_ENTRIES => self.record(incident),
            None => {}
        }
    }

    /// Whether anything is open: where nothing is, nothing else is to be asked.
    pub fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Whether this user's entry is open, with an incident before `position`.
    pub fn holds(&self, user: &User, position: Position) -> bool {
        !self.is_empty()
            && self
                .entries
                .get(&name_of(user))
                .is_some_and(|(_, entry)| entry.state == State::Open && entry.position() < position)
    }

    /// The user's keys are right.
    pub fn heal(&mut self, user: &User) {
        if self.is_empty() {
            return;
        }
        if let Some((_, entry)) = self.entries.get_mut(&name_of(user))
            && entry.state == State::Open
        {
            entry.state = State::Healed;
            self.open -= 1;
            self.changed(NOWHERE);
        }
    }

    /// A table was emptied: whoever was in it has rightly no keys.
    pub fn heal_emptied(&mut self, emptied: &Truncated) {
        self.heal_where(|name, entry| {
            let concerned = matches!(name, Name::User((user_type, _)) if emptied.may_concern(user_type));
            concerned && entry.position() < emptied.position
        });
    }

    /// The whole table is read again, which tells anew of its rows that touch no key.
    pub fn heal_rows(&mut self, table: &str) {
        self.heal_where(|name, _| matches!(name, Name::Rows(of, _) if of == table));
    }

    fn heal_where(&mut self, is_meant: impl Fn(&Name, &Entry) -> bool) {
        let before = self.open;
        for (name, (_, entry)) in &mut self.entries {
            if entry.state == State::Open && is_meant(name, entry) {
                entry.state = State::Healed;
                self.open -= 1;
            }
        }
        if self.open < before {
            self.changed(NOWHERE);
        }
    }

    /// What is open, oldest first.
    pub fn open(&self) -> Open {
        let mut open = Open::default();
        for entry in self.in_order().into_iter().filter(|entry| entry.state == State::Open) {
            match (&entry.user, &entry.table) {
                (Some(user), _) => open.users.push(user.clone()),
                (None, Some(table)) if !open.tables.contains(table) => open.tables.push(table.clone()),
                (None, _) => {}
            }
        }
        open
    }

    /// Whether Redis does not hold the list as it is.
    pub fn is_dirty(&self) -> bool {
        self.version != self.written.0
    }

    /// Whether the list tells of an incident before `applied` and Redis does not hold that yet: no checkpoint may be there.
    /// One behind which there is always the next incident may.
    pub fn holds_back(&self, applied: Lsn) -> bool {
        self.waits.into_iter().chain(self.out).any(|first| first < applied)
    }

    /// The list and its version, when it is to be written.
    pub fn due(&mut self) -> Option<(String, u64)> {
        let waits = self.tried.is_some_and(|tried| tried.elapsed() < WRITE_INTERVAL);
        if !self.is_dirty() || waits {
            return None;
        }
        self.tried = Some(Instant::now());
        let lines = self.in_order().into_iter().filter_map(|entry| serde_json::to_string(entry).ok());
        let text = lines.collect::<Vec<_>>().join("\n");
        self.sent = (self.version, mark(&text));
        self.out = self.waits.take().into_iter().chain(self.out).min();
        Some((text, self.version))
    }

    /// Redis holds this version.
    pub fn written(&mut self, version: u64) {
        if version == self.sent.0 {
            (self.written, self.out) = (self.sent, None);
        }
    }

    fn in_order(&self) -> Vec<&Entry> {
        let mut entries: Vec<_> = self.entries.values().collect();
        entries.sort_by_key(|(number, _)| *number);
        entries.into_iter().map(|(_, entry)| entry).collect()
    }

    fn forget_one(&mut self) {
        let oldest =
            self.entries.iter().min_by_key(|(_, (number, entry))| (entry.state == State::Open, *number));
        let Some(name) = oldest.map(|(name, _)| name.clone()) else { return };
        if let Some((_, Entry { state: State::Open, .. })) = self.entries.remove(&name) {
            self.open -= 1;
            self.forgotten.inc();
        }
    }

    /// Something is told of `at`.
    fn changed(&mut self, at: Lsn) {
        self.version += 1;
        self.waits = Some(self.waits.map_or(at, |first| first.min(at)));
        count_gauge(&self.gauge, self.open as u64);
    }
}

/// By which a list is known again.
fn mark(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn name_of(user: &User) -> Name {
    Name::User((user.user_type.to_string(), user.id.to_string()))
}

/// The entries of the record that Redis keeps, oldest first; what cannot be read is left out.
pub fn entries(record: &str) -> Vec<Entry> {
    record.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quarantine() -> Quarantine {
        let metrics = crate::metrics::Metrics::new().unwrap().sink;
        Quarantine::new(metrics.quarantine_open, metrics.quarantine_forgotten)
    }

    fn user(id: &str) -> User {
        User { user_type: "live".into(), id: id.into(), numeric_id: true }
    }

    fn at(lsn: u64) -> Position {
        Position { commit_lsn: Lsn(lsn), ordinal: 1 }
    }

    fn incident(user: Option<&User>, lsn: u64) -> Incident<'_> {
        let reason = "column x".to_owned();
        Incident { user, table: Some("public.users".into()), reason, position: at(lsn), commit: None }
    }

    #[test]
    fn an_incident_is_kept_once_until_it_is_healed() {
        let (mut list, seven) = (quarantine(), user("7"));
        list.record(incident(Some(&seven), 16));
        list.record(incident(Some(&seven), 16));
        assert!(list.holds(&seven, at(17)) && !list.holds(&seven, at(16)) && !list.holds(&user("8"), at(17)));
        let (record, version) = list.due().unwrap();
        assert!(list.is_dirty() && list.due().is_none(), "not again at once");
        list.written(version);
        assert!(!list.is_dirty());
        assert_eq!((entries(&record)[0].count, &*entries(&record)[0].commit_lsn), (1, "0/10"));
        list.heal(&seven);
        assert!(list.is_empty() && list.is_dirty());
        list.record(incident(Some(&seven), 16));
        assert!(list.is_empty(), "the stream says it again after a restart");
        list.record(incident(Some(&seven), 17));
        assert_eq!(list.open().users, [("live".to_owned(), "7".to_owned())]);
    }

    #[test]
    fn what_redis_keeps_is_gone_on_with() {
        let (mut list, seven) = (quarantine(), user("7"));
        list.record(incident(Some(&seven), 16));
        list.record(incident(None, 17));
        let (record, _) = list.due().unwrap();
        let mut next = quarantine();
        assert!(next.remember(Some(&record), Lsn(100)), "another's");
        assert_eq!(next.open(), list.open());
        assert!(!next.is_dirty());
        next.record(incident(Some(&seven), 12));
        assert!(!next.is_dirty(), "an earlier one is known");
        assert!(!next.remember(Some(&record), Lsn(10)));
        next.record(incident(Some(&seven), 12));
        assert!(next.is_dirty(), "in another history it is a new one");
    }

    #[test]
    fn only_a_checkpoint_behind_what_is_not_written_has_to_wait() {
        let mut list = quarantine();
        list.record(incident(None, 16));
        assert!(list.holds_back(Lsn(17)) && !list.holds_back(Lsn(16)));
        let (_, version) = list.due().unwrap();
        list.record(incident(None, 20));
        assert!(list.holds_back(Lsn(17)), "it is on its way");
        list.written(version);
        assert!(list.is_dirty() && list.holds_back(Lsn(21)) && !list.holds_back(Lsn(20)));
    }

    #[test]
    fn what_came_since_the_list_was_written_stands_where_nobody_else_wrote_it() {
        let (mut list, seven) = (quarantine(), user("7"));
        list.record(incident(Some(&seven), 16));
        let (record, version) = list.due().unwrap();
        list.written(version);
        list.heal(&seven);
        list.record(incident(Some(&user("8")), 0));
        assert!(!list.remember(Some(&record), Lsn(100)));
        assert_eq!(list.open().users, [("live".to_owned(), "8".to_owned())]);
        assert!(list.is_dirty() && list.holds_back(Lsn(1)));
        list.tried = None;
        let (sent, _) = list.due().unwrap();
        assert!(!list.remember(Some(&sent), Lsn(100)), "its own");
        assert!(!list.is_dirty(), "it arrived, and only the answer was lost");
        assert!(list.remember(Some(&record), Lsn(100)));
        assert!(list.holds(&seven, at(17)) && !list.is_dirty(), "another instance's, or an older one");
    }

    #[test]
    fn the_list_is_bounded_and_the_newest_are_kept() {
        let mut list = quarantine();
        let users: Vec<User> = (0..=MAX_ENTRIES as u64 + 1).map(|id| user(&id.to_string())).collect();
        for (id, user) in users.iter().enumerate().take(MAX_ENTRIES) {
            list.record(incident(Some(user), 16 + id as u64));
        }
        list.heal(&users[3]);
        list.record(incident(Some(&users[MAX_ENTRIES]), 5000));
        assert_eq!((list.open().users.len(), list.forgotten.get()), (MAX_ENTRIES, 0), "the healed one went");
        list.record(incident(Some(&users[MAX_ENTRIES + 1]), 5001));
        assert_eq!((list.open().users.len(), list.forgotten.get()), (MAX_ENTRIES, 1));
        list.stays(incident(Some(&users[0]), 5002));
        assert!(!list.holds(&users[0], at(9000)) && list.holds(&users[MAX_ENTRIES + 1], at(9000)));
    }

    #[test]
    fn rows_that_touch_no_key_are_one_entry_a_table_and_reason() {
        let mut list = quarantine();
        list.record(incident(None, 16));
        list.record(incident(None, 17));
        assert_eq!(list.open().tables, ["public.users"]);
        assert_eq!(list.in_order()[0].count, 2);
        list.heal_rows("public.others");
        assert!(!list.is_empty());
        list.heal_rows("public.users");
        assert!(list.is_empty());
    }

    #[test]
    fn a_user_who_is_read_and_still_in_doubt_stays_open_and_is_not_counted_again() {
        let (mut list, seven) = (quarantine(), user("7"));
        list.record(incident(Some(&seven), 16));
        list.stays(incident(Some(&seven), 20));
        assert_eq!((list.in_order()[0].count, &*list.in_order()[0].commit_lsn), (1, "0/10"));
        list.heal(&seven);
        list.stays(incident(Some(&seven), 20));
        assert!(!list.is_empty());
    }
}
