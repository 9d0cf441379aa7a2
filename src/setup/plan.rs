//! Configuration and catalog -> the steps that are left to do.

use tokio_postgres::Client;

use super::publication::Wanted;
use super::quote::literal;
use super::role::NewRole;
use super::{Statement, Step, Todo, identity, publication, role};
use crate::catalog::{Catalog, Identity, Table};
use crate::config::{Config, TableSpec};
use crate::error::Result;
use crate::preflight;

/// The steps of `init`, in the order in which none of them can hurt a writer: a table is published only
/// once its replica identity is there, and the slot comes last, because from then on WAL is kept.
///
/// An obstacle that no step can remove is an error, before anything is changed.
pub async fn plan(
    client: &Client,
    catalog: &Catalog,
    config: &Config,
    new_role: Option<&NewRole>,
) -> Result<Vec<Step>> {
    preflight::refuse_obstacles(&preflight::server(catalog, config))?;
    let mut steps = Vec::new();
    let mut wanted = Vec::new();
    for (spec, table) in config.tables.iter().zip(&catalog.tables) {
        let table = preflight::structure(spec, table.as_ref())?;
        if catalog.server.has_column_lists() {
            preflight::refuse_exposed(spec, table)?;
        }
        let (step, identity) = identity::plan(spec, table)?;
        steps.push(step);
        let lists = catalog.server.has_column_lists() && table.identity != Identity::Full;
        let identity: Vec<&str> = identity.iter().map(String::as_str).collect();
        let filter = preflight::row_filter(spec, table, &catalog.server, &identity);
        wanted.push(Wanted { spec, columns: lists.then(|| columns(spec, table, &identity)), filter });
    }
    if let Some(new_role) = new_role {
        steps.extend(role::plan(client, catalog, config, new_role).await?);
    }
    steps.push(publication::plan(catalog, config, &wanted)?);
    steps.push(slot(catalog, config)?);
    Ok(steps)
}

/// The columns of a table's list: what is followed, and what identifies the row, or updates would fail.
fn columns<'a>(spec: &TableSpec, table: &'a Table, identity: &[&str]) -> Vec<&'a str> {
    let followed = spec.followed(table.replicated());
    table.replicated().filter(|name| followed.contains(name) || identity.contains(name)).collect()
}

fn slot(catalog: &Catalog, config: &Config) -> Result<Step> {
    let name = &config.postgres.slot;
    let what = format!("slot {name}");
    if catalog.slot.is_some() {
        preflight::refuse_obstacles(&preflight::slot(catalog, config))?;
        return Ok(Step::nothing(what));
    }
    let statement =
        Statement::patient(slot_sql(catalog.server.has_failover_slots()), &[("slot", &literal(name))]);
    Ok(Step { what, todo: Todo::Create(vec![statement]) })
}

fn slot_sql(failover: bool) -> &'static str {
    match failover {
        true => include_str!("../../sql/slot_failover.sql"),
        false => include_str!("../../sql/slot.sql"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_makes_a_failover_slot_where_the_server_knows_them() {
        let asks = |failover| slot_sql(failover).contains("failover => true");
        assert_eq!([asks(true), asks(false)], [true, false]);
    }
}
