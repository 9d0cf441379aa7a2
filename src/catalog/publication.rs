//! The publication.

use tokio_postgres::Client;

use super::{Server, query_error};
use crate::error::Result;

/// A publication as `pg_publication` and `pg_publication_tables` have it.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Whether it is `FOR ALL TABLES`.
    pub all_tables: bool,
    /// Whether insert, update, delete and truncate are all published.
    pub all_operations: bool,
    /// `publish_via_partition_root`.
    pub via_root: bool,
    /// Its tables.
    pub tables: Vec<Published>,
}

/// A published table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// The published columns; `None` before PostgreSQL 15: all.
    pub columns: Option<Vec<String>>,
    /// A row filter.
    pub row_filter: Option<String>,
}

impl Published {
    /// Whether its rows are those of this filter, every operation of which stands in parentheses, but for the last.
    pub fn has_filter(&self, wanted: Option<&str>) -> bool {
        let wanted = wanted.map(|wanted| without_casts(&format!("({wanted})")));
        self.row_filter.as_deref().map(without_casts) == wanted
    }
}

/// The server casts columns and numbers of a filter to each other's type, `(2)::bigint`, and quotes names only where they
/// need it.
fn without_casts(filter: &str) -> String {
    let mut filter = filter.replace('"', "");
    for cast in [")::bigint", ")::integer", ")::smallint"] {
        while let Some((before, after)) = filter.split_once(cast)
            && let Some((head, cast)) = before.rsplit_once('(')
        {
            filter = format!("{head}{cast}{after}");
        }
    }
    filter
}

impl Publication {
    /// Reads a publication; `None` when there is none of that name.
    pub async fn read(client: &Client, name: &str, server: &Server) -> Result<Option<Publication>> {
        const SQL: &str = "
            SELECT puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot
            FROM pg_publication WHERE pubname = $1";
        // attnames and rowfilter came with PostgreSQL 15, like the lists themselves.
        let tables_sql = match server.has_column_lists() {
            true => {
                "SELECT schemaname::text, tablename::text, attnames::text[], rowfilter
                 FROM pg_publication_tables WHERE pubname = $1 ORDER BY 1, 2"
            }
            false => {
                "SELECT schemaname::text, tablename::text, NULL::text[], NULL::text
                 FROM pg_publication_tables WHERE pubname = $1 ORDER BY 1, 2"
            }
        };
        let failed = |e| query_error(&format!("reading the publication {name:?}"), &e);
        let Some(row) = client.query_opt(SQL, &[&name]).await.map_err(failed)? else { return Ok(None) };
        let tables = client.query(tables_sql, &[&name]).await.map_err(failed)?;
        Ok(Some(Publication {
            all_tables: row.get(0),
            all_operations: row.get(1),
            via_root: row.get(2),
            tables: tables
                .iter()
                .map(|row| Published {
                    schema: row.get(0),
                    name: row.get(1),
                    columns: row.get(2),
                    row_filter: row.get(3),
                })
                .collect(),
        }))
    }

    /// The published table of that name.
    pub fn table(&self, schema: &str, name: &str) -> Option<&Published> {
        self.tables.iter().find(|table| table.schema == schema && table.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_known_as_the_server_prints_it() {
        let with = |filter: Option<&str>| Published {
            schema: "public".into(),
            name: "users".into(),
            columns: None,
            row_filter: filter.map(str::to_owned),
        };
        let wanted = Some("(((\"id\" % 2) + 2) % 2) = 1");
        assert!(with(Some("((((id % (2)::bigint) + 2) % (2)::bigint) = 1)")).has_filter(wanted));
        assert!(with(Some("((((id % 2) + 2) % 2) = 1)")).has_filter(wanted));
        assert!(
            !with(Some("((((id % 2) + 2) % 2) = 0)")).has_filter(wanted) && !with(None).has_filter(wanted)
        );
        assert!(
            !with(Some("(((id % 2) + (2 % 2)) = 1)")).has_filter(wanted),
            "the same, but for parentheses"
        );
        assert!(with(None).has_filter(None) && !with(Some("(id > 1)")).has_filter(None));
    }
}
