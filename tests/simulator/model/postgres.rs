//! A PostgreSQL server: transactions that are in WAL before any snapshot sees them, and one logical slot.

use std::collections::BTreeMap;

use lockstep::lsn::{Snapshot, Xid64};
use tokio::io::DuplexStream;

use super::walsender::Walsender;

/// Bytes behind some texts: such an event travels in a call of its own.
const WIDE: usize = 4_200;

/// A user, as the keys name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct User {
    pub id: u32,
    pub kind: &'static str,
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.kind, self.id)
    }
}

/// What a row holds: every change writes a number that no other has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub email: u64,
    /// `None`: NaN.
    pub balance: Option<u64>,
}

impl Row {
    pub fn email_text(&self) -> String {
        let wide = if self.email.is_multiple_of(5) { WIDE } else { 0 };
        format!("v{}{:.<wide$}", self.email, "")
    }

    pub fn balance_text(&self) -> String {
        self.balance.map_or_else(|| "NaN".to_owned(), |number| format!("{number}.500000"))
    }
}

/// A completed row of `user_transactions`, or one of another status.
#[derive(Debug, Clone, Copy)]
pub struct Completed {
    pub number: u64,
    pub user: User,
    pub kind: &'static str,
    pub status: &'static str,
}

/// What a transaction did.
#[derive(Debug, Clone)]
pub enum Op {
    Insert {
        user: User,
        row: Row,
    },
    Update {
        from: User,
        before: Row,
        to: User,
        row: Row,
        email_unsent: bool,
    },
    Delete {
        user: User,
        before: Row,
    },
    Truncate,
    Completed(Completed),
    /// A logical message that asks for a resync.
    Ask(&'static str),
}

impl Op {
    /// The users of whom an event tells.
    pub fn users(&self) -> Vec<User> {
        match self {
            Op::Insert { user, .. } | Op::Delete { user, .. } => vec![*user],
            Op::Update { from, to, .. } if from != to => vec![*from, *to],
            Op::Update { to, .. } => vec![*to],
            Op::Completed(completed) if completed.status == "completed" => vec![completed.user],
            Op::Completed(_) | Op::Truncate | Op::Ask(_) => Vec::new(),
        }
    }

    fn id(&self) -> Option<u32> {
        match self {
            Op::Insert { user, .. } | Op::Delete { user, .. } | Op::Update { to: user, .. } => Some(user.id),
            Op::Truncate | Op::Completed(_) | Op::Ask(_) => None,
        }
    }

    fn result(&self) -> Option<(User, Row)> {
        match self {
            Op::Insert { user, row } | Op::Update { to: user, row, .. } => Some((*user, *row)),
            _ => None,
        }
    }
}

/// A transaction whose end no snapshot sees yet.
#[derive(Debug)]
pub struct Running {
    pub xid: u64,
    pub ops: Vec<(u64, Op)>,
    /// Whether its commit is in WAL; its locks are still held.
    pub in_wal: bool,
    has_table: bool,
}

impl Running {
    fn locks(&self, id: u32) -> bool {
        self.has_table || self.ops.iter().any(|(_, op)| op.id() == Some(id))
    }
}

/// A transaction in WAL.
#[derive(Debug, Clone)]
pub struct Commit {
    pub xid: u64,
    pub lsn: u64,
    pub end: u64,
    pub time: i64,
    pub ops: Vec<(u64, Op)>,
}

#[derive(Debug, Clone, Copy)]
struct Version {
    xid: u64,
    row: Option<(User, Row)>,
    /// Not MVCC: afterwards no snapshot sees what was before.
    truncates: bool,
}

/// The server.
pub struct Postgres {
    next_xid: u64,
    latest_completed: u64,
    pub wal: u64,
    pub running: Vec<Running>,
    pub commits: Vec<Commit>,
    rows: BTreeMap<u32, Vec<Version>>,
    /// What the slot may forget.
    pub confirmed: u64,
    pub walsender: Option<Walsender>,
    /// The instance that streamed last.
    pub leader: usize,
    /// Whether that one was killed since.
    pub leader_is_gone: bool,
    next_number: u64,
    /// Whether old rows are sent whole.
    pub full: bool,
    /// Bytes that wait between server and client.
    pipe_bytes: usize,
}

/// Where WAL begins: beyond 2^32, and beyond what a double holds.
const FIRST_LSN: u64 = (1 << 54) | 0x16B3_7480;
/// Bytes of a record.
const RECORD: u64 = 56;

impl Postgres {
    pub fn new(full: bool, pipe_bytes: usize) -> Postgres {
        let first_xid = (1 << 32) - 4;
        Postgres {
            next_xid: first_xid,
            latest_completed: first_xid - 1,
            wal: FIRST_LSN,
            running: Vec::new(),
            commits: Vec::new(),
            rows: BTreeMap::new(),
            confirmed: FIRST_LSN,
            walsender: None,
            leader: 0,
            leader_is_gone: false,
            next_number: 1,
            full,
            pipe_bytes,
        }
    }

    fn record(&mut self) -> u64 {
        let at = self.wal;
        self.wal += RECORD;
        at
    }

    /// WAL of somebody else.
    pub fn noise(&mut self) {
        self.record();
    }

    pub fn begin(&mut self) -> u64 {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.running.push(Running { xid, ops: Vec::new(), in_wal: false, has_table: false });
        xid
    }

    pub fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// The row as the transaction sees it, if nobody else has a lock on it.
    pub fn lockable(&self, xid: u64, id: u32) -> Option<Option<(User, Row)>> {
        if self.running.iter().any(|other| other.xid != xid && other.locks(id)) {
            return None;
        }
        let mine = self.running.iter().find(|tx| tx.xid == xid)?;
        for (_, op) in mine.ops.iter().rev() {
            if matches!(op, Op::Truncate) {
                return Some(None);
            }
            if op.id() == Some(id) {
                return Some(op.result());
            }
        }
        Some(self.latest(id))
    }

    /// Whether the transaction may truncate the table.
    pub fn truncatable(&self, xid: u64) -> bool {
        let touches = |tx: &Running| tx.has_table || tx.ops.iter().any(|(_, op)| op.id().is_some());
        !self.running.iter().any(|other| other.xid != xid && touches(other))
    }

    /// Whether reading the table has to wait.
    pub fn table_is_locked(&self) -> bool {
        self.running.iter().any(|tx| tx.has_table)
    }

    pub fn write(&mut self, xid: u64, op: Op) {
        let lsn = self.record();
        let Some(tx) = self.running.iter_mut().find(|tx| tx.xid == xid) else { return };
        tx.has_table |= matches!(op, Op::Truncate);
        tx.ops.push((lsn, op));
    }

    /// The commit record: the stream has it, no snapshot does.
    pub fn commit_in_wal(&mut self, xid: u64) -> Option<&Commit> {
        let at = self.running.iter().position(|tx| tx.xid == xid && !tx.in_wal)?;
        if self.running[at].ops.is_empty() {
            self.running.remove(at);
            self.latest_completed = self.latest_completed.max(xid);
            return None;
        }
        let lsn = self.record();
        let ops = self.running[at].ops.clone();
        self.running[at].in_wal = true;
        let mut version = |id, row, truncates| {
            self.rows.entry(id).or_default().push(Version { xid, row, truncates });
        };
        let mut ids: BTreeMap<u32, (Option<(User, Row)>, bool)> = BTreeMap::new();
        for (_, op) in &ops {
            if let Some(id) = op.id() {
                ids.entry(id).or_default().0 = op.result();
            } else if matches!(op, Op::Truncate) {
                for id in 0..=MOST_USERS {
                    ids.insert(id, (None, true));
                }
            }
        }
        for (id, (row, truncates)) in ids {
            version(id, row, truncates);
        }
        let time = 800_000_000_000_000 + self.commits.len() as i64 * 1_000;
        self.commits.push(Commit { xid, lsn, end: self.wal, time, ops });
        self.commits.last()
    }

    /// Snapshots see it from now on, and its locks are free.
    pub fn make_visible(&mut self, xid: u64) {
        self.running.retain(|tx| tx.xid != xid || !tx.in_wal);
        self.latest_completed = self.latest_completed.max(xid);
    }

    pub fn roll_back(&mut self, xid: u64) {
        self.running.retain(|tx| tx.xid != xid || tx.in_wal);
        self.latest_completed = self.latest_completed.max(xid);
    }

    /// `pg_current_snapshot()`.
    pub fn snapshot(&self) -> Snapshot {
        let xmax = self.latest_completed + 1;
        let mut running: Vec<u64> = self.running.iter().map(|tx| tx.xid).filter(|xid| *xid < xmax).collect();
        running.sort_unstable();
        let xmin = running.first().copied().unwrap_or(xmax);
        Snapshot { xmin: Xid64(xmin), xmax: Xid64(xmax), running: running.into_iter().map(Xid64).collect() }
    }

    /// A transaction id of now.
    pub fn xid(&self) -> Xid64 {
        Xid64(self.latest_completed + 1)
    }

    /// The rows that a snapshot sees, by id.
    pub fn read(&self, snapshot: &Snapshot) -> Vec<(User, Row)> {
        let visible = |versions: &Vec<Version>| {
            let begin = versions.iter().rposition(|version| version.truncates).unwrap_or(0);
            let seen = |version: &&Version| version.truncates || snapshot.sees(Xid64(version.xid));
            versions[begin..].iter().rev().find(seen)?.row
        };
        self.rows.values().filter_map(visible).collect()
    }

    /// The row as the last commit in WAL left it.
    pub fn latest(&self, id: u32) -> Option<(User, Row)> {
        self.rows.get(&id)?.last()?.row
    }

    /// Every row as the last commits left them.
    pub fn all(&self) -> Vec<(User, Row)> {
        self.rows.keys().filter_map(|id| self.latest(*id)).collect()
    }

    /// START_REPLICATION: the client's end; `None` while another one streams.
    pub fn start_replication(&mut self, instance: usize) -> Option<DuplexStream> {
        if self.walsender.is_some() {
            return None;
        }
        let (server, client) = tokio::io::duplex(self.pipe_bytes);
        let next = self.commits.iter().position(|commit| commit.lsn >= self.confirmed);
        let next = next.unwrap_or(self.commits.len());
        (self.leader, self.leader_is_gone) = (instance, false);
        self.walsender = Some(Walsender::new(server, next, self.confirmed));
        Some(client)
    }

    /// The slot is dropped and made again, where no older transaction is in the way.
    pub fn make_slot_anew(&mut self) {
        self.walsender = None;
        self.confirmed = self.wal;
    }

    /// Snapshots see every commit that is in WAL.
    pub fn show_commits(&mut self) {
        let ended: Vec<u64> = self.running.iter().filter(|tx| tx.in_wal).map(|tx| tx.xid).collect();
        ended.into_iter().for_each(|xid| self.make_visible(xid));
    }

    /// Every connection ends, and every transaction that has not committed.
    pub fn restart(&mut self) {
        self.walsender = None;
        self.show_commits();
        let open: Vec<u64> = self.running.iter().map(|tx| tx.xid).collect();
        open.into_iter().for_each(|xid| self.roll_back(xid));
    }
}

/// The highest id of a user.
pub const MOST_USERS: u32 = 5;
