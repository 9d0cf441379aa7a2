//! Relation messages: what the columns of the rows that follow mean.

use std::sync::Arc;

use super::cursor::{Cursor, DecodeError};

/// A table as the stream describes it, valid until the next description of the same OID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema; empty in the message for `pg_catalog`.
    pub schema: Arc<str>,
    /// Table.
    pub name: Arc<str>,
    /// Which columns an old tuple carries.
    pub identity: ReplicaIdentity,
    /// Published columns in the order of every tuple.
    pub columns: Vec<Column>,
}

/// A published column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Whether it is part of the replica identity (flag 1).
    pub is_key: bool,
    /// Name.
    pub name: Arc<str>,
    /// `pg_type.oid`; of a domain the domain's, as the message has it: [`builtin_type`] tells the type below.
    pub type_oid: u32,
    /// `atttypmod`; -1 where there is none.
    pub type_modifier: i32,
}

/// `pg_class.relreplident`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key.
    Default,
    /// `n`: updates and deletes carry no old row.
    Nothing,
    /// `f`: the whole old row.
    Full,
    /// `i`: a unique index.
    Index,
}

/// `pg_type.oid` of a built-in type by its name in a `Y` message: a domain is sent by the name of the type below it,
/// however many domains lie between (`logicalrep_write_typ`). Only the types that have a meaning of their own here.
pub fn builtin_type(schema: &str, name: &str) -> Option<u32> {
    // Empty for `pg_catalog`, as in the message of a relation.
    let oid = match name {
        "bool" => 16,
        "int8" => 20,
        "int2" => 21,
        "int4" => 23,
        "oid" => 26,
        "float4" => 700,
        "float8" => 701,
        "date" => 1082,
        "timestamp" => 1114,
        "timestamptz" => 1184,
        "numeric" => 1700,
        _ => return None,
    };
    schema.is_empty().then_some(oid)
}

impl Relation {
    /// `R`, behind the kind byte.
    pub(super) fn decode(cursor: &mut Cursor) -> Result<Relation, DecodeError> {
        let oid = cursor.u32("the OID of a relation")?;
        let schema = cursor.string("a schema")?.into();
        let name = cursor.string("the name of a relation")?.into();
        let identity = ReplicaIdentity::decode(cursor)?;
        let count = usize::from(cursor.u16("a number of columns")?);
        let mut columns = Vec::with_capacity(cursor.reserve(count, Column::LEAST_BYTES));
        for _ in 0..count {
            columns.push(Column::decode(cursor)?);
        }
        Ok(Relation { oid, schema, name, identity, columns })
    }
}

impl Column {
    /// Flags, an empty name's zero byte, type, modifier.
    const LEAST_BYTES: usize = 10;

    fn decode(cursor: &mut Cursor) -> Result<Column, DecodeError> {
        Ok(Column {
            is_key: cursor.flags(1, "the flags of a column: 0 or 1")? != 0,
            name: cursor.string("the name of a column")?.into(),
            type_oid: cursor.u32("the type of a column")?,
            type_modifier: cursor.i32("the type modifier of a column")?,
        })
    }
}

impl ReplicaIdentity {
    fn decode(cursor: &mut Cursor) -> Result<ReplicaIdentity, DecodeError> {
        const EXPECTED: &str = "a replica identity: 'd', 'n', 'f' or 'i'";
        let unknown = cursor.fail(EXPECTED);
        match cursor.u8(EXPECTED)? {
            b'd' => Ok(ReplicaIdentity::Default),
            b'n' => Ok(ReplicaIdentity::Nothing),
            b'f' => Ok(ReplicaIdentity::Full),
            b'i' => Ok(ReplicaIdentity::Index),
            _ => Err(unknown),
        }
    }
}
