//! The rows of each commit, gathered and cut into windows.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use super::{AssemblyError, Change, CommitInfo, Row, Transaction};
use crate::lsn::{Lsn, Xid64};
use crate::pgoutput::{Begin, Commit, Message, Relation, builtin_type};

/// How much of one database transaction is held at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Most rows of a window; 0 means 1.
    pub rows: usize,
    /// Most bytes of row data of a window; a single row may be larger.
    pub bytes: usize,
}

/// Most bytes of messages to us that one transaction may carry.
const MESSAGE_BYTES: usize = 64 * 1024;

/// Turns the messages of one stream into transactions.
///
/// pgoutput version 1 sends only what committed, in commit order, so rows can be handed on before their
/// `Commit` arrives: a transaction of any size passes through one window.
///
/// A window is handed on by the message that no longer fits into it, so a message hands on one window at
/// most. The relations of one TRUNCATE have a window to themselves: the rows of one user are joined
/// within a window and must not be joined across a truncate.
#[derive(Debug)]
pub struct Assembler {
    window: Window,
    /// The last transaction id seen: the next ones are widened to its epoch or a neighbouring one.
    last_xid: Xid64,
    /// By OID, as last described. The server describes every table before its first row in a connection, and
    /// again when it was altered, so nothing may be evicted; it grows with the published tables.
    relations: HashMap<u32, Arc<Relation>>,
    /// Domains over built-in types, by OID. The server tells of each before the tables that use it.
    domains: HashMap<u32, u32>,
    state: State,
    /// Prefix of the logical messages that are meant for us.
    prefix: String,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    InTransaction(Open),
}

/// A transaction whose `Commit` has not arrived.
#[derive(Debug)]
struct Open {
    commit: Arc<CommitInfo>,
    /// Rows so far, those of earlier windows included.
    ordinal: u32,
    /// Rows of the present window.
    rows: Vec<Row>,
    /// Bytes of row data in `rows`.
    bytes: usize,
    messages: Vec<Bytes>,
    /// Bytes of all messages of the transaction.
    message_bytes: usize,
}

impl Assembler {
    /// Begins between transactions. `xid_reference` is any transaction id that was current lately, widened
    /// (`pg_current_snapshot()`'s xmax, for example); logical messages with another prefix than `prefix`, and
    /// those outside transactions, are somebody else's.
    pub fn new(window: Window, xid_reference: Xid64, prefix: &str) -> Assembler {
        Assembler {
            window,
            last_xid: xid_reference,
            relations: HashMap::new(),
            domains: HashMap::new(),
            state: State::Idle,
            prefix: prefix.to_owned(),
        }
    }

    /// Takes the next message of the stream; hands on the window that it completes.
    ///
    /// # Errors
    /// The message cannot stand where it stands. The stream is of no use then: reconnect and
    /// [`reset`](Assembler::reset).
    pub fn push(&mut self, message: Message) -> Result<Option<Transaction>, AssemblyError> {
        match message {
            Message::Begin(begin) => self.begin(begin).map(|()| None),
            Message::Commit(commit) => self.commit(commit).map(Some),
            Message::Relation(relation) => {
                self.describe(relation);
                Ok(None)
            }
            Message::Insert { relation, new } => self.row(relation, Change::Insert(new)),
            Message::Update { relation, old, new } => self.row(relation, Change::Update { old, new }),
            Message::Delete { relation, old } => self.row(relation, Change::Delete(old)),
            Message::Truncate { relations, .. } => self.truncate(&relations),
            Message::Logical { transactional: true, prefix, content, .. } if prefix == self.prefix => {
                self.message(content).map(|()| None)
            }
            Message::Type { oid, schema, name } => {
                match builtin_type(&schema, &name) {
                    Some(base) => self.domains.insert(oid, base),
                    None => self.domains.remove(&oid),
                };
                Ok(None)
            }
            Message::Origin { .. } | Message::Logical { .. } => Ok(None),
        }
    }

    /// Whether no transaction is open: only then does a keepalive's position say that all before it arrived.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    fn begin(&mut self, begin: Begin) -> Result<(), AssemblyError> {
        if let State::InTransaction(open) = &self.state {
            let commit_lsn = open.commit.commit_lsn;
            return Err(AssemblyError::NestedBegin { open: commit_lsn, begun: begin.commit_lsn });
        }
        self.last_xid = self.last_xid.widen(begin.xid);
        let commit = CommitInfo { commit_lsn: begin.commit_lsn, time: begin.commit_time, xid: self.last_xid };
        self.state = State::InTransaction(Open::new(commit));
        Ok(())
    }

    fn commit(&mut self, commit: Commit) -> Result<Transaction, AssemblyError> {
        match mem::take(&mut self.state) {
            State::Idle => Err(AssemblyError::OutsideTransaction { what: "Commit" }),
            State::InTransaction(open) if open.commit.commit_lsn != commit.commit_lsn => {
                let begun = open.commit.commit_lsn;
                Err(AssemblyError::OtherCommit { begun, committed: commit.commit_lsn })
            }
            State::InTransaction(mut open) => Ok(open.hand_on(Some(commit.end_lsn))),
        }
    }

    /// Replaces a description only by a different one: the server repeats it after every invalidation of its
    /// cache, and whoever compiled something for the table would compile it again.
    ///
    /// A column of a domain is described as one of the type below it, as the answer to a SELECT is: the values
    /// are the same text.
    fn describe(&mut self, mut relation: Relation) {
        for column in &mut relation.columns {
            column.type_oid = self.domains.get(&column.type_oid).copied().unwrap_or(column.type_oid);
        }
        if self.relations.get(&relation.oid).is_none_or(|known| **known != relation) {
            self.relations.insert(relation.oid, Arc::new(relation));
        }
    }

    fn row(&mut self, oid: u32, change: Change) -> Result<Option<Transaction>, AssemblyError> {
        let State::InTransaction(open) = &mut self.state else {
            return Err(AssemblyError::OutsideTransaction { what: "row" });
        };
        let relation = known(&self.relations, oid)?;
        check_width(&relation, &change)?;
        let bytes = change.encoded_len();
        let full = if open.has_room(bytes, self.window) { None } else { open.cut() };
        open.push(relation, change, bytes)?;
        Ok(full)
    }

    /// What goes beyond the bound was not written by us.
    fn message(&mut self, content: Bytes) -> Result<(), AssemblyError> {
        let State::InTransaction(open) = &mut self.state else {
            return Err(AssemblyError::OutsideTransaction { what: "Message" });
        };
        open.message_bytes = open.message_bytes.saturating_add(content.len());
        if open.message_bytes <= MESSAGE_BYTES {
            open.messages.push(content);
        }
        Ok(())
    }

    fn truncate(&mut self, oids: &[u32]) -> Result<Option<Transaction>, AssemblyError> {
        let State::InTransaction(open) = &mut self.state else {
            return Err(AssemblyError::OutsideTransaction { what: "Truncate" });
        };
        let before = open.cut();
        for &oid in oids {
            open.push(known(&self.relations, oid)?, Change::Truncate, 0)?;
        }
        Ok(before)
    }
}

impl Open {
    fn new(commit: CommitInfo) -> Open {
        Open {
            commit: Arc::new(commit),
            ordinal: 0,
            rows: Vec::new(),
            bytes: 0,
            messages: Vec::new(),
            message_bytes: 0,
        }
    }

    fn has_room(&self, bytes: usize, window: Window) -> bool {
        let truncates = matches!(self.rows.last(), Some(Row { change: Change::Truncate, .. }));
        !truncates && self.rows.len() < window.rows && self.bytes.saturating_add(bytes) <= window.bytes
    }

    fn push(&mut self, relation: Arc<Relation>, change: Change, bytes: usize) -> Result<(), AssemblyError> {
        let commit_lsn = self.commit.commit_lsn;
        self.ordinal = self.ordinal.checked_add(1).ok_or(AssemblyError::TooManyRows { commit_lsn })?;
        self.bytes = self.bytes.saturating_add(bytes);
        self.rows.push(Row { ordinal: self.ordinal, relation, change });
        Ok(())
    }

    /// The present window, unless it is empty; the next one begins.
    fn cut(&mut self) -> Option<Transaction> {
        (!self.rows.is_empty()).then(|| self.hand_on(None))
    }

    fn hand_on(&mut self, end_lsn: Option<Lsn>) -> Transaction {
        self.bytes = 0;
        Transaction {
            commit: Arc::clone(&self.commit),
            rows: mem::take(&mut self.rows),
            messages: mem::take(&mut self.messages),
            end_lsn,
        }
    }
}

fn known(relations: &HashMap<u32, Arc<Relation>>, oid: u32) -> Result<Arc<Relation>, AssemblyError> {
    relations.get(&oid).cloned().ok_or(AssemblyError::UnknownRelation { oid })
}

/// Each row has the columns its table was described with; the stages behind pair them by place.
fn check_width(relation: &Relation, change: &Change) -> Result<(), AssemblyError> {
    let described = relation.columns.len();
    match change.tuples().find(|tuple| tuple.len() != described) {
        None => Ok(()),
        Some(odd) => Err(AssemblyError::Width { oid: relation.oid, described, found: odd.len() }),
    }
}
