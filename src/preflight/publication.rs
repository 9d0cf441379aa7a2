//! Preconditions of the publication.

use postgres_protocol::escape::escape_identifier;

use super::{Item, Verdict};
use crate::catalog::{Catalog, Publication, Published, Server, Table};
use crate::config::{Config, TableKind, TableSpec};

const INIT: &str = "run \"lockstep init\", which alters it";

pub(super) fn judge(catalog: &Catalog, config: &Config) -> Vec<Item> {
    let name = &config.postgres.publication;
    let topic = format!("publication {name}");
    let Some(publication) = &catalog.publication else {
        let fact = format!("publication {name:?} does not exist");
        return vec![Item::new(Verdict::Obstacle, topic, fact, "run \"lockstep init\", which creates it")];
    };
    let mut items = Vec::new();
    if !publication.all_operations {
        let fact = format!("publication {name:?} leaves out some of insert, update, delete, truncate");
        items.push(Item::new(Verdict::Obstacle, &topic, fact, INIT));
    }
    for (spec, table) in config.tables.iter().zip(&catalog.tables) {
        if let Some(table) = table {
            let filter = row_filter(spec, table, &catalog.server, &table.identity_columns());
            items.extend(table_items(&topic, publication, spec, (table, filter.as_deref())));
        }
    }
    items.extend(without_lists(catalog, config));
    if items.is_empty() {
        items.push(Item::pass(topic, format!("{} tables are published", config.tables.len())));
    }
    items
}

/// What the publication publishes beside what is followed, where the server knows no better.
pub fn without_lists(catalog: &Catalog, config: &Config) -> Option<Item> {
    (!catalog.server.has_column_lists()).then(|| {
        Item::new(
            Verdict::Warning,
            format!("publication {}", config.postgres.publication),
            "PostgreSQL 14 has no column lists: every column of the followed tables, secrets too, travels in \
             the replication stream (Lockstep drops them; none enters Redis)",
            "use TLS to the database, or upgrade to 15",
        )
    })
}

/// Which rows of a table the server is to send, in SQL; `None` where it sends all, and those of users whom another shard
/// follows are passed over here: before PostgreSQL 15 there are no filters, and one names columns of the replica
/// identity only, or updates fail, and none of a type that somebody has made. None for transactions: a row that moves
/// into a filter comes as an INSERT, and one that was completed long ago would count again.
pub fn row_filter(spec: &TableSpec, table: &Table, server: &Server, identity: &[&str]) -> Option<String> {
    let TableKind::Users { id_column: id, .. } = &spec.kind else { return None };
    let column = table.column(id)?;
    let is_integer =
        ["bigint", "integer", "smallint"].contains(&column.type_name.as_str()) && !column.is_domain;
    let is_identity = identity.contains(&id.as_str()) && table.unidentified(&[id]).is_none();
    let can_filter = server.has_column_lists() && is_integer && is_identity;
    spec.shard.condition(&escape_identifier(id)).filter(|_| can_filter)
}

fn table_items(
    topic: &str,
    publication: &Publication,
    spec: &TableSpec,
    (table, filter): (&Table, Option<&str>),
) -> Vec<Item> {
    let item = |verdict, fact: String| Item::new(verdict, topic, fact, INIT);
    if table.kind == 'p' && !publication.via_root {
        let fact = format!("changes of {spec} are published under the names of its partitions");
        return vec![item(Verdict::Obstacle, fact)];
    }
    let Some(published) = publication.table(&spec.schema, &spec.name) else {
        return vec![item(Verdict::Obstacle, format!("table {spec} is not published"))];
    };
    let mut items = Vec::new();
    match (&published.row_filter, filter) {
        _ if published.has_filter(filter) => {}
        (Some(_), _) => {
            items.push(item(Verdict::Obstacle, format!("a row filter leaves out rows of {spec}")));
        }
        (None, _) => {
            let fact = format!("rows of {spec} that other shards follow are sent as well");
            items.push(item(Verdict::Warning, fact));
        }
    }
    items.extend(column_items(topic, published, spec, table));
    items
}

fn column_items(topic: &str, published: &Published, spec: &TableSpec, table: &Table) -> Vec<Item> {
    let Some(columns) = &published.columns else { return Vec::new() };
    let mut items = Vec::new();
    let mut add = |verdict, columns: Vec<&str>, what: &str| {
        if !columns.is_empty() {
            items.push(Item::new(verdict, topic, format!("{spec}: {what}: {}", columns.join(", ")), INIT));
        }
    };
    let published = |column: &&str| columns.iter().any(|c| c == column);
    let followed = spec.followed(table.replicated());
    let identity = table.identity_columns();
    let (required, optional): (Vec<&str>, Vec<&str>) = followed
        .iter()
        .copied()
        .filter(|column| !published(column))
        .partition(|column| spec.required_columns().contains(column));
    add(Verdict::Obstacle, required, "columns that are needed are not published");
    add(Verdict::Failure, optional, "columns that are followed are not published");
    let unidentified = identity.iter().copied().filter(|column| !published(column)).collect();
    add(Verdict::Failure, unidentified, "updates fail, the replica identity is not published");
    let secret = table
        .replicated()
        .filter(|column| published(column) && !followed.contains(column) && !identity.contains(column))
        .collect();
    add(Verdict::Failure, secret, "columns that nobody follows, secrets perhaps, are published");
    items
}
