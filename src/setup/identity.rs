//! Replica identity: the columns by which WAL names an old row.

use super::quote::{ident, idents};
use super::{Statement, Step, Todo};
use crate::catalog::{Identity, Table};
use crate::config::TableSpec;
use crate::error::{Error, Result};

/// Longest name, in bytes: `NAMEDATALEN` - 1.
const NAME_BYTES: usize = 63;
/// How `drop` knows the index again.
const PREFIX: &str = "lockstep_identity_";

/// The name of the index that `init` builds for a table.
pub(super) fn index_name(table: &str) -> String {
    let mut end = table.len().min(NAME_BYTES - PREFIX.len());
    while !table.is_char_boundary(end) {
        end -= 1;
    }
    format!("{PREFIX}{}", table.get(..end).unwrap_or(""))
}

/// `"schema"."name"`.
pub(super) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}

/// What is left to do, and the columns that the identity has afterwards.
pub(super) fn plan(spec: &TableSpec, table: &Table) -> Result<(Step, Vec<String>)> {
    let what = format!("replica identity of {spec}");
    let present = table.identity_columns();
    let wanted = spec.identity_columns();
    let covered = wanted.iter().all(|column| present.contains(column));
    if covered && !present.is_empty() {
        return Ok((Step::nothing(what), present.into_iter().map(str::to_owned).collect()));
    }
    refuse(spec, table, &wanted)?;
    let name = index_name(&spec.name);
    let (quoted, target) = (ident(&name), qualified(&spec.schema, &spec.name));
    let index = qualified(&spec.schema, &name);
    let columns = idents(wanted.iter().copied());
    let mut statements = Vec::new();
    let existing = table.indexes.iter().find(|index| index.name == name);
    let usable = existing.is_some_and(|index| index.valid && index.unique && index.columns == wanted);
    if existing.is_some() && !usable {
        let sql = include_str!("../../sql/identity_leftover.sql");
        statements.push(Statement::patient(sql, &[("index", &index)]));
    }
    if !usable {
        let values = [("name", quoted.as_str()), ("table", &target), ("columns", &columns)];
        statements.push(Statement::patient(include_str!("../../sql/identity_index.sql"), &values));
    }
    let values = [("table", target.as_str()), ("name", &quoted)];
    statements.push(Statement::brief(include_str!("../../sql/identity.sql"), &values));
    let todo = match existing {
        Some(_) => Todo::Change(statements),
        None => Todo::Create(statements),
    };
    Ok((Step { what, todo }, wanted.into_iter().map(str::to_owned).collect()))
}

/// What an index cannot mend.
fn refuse(spec: &TableSpec, table: &Table, wanted: &[&str]) -> Result<()> {
    if wanted.is_empty() {
        return Err(Error::definite(
            format!("table {spec} has no primary key, so its updates would fail once it is published"),
            format!("add a primary key to {spec}, then run \"lockstep init\" again"),
        ));
    }
    let nullable = |name: &&&str| table.column(name).is_some_and(|column| !column.not_null);
    if let Some(column) = wanted.iter().find(nullable) {
        return Err(Error::definite(
            format!("column {spec}.{column} allows NULL, so no replica identity can cover it"),
            format!(
                "run ALTER TABLE {spec} ALTER COLUMN {column} SET NOT NULL, then \"lockstep init\" again"
            ),
        ));
    }
    if table.kind == 'p' {
        return Err(Error::definite(
            format!("the partitions of {spec} have no replica identity on {}", wanted.join(", ")),
            format!(
                "on each partition, build a unique index on ({0}) and set it as REPLICA IDENTITY; a primary \
                     key on {spec} that has {0} does the same",
                wanted.join(", ")
            ),
        ));
    }
    if table.identity == Identity::Index || table.identity == Identity::Nothing {
        let fact = format!("the replica identity of {spec} was set to something else on purpose");
        let cure = format!(
            "if nobody needs it, run ALTER TABLE {spec} REPLICA IDENTITY DEFAULT, then \"lockstep init\""
        );
        let ours = |index: &crate::catalog::Index| index.is_identity && index.name == index_name(&spec.name);
        if !table.indexes.iter().any(ours) {
            return Err(Error::definite(fact, cure));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_table_name_is_cut_at_a_character() {
        assert_eq!(index_name("users"), "lockstep_identity_users");
        let long = index_name(&"ü".repeat(40));
        assert!(long.len() <= NAME_BYTES && long.ends_with('ü'), "{long}");
    }
}
