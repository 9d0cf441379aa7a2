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
