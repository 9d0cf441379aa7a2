//! What the publication carries, and whether it was changed: what is changed while a table is out of it, or while
//! nobody looks, never comes in the stream, so that the users have to be loaded again.

use postgres_protocol::escape::escape_literal;

use crate::config::Config;
use crate::error::Result;
use crate::wire::Tripwire;

/// The publication as it was at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// Another text after every change of the publication that concerns a followed table; empty without one.
    pub mark: String,
    /// Followed tables that it does not carry.
    pub missing: Vec<String>,
}

impl Carried {
    /// Whether every followed table is in it.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty() && !self.mark.is_empty()
    }
}

/// The SQL that [`read`] asks.
///
/// Rows of the catalog are never changed in place: each change leaves another `xmin`, a table that is put back
/// another oid.
pub fn question(config: &Config) -> String {
    let pair =
        |(schema, name): (&str, &str)| format!("({}, {})", escape_literal(schema), escape_literal(name));
    let tables: Vec<String> = config.tables.iter().map(|t| pair((&t.schema, &t.name))).collect();
    format!(
        "WITH f (schema, name) AS (VALUES {tables}), p AS (SELECT oid, xmin FROM pg_publication WHERE pubname = {name}) \
         SELECT (SELECT concat_ws('/', p.oid, p.xmin, (SELECT string_agg(concat_ws('.', r.oid, r.xmin), '/' ORDER BY r.oid) \
             FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN f ON f.schema = n.nspname AND f.name = c.relname WHERE r.prpubid = p.oid)) FROM p), \
         (SELECT string_agg(concat_ws('.', f.schema, f.name), ', ') FROM f WHERE NOT EXISTS (SELECT \
             FROM pg_publication_tables t WHERE t.pubname = {name} AND t.schemaname = f.schema AND t.tablename = f.name))",
        tables = tables.join(", "),
        name = escape_literal(&config.postgres.publication),
    )
}

/// Asks what the publication carries.
///
/// # Errors
/// The server's.
pub async fn read(tripwire: &mut Tripwire, question: &str) -> Result<Carried> {
    let mut row = tripwire.query(question).await?.into_iter().next().unwrap_or_default().into_iter();
    let mark = row.next().flatten().unwrap_or_default();
    let missing = row.next().flatten().unwrap_or_default();
    let missing = missing.split(", ").filter(|table| !table.is_empty()).map(str::to_owned).collect();
    Ok(Carried { mark, missing })
}
