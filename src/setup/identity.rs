//! Replica identity: the columns by which WAL names an old row.

use super::quote::{ident, idents, literal};
use super::{Statement, Step, Todo};
use crate::catalog::{Identity, Index, Table};
use crate::config::TableSpec;
use crate::error::{Error, Result};
use crate::preflight;

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
    let wanted = preflight::completed_identity(spec, table).unwrap_or_else(|| spec.identity_columns());
    let covered =
        wanted.iter().all(|column| present.contains(column)) && table.unidentified(&wanted).is_none();
    if covered && !present.is_empty() {
        return Ok((Step::nothing(what), present.into_iter().map(str::to_owned).collect()));
    }
    refuse(spec, table, &wanted)?;
    if table.kind == 'p' {
        return Ok((
            partitioned(spec, table, &wanted, what)?,
            wanted.into_iter().map(str::to_owned).collect(),
        ));
    }
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

/// The identity of a partitioned table and of each partition, by a unique index that is there. To build one
/// blocks the table's writers, so that is left to an operator.
fn partitioned(spec: &TableSpec, table: &Table, wanted: &[&str], what: String) -> Result<Step> {
    let fits = |index: &&Index| index.valid && index.unique && index.columns == wanted;
    let Some(index) = table.indexes.iter().find(fits) else {
        let partition = table.unidentified(wanted).map_or("its partitions", |partition| &partition.name);
        let columns = wanted.join(", ");
        return Err(Error::definite(
            format!("the replica identity of {partition} in {spec} does not cover {columns}"),
            format!(
                "in a quiet hour run CREATE UNIQUE INDEX ON {} ({}), which blocks its writers while it builds, \
                 then \"lockstep init\"",
                qualified(&spec.schema, &spec.name),
                idents(wanted.iter().copied())
            ),
        ));
    };
    let name = literal(&qualified(&spec.schema, &index.name));
    let sql = include_str!("../../sql/identity_partitions.sql");
    Ok(Step { what, todo: Todo::Change(vec![Statement::brief(sql, &[("index", &name)])]) })
}

/// What an index cannot mend.
fn refuse(spec: &TableSpec, table: &Table, wanted: &[&str]) -> Result<()> {
    if table.identity == Identity::Nothing {
        return Err(Error::definite(
            format!(
                "the replica identity of {spec} is NOTHING, so its updates would fail once it is published"
            ),
            format!("run ALTER TABLE {spec} REPLICA IDENTITY DEFAULT, then \"lockstep init\" again"),
        ));
    }
    if let Some(partition) = table.unidentified(&[]) {
        return Err(Error::definite(
            format!(
                "partition {} of {spec} has no usable replica identity, so its updates would fail once it is published",
                partition.name
            ),
            format!(
                "give it a primary key and run ALTER TABLE {} REPLICA IDENTITY DEFAULT, then \"lockstep init\" again",
                partition.name
            ),
        ));
    }
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
    if table.identity == Identity::Index && table.kind != 'p' {
        let fact = format!("the replica identity of {spec} was set to something else on purpose");
        let cure = format!(
            "if nobody needs it, run ALTER TABLE {spec} REPLICA IDENTITY DEFAULT, then \"lockstep init\""
        );
        let ours = |index: &Index| index.is_identity && index.name == index_name(&spec.name);
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
