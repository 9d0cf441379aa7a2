//! A followed table of users, as SQL reads it.

use std::sync::Arc;

use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Client;

use super::passing;
use crate::config::{TableKind, TableSpec};
use crate::error::{Error, Result};
use crate::pgoutput::{Column, Relation, ReplicaIdentity};

/// A table of users with the columns that are followed.
#[derive(Debug, Clone)]
pub struct Table {
    /// How it is followed.
    pub spec: TableSpec,
    /// Quoted schema and name.
    pub qualified: String,
    /// Quoted columns, in the order of `relation`.
    pub select_list: String,
    /// The column that orders the rows.
    pub id_column: String,
    /// The table as the stream would describe it, followed columns only.
    pub relation: Arc<Relation>,
    /// Rows that the database's planner expects; 0 when it does not know.
    pub expected_rows: u64,
}

impl Table {
    /// Whether the id column can hold this id, and whoever has it is followed; to ask for one that it cannot hold is an
    /// error of the whole statement.
    pub fn can_hold(&self, id: &str) -> bool {
        self.spec.shard.holds(id) && is_value_of(self.id_type(), id)
    }

    /// In SQL, who is followed; `None` where that is everybody, or cannot be said of ids of this type.
    pub fn condition(&self) -> Option<String> {
        match self.id_type() {
            20 | 21 | 23 => self.spec.shard.condition(&escape_identifier(&self.id_column)),
            _ => None,
        }
    }

    /// Whether ids are integers.
    pub fn has_numeric_id(&self) -> bool {
        matches!(self.id_type(), 20 | 21 | 23 | 26)
    }

    fn id_type(&self) -> u32 {
        let id = self.relation.columns.iter().find(|column| *column.name == *self.id_column);
        id.map_or(0, |column| column.type_oid)
    }
}

/// Whether a type prints one of its values so. By the id types that are followed, with their `pg_type.oid`.
fn is_value_of(type_oid: u32, text: &str) -> bool {
    let printed = |number: Option<String>| number.as_deref() == Some(text);
    match type_oid {
        20 => printed(text.parse::<i64>().ok().map(|n| n.to_string())),
        21 => printed(text.parse::<i16>().ok().map(|n| n.to_string())),
        26 => printed(text.parse::<u32>().ok().map(|n| n.to_string())),
        23 => printed(text.parse::<i32>().ok().map(|n| n.to_string())),
        2950 => {
            let is_uuid = |(at, byte): (usize, u8)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            };
            text.len() == 36 && text.bytes().enumerate().all(is_uuid)
        }
        _ => true,
    }
}

/// Looks a table of users up.
///
/// # Errors
/// Transient where it is not there as it has to be: somebody may be changing it.
pub async fn describe(client: &Client, spec: &TableSpec) -> Result<Table> {
    let TableKind::Users { id_column, .. } = &spec.kind else {
        return Err(Error::definite(format!("{spec} is no table of users"), "report this as a bug"));
    };
    let qualified = format!("{}.{}", escape_identifier(&spec.schema), escape_identifier(&spec.name));
    let failed = |error| passing(&format!("reading the table {spec}"), &error);
    let statement = client.prepare(&format!("SELECT * FROM {qualified}")).await.map_err(failed)?;
    let missing = |column: &&str| !statement.columns().iter().any(|known| known.name() == *column);
    if let Some(column) = spec.required_columns().into_iter().find(missing) {
        let fact = format!("table {spec} has no column {column:?}");
        return Err(Error::transient(fact, "put it back, or correct [[tables]]"));
    }
    let followed = spec.followed(statement.columns().iter().map(|column| column.name()));
    let columns = statement.columns().iter().filter(|column| followed.contains(&column.name()));
    let columns: Vec<Column> = columns
        .map(|column| Column {
            is_key: column.name() == id_column,
            name: column.name().into(),
            type_oid: column.type_().oid(),
            type_modifier: -1,
        })
        .collect();
    const ROWS: &str =
        "SELECT oid, greatest(reltuples, 0)::int8 FROM pg_class WHERE oid = $1::text::regclass";
    let row = client.query_one(ROWS, &[&qualified]).await.map_err(failed)?;
    let select_list: Vec<String> = columns.iter().map(|column| escape_identifier(&column.name)).collect();
    let relation = Relation {
        oid: row.get(0),
        schema: spec.schema.as_str().into(),
        name: spec.name.as_str().into(),
        identity: ReplicaIdentity::Default,
        columns,
    };
    Ok(Table {
        qualified,
        select_list: select_list.join(", "),
        id_column: id_column.clone(),
        relation: Arc::new(relation),
        expected_rows: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0) / u64::from(spec.shard.count()),
        spec: spec.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_that_its_column_prints() {
        let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        for (oid, id) in
            [(23, "7"), (23, "-2147483648"), (21, "32767"), (20, "99999999999"), (2950, uuid), (25, "x")]
        {
            assert!(is_value_of(oid, id), "{id}");
        }
        let shouted = uuid.to_uppercase();
        for (oid, id) in [
            (23, "99999999999"),
            (23, "abc"),
            (23, "007"),
            (23, "+7"),
            (23, ""),
            (21, "32768"),
            (20, "9223372036854775808"),
            (2950, &shouted),
            (2950, "a0eebc99"),
        ] {
            assert!(!is_value_of(oid, id), "{id}");
        }
    }
}
