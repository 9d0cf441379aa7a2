//! What the database says about itself: the facts that `preflight` judges and `setup` changes.

mod publication;
mod server;
mod slot;
mod table;

pub use publication::{Publication, Published};
pub use server::Server;
pub use slot::{Holder, Slot, blockers};
pub use table::{Column, ColumnList, Identity, Index, Partition, Table};

use tokio_postgres::Client;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::wire;

/// Everything that preconditions and steps depend on, read once.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// The server, the database and the role.
    pub server: Server,
    /// The configured tables in their order; `None` where one does not exist.
    pub tables: Vec<Option<Table>>,
    /// The configured publication.
    pub publication: Option<Publication>,
    /// The configured slot.
    pub slot: Option<Slot>,
}

impl Catalog {
    /// Reads all facts over an ordinary connection.
    pub async fn read(client: &Client, config: &Config) -> Result<Catalog> {
        let server = Server::read(client).await?;
        let mut tables = Vec::with_capacity(config.tables.len());
        for table in &config.tables {
            tables.push(Table::read(client, &table.schema, &table.name).await?);
        }
        let publication = Publication::read(client, &config.postgres.publication, &server).await?;
        let slot = Slot::read(client, &config.postgres.slot).await?;
        Ok(Catalog { server, tables, publication, slot })
    }
}

/// A failed query as a fact: the server's own words where they quote no values, or that the connection went.
pub fn query_error(doing: &str, error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) => {
            let code = db.code().code();
            let fact = match code {
                "23505" => format!("{doing}: rows that should be unique are not (SQLSTATE {code})"),
                _ if wire::quotes_values(code) => {
                    format!("{doing}: the database reports a data error (SQLSTATE {code})")
                }
                _ => format!("{doing}: the database says: {} (SQLSTATE {code})", db.message()),
            };
            let cure = db.hint().filter(|_| !wire::quotes_values(code)).unwrap_or("").to_owned();
            match wire::is_transient(code) {
                true => Error::transient(fact, cure),
                false => Error::definite(fact, cure),
            }
        }
        None if error.is_closed() => {
            Error::transient(format!("{doing}: the database closed the connection"), "")
        }
        None => Error::transient(format!("{doing}: {error}"), ""),
    }
}
