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

/// The SQL that asks for it.
///
/// Rows of the catalog are never changed in place: each change leaves another `xmin`, a table that is put back
/// another oid.
pub struct Question {
    /// Of the catalog alone: whatever is locked does not keep it waiting.
    mark: String,
    missing: String,
}

impl Question {
    /// About the publication and the tables of the configuration.
    pub fn new(config: &Config) -> Question {
        let pair =
            |(schema, name): (&str, &str)| format!("({}, {})", escape_literal(schema), escape_literal(name));
        let tables: Vec<String> = config.tables.iter().map(|t| pair((&t.schema, &t.name))).collect();
        let followed = format!("f (schema, name) AS (VALUES {})", tables.join(", "));
        let name = escape_literal(&config.postgres.publication);
        let mark = format!(
            "WITH {followed}, p AS (SELECT oid, xmin FROM pg_publication WHERE pubname = {name}) \
             SELECT concat_ws('/', p.oid, p.xmin, (SELECT string_agg(concat_ws('.', r.oid, r.xmin), '/' ORDER BY r.oid) \
             FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN f ON f.schema = n.nspname AND f.name = c.relname WHERE r.prpubid = p.oid)) FROM p"
        );
        let missing = format!(
            "WITH {followed} SELECT string_agg(concat_ws('.', f.schema, f.name), ', ') FROM f WHERE NOT EXISTS (SELECT \
             FROM pg_publication_tables t WHERE t.pubname = {name} AND t.schemaname = f.schema AND t.tablename = f.name)"
        );
        Question { mark, missing }
    }
}

/// Asks what the publication carries.
///
/// # Errors
/// The server's.
pub async fn read(tripwire: &mut Tripwire, question: &Question) -> Result<Carried> {
    // The mark first: what is changed in between is seen at the next look.
    let mark = read_mark(tripwire, question).await?;
    let missing = first(tripwire, &question.missing).await?;
    let missing = missing.split(", ").filter(|table| !table.is_empty()).map(str::to_owned).collect();
    Ok(Carried { mark, missing })
}

/// Asks for the mark alone.
///
/// # Errors
/// The server's.
pub async fn read_mark(tripwire: &mut Tripwire, question: &Question) -> Result<String> {
    first(tripwire, &question.mark).await
}

async fn first(tripwire: &mut Tripwire, query: &str) -> Result<String> {
    let value = tripwire.query(query).await?.into_iter().next().and_then(|row| row.into_iter().next());
    Ok(value.flatten().unwrap_or_default())
}
