//! The preconditions, each with its cure: `check` prints them, `init` and `run` refuse on the obstacles
//! with the same words.

mod completed;
mod durability;
mod publication;
mod redis;
mod server;
mod slot;
mod standby_names;
mod tables;

use std::fmt;

use serde::Serialize;

pub use completed::completed_identity;
pub use publication::{row_filter, without_lists};
pub use slot::foreign as foreign_slot;

use crate::catalog::{Catalog, Table};
use crate::config::{Config, Durability, TableSpec};
use crate::error::{Error, Fault, Result};
use crate::sink::Sink;

/// One precondition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What was looked at: `wal_level`, `table public.users`.
    pub topic: String,
    /// How it stands.
    pub verdict: Verdict,
    /// The fact.
    pub fact: String,
    /// What to do about it; empty where all is well.
    pub cure: String,
}

/// How a precondition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it must be.
    Pass,
    /// Works, but an operator should know.
    Warning,
    /// A promise would not be kept: `check` exits with 3.
    Failure,
    /// `run` would not work or would do harm: it refuses.
    Obstacle,
}

impl Item {
    fn pass(topic: impl Into<String>, fact: impl Into<String>) -> Item {
        Item { topic: topic.into(), verdict: Verdict::Pass, fact: fact.into(), cure: String::new() }
    }

    fn new(
        verdict: Verdict,
        topic: impl Into<String>,
        fact: impl Into<String>,
        cure: impl Into<String>,
    ) -> Item {
        Item { topic: topic.into(), verdict, fact: fact.into(), cure: cure.into() }
    }

    /// A server that cannot be asked anything.
    pub fn unreachable(topic: impl Into<String>, error: &Error) -> Item {
        let Fault { fact, cure } = error.fault().clone();
        Item::new(Verdict::Obstacle, topic, fact, cure)
    }

    /// Whether `check` must not exit with 0.
    pub fn fails(&self) -> bool {
        matches!(self.verdict, Verdict::Failure | Verdict::Obstacle)
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.verdict {
            Verdict::Pass => '✓',
            Verdict::Warning => '!',
            Verdict::Failure | Verdict::Obstacle => '✗',
        };
        let fault = Fault { fact: self.fact.clone(), cure: self.cure.clone() };
        write!(f, "{mark} {}: {fault}", self.topic)
    }
}

/// Every precondition on the database's side.
pub fn database(catalog: &Catalog, config: &Config) -> Vec<Item> {
    let mut items = beside_slot(catalog, config);
    items.extend(slot::judge(catalog, config));
    items
}

/// Those that must hold before a slot is made: it could never decode what was written before they did.
pub fn beside_slot(catalog: &Catalog, config: &Config) -> Vec<Item> {
    let mut items = server(catalog, config);
    for (spec, table) in config.tables.iter().zip(&catalog.tables) {
        items.extend(tables::judge(spec, table.as_ref(), catalog.server.has_column_lists()));
    }
    items.extend(publication::judge(catalog, config));
    items
}

/// Every precondition on Redis' side.
///
/// # Errors
/// A node that does not answer.
pub async fn redis(sink: &mut Sink, config: &Config) -> Result<Vec<Item>> {
    let nodes = sink.server_facts().await?;
    let mut items = redis::judge(&nodes);
    items.extend(durability::judge(&nodes, config.redis.durability));
    items.push(permissions(sink, config).await?);
    Ok(items)
}

/// Whether every node can keep what is written as the configuration asks; nothing where it asks for nothing more than to
/// have it in memory.
///
/// # Errors
/// A node that does not answer.
pub async fn durability(sink: &mut Sink, config: &Config) -> Result<Vec<Item>> {
    match config.redis.durability {
        Durability::Applied => Ok(Vec::new()),
        asked => Ok(durability::judge(&sink.server_facts().await?, asked)),
    }
}

/// Whether Redis lets this user do all that the key map asks for, down to each literal channel and pattern of keys.
///
/// # Errors
/// A node that does not answer.
pub async fn permissions(sink: &mut Sink, config: &Config) -> Result<Item> {
    redis::permissions(sink, config).await
}

/// The preconditions of the server alone, which must hold before anything is created on it.
pub fn server(catalog: &Catalog, config: &Config) -> Vec<Item> {
    server::judge(catalog, config)
}

/// The preconditions of the slot alone.
pub fn slot(catalog: &Catalog, config: &Config) -> Vec<Item> {
    slot::judge(catalog, config)
}

/// The table, if it is one that can be followed.
pub fn structure<'a>(spec: &TableSpec, table: Option<&'a Table>) -> Result<&'a Table> {
    refuse_obstacles(&tables::structure(spec, table))?;
    table.ok_or_else(|| Error::definite(format!("table {spec} does not exist"), ""))
}

/// Refuses to publish a table whose secrets a column list could not leave out.
pub fn refuse_exposed(spec: &TableSpec, table: &Table) -> Result<()> {
    match tables::exposed(spec, table) {
        Some(item) => Err(Error::definite(item.fact, item.cure)),
        None => Ok(()),
    }
}

/// The first obstacle as an error.
pub fn refuse_obstacles(items: &[Item]) -> Result<()> {
    match items.iter().find(|item| item.verdict == Verdict::Obstacle) {
        Some(item) => Err(Error::definite(item.fact.as_str(), item.cure.as_str())),
        None => Ok(()),
    }
}
