//! What `drop` removes: the slot, the publication, and the identity index that `init` built, where no other shard needs it.

use super::identity::{index_name, qualified};
use super::quote::{ident, literal};
use super::{Statement, Step, Todo};
use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::preflight;

/// The steps of `drop`. A slot that streams is an error that names who holds it: nothing is terminated.
pub fn removal(catalog: &Catalog, config: &Config) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    if let Some(slot) = &catalog.slot {
        let name = &config.postgres.slot;
        if let Some(holder) = &slot.holder {
            return Err(Error::definite(
                format!("slot {name:?} streams to pid {} ({})", holder.pid, holder.who),
                "stop that program, then run \"lockstep drop\" again",
            ));
        }
        if let Some(fact) = preflight::foreign_slot(slot, name, &catalog.server.database) {
            return Err(Error::definite(fact, "it is not Lockstep's: correct postgres.slot"));
        }
        let sql = include_str!("../../sql/slot_drop.sql");
        steps.push(remove(format!("slot {name}"), vec![Statement::brief(sql, &[("slot", &literal(name))])]));
    }
    if catalog.publication.is_some() {
        let name = &config.postgres.publication;
        let sql = include_str!("../../sql/publication_drop.sql");
        let statement = Statement::brief(sql, &[("publication", &ident(name))]);
        steps.push(remove(format!("publication {name}"), vec![statement]));
    }
    for (spec, table) in config.tables.iter().zip(&catalog.tables) {
        let name = index_name(&spec.name);
        let index = table.as_ref().and_then(|table| table.indexes.iter().find(|index| index.name == name));
        let Some(index) = index else { continue };
        // Another shard: without the index its stream would not tell who was deleted, and since its publication leaves columns
        // and rows out, updates might fail.
        let (shard, own) = (config.postgres.shard, config.postgres.publication.as_str());
        let is_anothers = |publication: &String| shard.is_anothers(own, publication);
        if table.as_ref().is_some_and(|table| table.publications.iter().any(is_anothers)) {
            continue;
        }
        let mut statements = Vec::new();
        if index.is_identity {
            let target = qualified(&spec.schema, &spec.name);
            let sql = include_str!("../../sql/identity_default.sql");
            statements.push(Statement::brief(sql, &[("table", &target)]));
        }
        let index = qualified(&spec.schema, &name);
        let sql = include_str!("../../sql/identity_leftover.sql");
        statements.push(Statement::patient(sql, &[("index", &index)]));
        steps.push(remove(format!("replica identity index {name} of {spec}"), statements));
    }
    Ok(steps)
}

fn remove(what: String, statements: Vec<Statement>) -> Step {
    Step { what, todo: Todo::Remove(statements) }
}
