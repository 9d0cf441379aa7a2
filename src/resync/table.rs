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
    fn id_type(&self) -> u32 {
        let id = self.relation.columns.iter().find(|column| *column.name == *self.id_column);
        id.map_or(0, |column| column.type_oid)
    }

    /// Whether ids are integers.
    pub fn has_numeric_id(&self) -> bool {
        matches!(self.id_type(), 20 | 21 | 23 | 26)
    }

    /// Whether a row may have this id, as PostgreSQL prints it: another text is not even of the column's type, and
    /// asking for it would be an error.
    pub fn may_have_id(&self, id: &str) -> bool {
        match self.id_type() {
            21 => id.parse::<i16>().is_ok_and(|number| number.to_string() == id),
            23 => id.parse::<i32>().is_ok_and(|number| number.to_string() == id),
            20 => id.parse::<i64>().is_ok_and(|number| number.to_string() == id),
            26 => id.parse::<u32>().is_ok_and(|number| number.to_string() == id),
            2950 => is_uuid(id),
            _ => true,
        }
    }
}

/// Whether it is a `uuid` as PostgreSQL prints it.
fn is_uuid(text: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match hyphens.contains(&at) {
            true => byte == b'-',
            false => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
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
        expected_rows: u64::try_from(row.get::<_, i64>(1)).unwrap_or(0),
        spec: spec.clone(),
    })
}
