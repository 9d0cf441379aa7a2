//! One message, one type, one `decode`.

use bytes::Bytes;

use super::cursor::{Cursor, DecodeError};
use super::{OldTuple, Relation, Tuple};
use crate::lsn::Lsn;

/// Microseconds since 2000-01-01 00:00 UTC, PostgreSQL's `TimestampTz`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTime(pub i64);

impl PgTime {
    /// No time is known.
    pub const UNKNOWN: PgTime = PgTime(0);

    /// Whether no time is known.
    pub fn is_unknown(self) -> bool {
        self == PgTime::UNKNOWN
    }
}

/// A message of pgoutput protocol version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// `B`
    Begin(Begin),
    /// `C`
    Commit(Commit),
    /// `O`: the transaction came from another origin; nothing depends on it.
    Origin {
        /// Commit LSN on the origin.
        lsn: Lsn,
        /// Its name.
        name: String,
    },
    /// `R`
    Relation(Relation),
    /// `Y`: a type that is not built in, before the relation that uses it.
    Type {
        /// `pg_type.oid`.
        oid: u32,
        /// Schema.
        schema: String,
        /// Name.
        name: String,
    },
    /// `I`
    Insert {
        /// OID of the relation.
        relation: u32,
        /// The new row.
        new: Tuple,
    },
    /// `U`
    Update {
        /// OID of the relation.
        relation: u32,
        /// The old key or row, where it was sent.
        old: Option<OldTuple>,
        /// The row afterwards.
        new: Tuple,
    },
    /// `D`
    Delete {
        /// OID of the relation.
        relation: u32,
        /// The old key or row.
        old: OldTuple,
    },
    /// `T`
    Truncate {
        /// OIDs of the truncated relations.
        relations: Vec<u32>,
        /// `CASCADE` was given.
        cascade: bool,
        /// `RESTART IDENTITY` was given.
        restart_identity: bool,
    },
    /// `M`: written by `pg_logical_emit_message`.
    Logical {
        /// Whether it belongs to the surrounding transaction.
        transactional: bool,
        /// Its position.
        lsn: Lsn,
        /// Prefix.
        prefix: String,
        /// Content.
        content: Bytes,
    },
}

/// `B`: the first message of a transaction; what follows committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Start of the commit record.
    pub commit_lsn: Lsn,
    /// When it committed.
    pub commit_time: PgTime,
    /// Top-level transaction id, without its epoch.
    pub xid: u32,
}

/// `C`: the last message of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Start of the commit record.
    pub commit_lsn: Lsn,
    /// End of the commit record: what is acknowledged.
    pub end_lsn: Lsn,
    /// When it committed.
    pub commit_time: PgTime,
}

impl Message {
    /// Decodes one message of the stream; rows share its bytes.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that is not exactly one message of protocol version 1 in text format.
    pub fn decode(message: Bytes) -> Result<Message, DecodeError> {
        let cursor = &mut Cursor::new(message);
        let unknown = cursor.fail("a message of protocol version 1: B C O R Y I U D T or M");
        let message = match cursor.u8(unknown.expected)? {
            b'B' => Message::Begin(Begin::decode(cursor)?),
            b'C' => Message::Commit(Commit::decode(cursor)?),
            b'O' => Message::Origin {
                lsn: cursor.lsn("the commit LSN on the origin")?,
                name: cursor.string("the name of an origin")?.to_owned(),
            },
            b'R' => Message::Relation(Relation::decode(cursor)?),
            b'Y' => Message::Type {
                oid: cursor.u32("the OID of a type")?,
                schema: cursor.string("a schema")?.to_owned(),
                name: cursor.string("the name of a type")?.to_owned(),
            },
            b'I' => decode_insert(cursor)?,
            b'U' => decode_update(cursor)?,
            b'D' => decode_delete(cursor)?,
            b'T' => decode_truncate(cursor)?,
            b'M' => decode_logical(cursor)?,
            _ => return Err(unknown),
        };
        cursor.end()?;
        Ok(message)
    }
}

impl Begin {
    fn decode(cursor: &mut Cursor) -> Result<Begin, DecodeError> {
        Ok(Begin {
            commit_lsn: cursor.lsn("a commit LSN")?,
            commit_time: PgTime(cursor.i64("a commit time")?),
            xid: cursor.u32("a transaction id")?,
        })
    }
}

impl Commit {
    fn decode(cursor: &mut Cursor) -> Result<Commit, DecodeError> {
        // "Flags; currently unused", which PostgreSQL's own reader insists on (`logicalrep_read_commit`).
        cursor.flags(0, "flags that are 0")?;
        Ok(Commit {
            commit_lsn: cursor.lsn("a commit LSN")?,
            end_lsn: cursor.lsn("an end LSN")?,
            commit_time: PgTime(cursor.i64("a commit time")?),
        })
    }
}

fn decode_insert(cursor: &mut Cursor) -> Result<Message, DecodeError> {
    let relation = cursor.u32("the OID of a relation")?;
    let unknown = cursor.fail("a new row 'N'");
    match cursor.u8(unknown.expected)? {
        b'N' => Ok(Message::Insert { relation, new: Tuple::decode(cursor)? }),
        _ => Err(unknown),
    }
}

fn decode_update(cursor: &mut Cursor) -> Result<Message, DecodeError> {
    let relation = cursor.u32("the OID of a relation")?;
    let unknown = cursor.fail("an old key 'K', an old row 'O' or a new row 'N'");
    let old = match cursor.u8(unknown.expected)? {
        b'K' => OldTuple::Key(Tuple::decode(cursor)?),
        b'O' => OldTuple::Full(Tuple::decode(cursor)?),
        b'N' => return Ok(Message::Update { relation, old: None, new: Tuple::decode(cursor)? }),
        _ => return Err(unknown),
    };
    let unknown = cursor.fail("a new row 'N'");
    match cursor.u8(unknown.expected)? {
        b'N' => Ok(Message::Update { relation, old: Some(old), new: Tuple::decode(cursor)? }),
        _ => Err(unknown),
    }
}

fn decode_delete(cursor: &mut Cursor) -> Result<Message, DecodeError> {
    let relation = cursor.u32("the OID of a relation")?;
    let unknown = cursor.fail("an old key 'K' or an old row 'O'");
    let old = match cursor.u8(unknown.expected)? {
        b'K' => OldTuple::Key(Tuple::decode(cursor)?),
        b'O' => OldTuple::Full(Tuple::decode(cursor)?),
        _ => return Err(unknown),
    };
    Ok(Message::Delete { relation, old })
}

fn decode_truncate(cursor: &mut Cursor) -> Result<Message, DecodeError> {
    const CASCADE: u8 = 1;
    const RESTART_IDENTITY: u8 = 2;
    let count = usize::try_from(cursor.u32("a number of relations")?).unwrap_or(usize::MAX);
    let options = cursor.flags(CASCADE | RESTART_IDENTITY, "truncate options from 0 to 3")?;
    let mut relations = Vec::with_capacity(cursor.reserve(count, size_of::<u32>()));
    for _ in 0..count {
        relations.push(cursor.u32("the OID of a relation")?);
    }
    Ok(Message::Truncate {
        relations,
        cascade: options & CASCADE != 0,
        restart_identity: options & RESTART_IDENTITY != 0,
    })
}

fn decode_logical(cursor: &mut Cursor) -> Result<Message, DecodeError> {
    let transactional = cursor.flags(1, "flags that are 0 or 1")? != 0;
    let lsn = cursor.lsn("the LSN of a logical message")?;
    let prefix = cursor.string("the prefix of a logical message")?.to_owned();
    let length = usize::try_from(cursor.u32("the length of a logical message")?).unwrap_or(usize::MAX);
    let content = cursor.take(length, "a logical message of the announced length")?;
    Ok(Message::Logical { transactional, lsn, prefix, content })
}
