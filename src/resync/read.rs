//! One short transaction: a snapshot, the rows it sees, and the insert position after it.

use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::passing;
use super::table::Table;
use crate::error::{Error, Result};
use crate::lsn::{Lsn, Snapshot};
use crate::pgoutput::{Datum, Tuple};

/// Rows of one table as one snapshot sees them.
#[derive(Debug)]
pub struct Rows {
    /// What the transaction saw.
    pub snapshot: Snapshot,
    /// The rows, columns in the order of [`Table::relation`].
    pub rows: Vec<Tuple>,
    /// The insert position read afterwards, taken back over an empty page header.
    pub read_before: Lsn,
    /// Whether WAL up to there was on disk already: a walsender sends nothing else.
    pub is_flushed: bool,
}

/// Which rows are wanted.
#[derive(Debug, Clone)]
pub enum Which {
    /// Ids in `(after, up_to]`; `None` is unbounded.
    Range {
        /// Exclusive.
        after: Option<String>,
        /// Inclusive.
        up_to: Option<String>,
    },
    /// These ids.
    Ids(Vec<String>),
}

/// Most readings of rows whose table is rewritten meanwhile, before the caller is told to try again.
const READINGS: usize = 3;

/// Reads the rows in a REPEATABLE READ transaction of its own.
///
/// All statements travel in one message: the snapshot is as short-lived as it can be, so it does not hold
/// back the database's vacuum. Values come in text format, as the stream sends them.
///
/// # Errors
/// Transient: whatever it is, the table is described again before the next attempt.
pub async fn read(client: &Client, table: &Table, which: &Which) -> Result<Rows> {
    for _ in 0..READINGS {
        if let Some(rows) = read_once(client, table, which).await? {
            return Ok(rows);
        }
    }
    Err(Error::transient(format!("{} is rewritten all the time", table.spec), ""))
}

/// `None` where the table was rewritten or truncated between the snapshot and the reading, which has waited for that: to
/// an older snapshot a rewritten table is empty, and everybody would pass for gone. The snapshot tells the table's file
/// of before, `pg_relation_filenode` that of now.
async fn read_once(client: &Client, table: &Table, which: &Which) -> Result<Option<Rows>> {
    let statements = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_current_snapshot(); \
         SELECT {} FROM {} WHERE {}; \
         SELECT coalesce(bool_and(nullif(relfilenode, 0) IS NOT DISTINCT FROM pg_relation_filenode(oid)), false) FROM pg_class \
         WHERE oid = {of} OR oid IN (SELECT relid FROM pg_partition_tree({of})); \
         COMMIT; SELECT pg_current_wal_insert_lsn(); SELECT pg_current_wal_flush_lsn()",
        table.select_list,
        table.qualified,
        condition(table, which),
        of = table.relation.oid,
    );
    let messages =
        client.simple_query(&statements).await.map_err(|error| passing("reading users", &error))?;
    let mut answers = answers(&messages);
    let snapshot = only_value(&mut answers, "a snapshot")?.parse::<Snapshot>().map_err(unexpected)?;
    let rows = answers.next().unwrap_or_default();
    let rows = rows.iter().map(|row| tuple(row, table.relation.columns.len())).collect::<Result<_>>()?;
    let is_as_it_was = only_value(&mut answers, "whether the table is as it was")? == "t";
    let mut position = |what| only_value(&mut answers, what)?.parse::<Lsn>().map_err(unexpected);
    let read_before = position("an insert position")?.before_page_header();
    let is_flushed = read_before <= position("a flush position")?;
    Ok(is_as_it_was.then_some(Rows { snapshot, rows, read_before, is_flushed }))
}

/// Has the server write its WAL to disk, by an empty logical message that waits for no standby.
///
/// A read prunes dead rows, which writes WAL that nobody commits, and with `synchronous_commit = off` no commit waits
/// for the disk either. Then it is the WAL writer that flushes, `wal_writer_delay` later, and rows that were read wait
/// as long for the stream.
pub async fn flush(client: &Client) -> Result<()> {
    const STATEMENT: &str = "SELECT set_config('synchronous_commit', 'local', true), \
                             pg_logical_emit_message(true, 'lockstep', '')";
    let flushed = client.simple_query(STATEMENT).await;
    flushed.map(drop).map_err(|error| passing("flushing WAL", &error))
}

/// The id `rows` further than `after` in id order; `None` when fewer are left.
pub async fn hop(client: &Client, table: &Table, after: Option<&str>, rows: usize) -> Result<Option<String>> {
    let id = escape_identifier(&table.id_column);
    let which = Which::Range { after: after.map(str::to_owned), up_to: None };
    let statement = format!(
        "SELECT {id} FROM {} WHERE {} ORDER BY {id} OFFSET {} LIMIT 1",
        table.qualified,
        condition(table, &which),
        rows.saturating_sub(1)
    );
    let messages = client.simple_query(&statement).await.map_err(|error| passing("reading users", &error))?;
    let row = answers(&messages).next().and_then(|rows| rows.first().copied());
    Ok(row.and_then(|row| row.get(0)).map(str::to_owned))
}

fn condition(table: &Table, which: &Which) -> String {
    let id = escape_identifier(&table.id_column);
    match which {
        Which::Range { after, up_to } => {
            let after = after.as_ref().map(|after| format!("{id} > {}", escape_literal(after)));
            let up_to = up_to.as_ref().map(|up_to| format!("{id} <= {}", escape_literal(up_to)));
            let bounds: Vec<String> = after.into_iter().chain(up_to).chain(table.condition()).collect();
            if bounds.is_empty() { "true".to_owned() } else { bounds.join(" AND ") }
        }
        Which::Ids(ids) => {
            let ids: Vec<String> = ids.iter().map(|id| escape_literal(id)).collect();
            if ids.is_empty() { "false".to_owned() } else { format!("{id} IN ({})", ids.join(", ")) }
        }
    }
}

/// The rows of each statement that returns rows, in order.
fn answers(messages: &[SimpleQueryMessage]) -> impl Iterator<Item = Vec<&SimpleQueryRow>> {
    messages
        .split(|message| matches!(message, SimpleQueryMessage::CommandComplete(_)))
        .filter(|answer| matches!(answer.first(), Some(SimpleQueryMessage::RowDescription(_))))
        .map(|answer| {
            let rows = answer.iter().filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
            rows.collect()
        })
}

fn only_value<'a>(
    answers: &mut impl Iterator<Item = Vec<&'a SimpleQueryRow>>,
    what: &str,
) -> Result<&'a str> {
    let value = answers.next().and_then(|rows| rows.first().and_then(|row| row.get(0)));
    value.ok_or_else(|| unexpected(format!("the database returned no row where {what} was asked for")))
}

fn tuple(row: &SimpleQueryRow, columns: usize) -> Result<Tuple> {
    let data: Vec<Datum<'_>> = (0..columns)
        .map(|index| row.get(index).map_or(Datum::Null, |text| Datum::Text(text.as_bytes())))
        .collect();
    Ok(Tuple::from_columns(&data)?)
}

fn unexpected(fact: impl ToString) -> Error {
    Error::definite(fact.to_string(), "report this as a bug")
}
