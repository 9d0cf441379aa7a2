//! Rows, kept as the bytes they came in: columns are found when they are asked for.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::cursor::{Cursor, DecodeError};
use crate::error::Error;

/// One row in the order of [`Relation::columns`](super::Relation); its structure was checked when decoded.
///
/// It shares the bytes of its message. Debug shows sizes, not values: rows are never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Tuple {
    columns: u16,
    /// The column data behind the count, as in the message.
    body: Bytes,
}

/// One column of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Datum<'a> {
    /// `n`
    Null,
    /// `u`: a TOASTed value that did not change and was not sent. Not NULL.
    Unchanged,
    /// `t`: as the type's output function prints it, in the client's encoding.
    Text(&'a [u8]),
}

/// The old row of an update or delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldTuple {
    /// `K`: only the columns of the replica identity are given, the others are NULL.
    Key(Tuple),
    /// `O`: the whole row (replica identity FULL).
    Full(Tuple),
}

/// A row beyond what PostgreSQL can hold: 65,535 columns or 4 GiB in one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a row has more columns or a longer value than a tuple can hold")]
pub struct OversizedRow;

impl From<OversizedRow> for Error {
    fn from(error: OversizedRow) -> Error {
        Error::definite(error.to_string(), "follow fewer columns of the table")
    }
}

impl Tuple {
    /// The row with these columns, encoded as the stream would: for rows that were read by SQL.
    ///
    /// # Errors
    /// Only for what PostgreSQL itself cannot hold (it stops at 1,600 columns and 1 GiB a value).
    pub fn from_columns(columns: &[Datum<'_>]) -> Result<Tuple, OversizedRow> {
        let count = u16::try_from(columns.len()).map_err(|_| OversizedRow)?;
        let mut body = BytesMut::with_capacity(columns.iter().map(|datum| datum.encoded_len()).sum());
        for datum in columns {
            match datum {
                Datum::Null => body.put_u8(b'n'),
                Datum::Unchanged => body.put_u8(b'u'),
                Datum::Text(text) => {
                    body.put_u8(b't');
                    body.put_u32(u32::try_from(text.len()).map_err(|_| OversizedRow)?);
                    body.put_slice(text);
                }
            }
        }
        Ok(Tuple { columns: count, body: body.freeze() })
    }

    /// `TupleData`: the number of columns, then each.
    pub(super) fn decode(cursor: &mut Cursor) -> Result<Tuple, DecodeError> {
        let columns = cursor.u16("a number of columns")?;
        let mut skipped = 0;
        for _ in 0..columns {
            let rest = cursor.rest().get(skipped..).unwrap_or_default();
            let (datum, _) = split_column(rest).map_err(|expected| cursor.fail_behind(skipped, expected))?;
            skipped += datum.encoded_len();
        }
        Ok(Tuple { columns, body: cursor.take(skipped, "a row")? })
    }

    /// The columns, in the order of the relation's.
    pub fn columns(&self) -> Columns<'_> {
        Columns { body: &self.body, left: usize::from(self.columns) }
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    /// Whether there is no column at all.
    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// Bytes that the row occupies in its message, without the count.
    pub fn encoded_len(&self) -> usize {
        self.body.len()
    }
}

/// The columns of a [`Tuple`].
#[derive(Debug, Clone)]
pub struct Columns<'a> {
    body: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Columns<'a> {
    type Item = Datum<'a>;

    fn next(&mut self) -> Option<Datum<'a>> {
        // Never an error: both ways to build a tuple have checked or written every column.
        let (datum, rest) = split_column(self.body).ok()?;
        self.body = rest;
        self.left = self.left.saturating_sub(1);
        Some(datum)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Columns<'_> {}

/// The first column of encoded column data and what follows it, or what was expected instead.
fn split_column(body: &[u8]) -> Result<(Datum<'_>, &[u8]), &'static str> {
    let (kind, rest) = body.split_first().ok_or("a column")?;
    match kind {
        b'n' => Ok((Datum::Null, rest)),
        b'u' => Ok((Datum::Unchanged, rest)),
        b't' => {
            let (length, rest) = rest.split_first_chunk().ok_or("the length of a column")?;
            let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| "a column")?;
            let (text, rest) = rest.split_at_checked(length).ok_or("a column of the announced length")?;
            Ok((Datum::Text(text), rest))
        }
        b'b' => Err("a column in text format, found binary (the stream was started with binary 'true')"),
        _ => Err("a column: 'n', 'u' or 't'"),
    }
}

impl Datum<'_> {
    fn encoded_len(&self) -> usize {
        match self {
            Datum::Null | Datum::Unchanged => 1,
            Datum::Text(text) => text.len().saturating_add(5),
        }
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tuple({} columns, {} bytes)", self.columns, self.body.len())
    }
}

impl fmt::Debug for Datum<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Datum::Null => f.write_str("Null"),
            Datum::Unchanged => f.write_str("Unchanged"),
            Datum::Text(text) => write!(f, "Text({} bytes)", text.len()),
        }
    }
}

impl OldTuple {
    /// The tuple, key or full.
    pub fn tuple(&self) -> &Tuple {
        match self {
            OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
        }
    }
}
