//! Preconditions of a followed table.

use super::{Item, Verdict, completed};
use crate::catalog::{Column, Identity, Table};
use crate::config::{TableKind, TableSpec};

/// Types whose text is the same everywhere and makes a key.
const ID_TYPES: [&str; 6] = ["smallint", "integer", "bigint", "uuid", "text", "character varying"];
/// Types that hold an exact amount.
const BALANCE_TYPES: [&str; 4] = ["numeric", "smallint", "integer", "bigint"];
/// Types of a user type, besides enums.
const USER_TYPE_TYPES: [&str; 2] = ["text", "character varying"];

pub(super) fn judge(spec: &TableSpec, table: Option<&Table>, has_column_lists: bool) -> Vec<Item> {
    let mut items = structure(spec, table);
    if let Some(table) = table {
        items.extend(ambiguous(spec, table));
        items.extend(unreadable(spec, table));
        items.extend(identity(spec, table));
        items.extend(completed::judge(spec, table));
        items.extend(exposed(spec, table).filter(|_| has_column_lists));
        if items.is_empty() {
            let followed = spec.followed(table.columns.iter().map(|column| column.name.as_str()));
            let fact = format!("{} of {} columns are followed", followed.len(), table.columns.len());
            items.push(Item::pass(format!("table {spec}"), fact));
        }
    }
    items
}

/// Whether it is there, with the columns and types that are needed.
pub(super) fn structure(spec: &TableSpec, table: Option<&Table>) -> Vec<Item> {
    let topic = format!("table {spec}");
    let obstacle = |fact: String, cure: &str| Item::new(Verdict::Obstacle, &topic, fact, cure);
    let Some(table) = table else {
        let cure = "create it, or name the right one under [[tables]] in the configuration";
        return vec![obstacle(format!("table {spec} does not exist"), cure)];
    };
    if !matches!(table.kind, 'r' | 'p') {
        let fact = format!("{spec} is not an ordinary or partitioned table");
        return vec![obstacle(fact, "name the table behind it under [[tables]]")];
    }
    let mut items = missing_columns(spec, table);
    items.extend(types(spec, table));
    items
}

fn missing_columns(spec: &TableSpec, table: &Table) -> Vec<Item> {
    let missing = |verdict, column: &str| {
        let fact = format!("table {spec} has no column {column:?}");
        Item::new(verdict, format!("table {spec}"), fact, "add it, or correct its name under [[tables]]")
    };
    let required = spec.required_columns();
    let configured = spec.columns.iter().flatten().map(String::as_str);
    let mut items: Vec<_> = required
        .iter()
        .filter(|column| table.column(column).is_none())
        .map(|column| missing(Verdict::Obstacle, column))
        .collect();
    items.extend(
        configured
            .filter(|column| !required.contains(column) && table.column(column).is_none())
            .map(|column| missing(Verdict::Failure, column)),
    );
    items
}

fn types(spec: &TableSpec, table: &Table) -> Vec<Item> {
    let mut items = Vec::new();
    let mut expect = |name: &str, wanted: &[&str], enums: bool, cure: &str| {
        let Some(column) = table.column(name) else { return };
        let fits = wanted.contains(&column.type_name.as_str()) || (enums && column.is_enum);
        if !fits {
            let fact = format!("column {spec}.{name} is of type {}", column.type_name);
            items.push(Item::new(Verdict::Obstacle, format!("table {spec}"), fact, cure));
        }
    };
    match &spec.kind {
        TableKind::Users { id_column, balance_column } => {
            expect(id_column, &ID_TYPES, false, "use an integer, uuid or text column as id_column");
            expect(balance_column, &BALANCE_TYPES, false, "make it numeric: other types are not exact");
        }
        TableKind::Transactions { user_id_column } => {
            expect(user_id_column, &ID_TYPES, false, "use an integer, uuid or text column as user_id_column");
            expect("amount", &BALANCE_TYPES, false, "make it numeric: other types are not exact");
        }
    }
    if let Some(column) = spec.user_type_column() {
        expect(column, &USER_TYPE_TYPES, true, "use a text or enum column as user_type_column");
    }
    items
}

/// Two rows of one user would take turns in its keys.
fn ambiguous(spec: &TableSpec, table: &Table) -> Option<Item> {
    let key = spec.identity_columns();
    let is_key = |columns: &[String]| columns.iter().all(|column| key.contains(&column.as_str()));
    let unique = table.indexes.iter().any(|index| index.unique && index.valid && is_key(&index.columns));
    let complete = key.iter().all(|column| table.column(column).is_some());
    (spec.is_users() && complete && !unique).then(|| {
        let fact = format!("{} is not unique in {spec}", key.join(", "));
        Item::new(
            Verdict::Failure,
            format!("table {spec}"),
            fact,
            "make it the primary key, or name the columns that are",
        )
    })
}

fn unreadable(spec: &TableSpec, table: &Table) -> Option<Item> {
    let readable = |name: &str| table.column(name).is_none_or(|column| column.readable);
    let existing = table.columns.iter().map(|column| column.name.as_str());
    let hidden: Vec<_> = spec.followed(existing).into_iter().filter(|name| !readable(name)).collect();
    (!hidden.is_empty()).then(|| {
        Item::new(
            Verdict::Obstacle,
            format!("table {spec}"),
            format!("the role may not SELECT {} of {spec}", hidden.join(", ")),
            "run \"lockstep init --role NAME\" as the table's owner, or GRANT SELECT on these columns",
        )
    })
}

/// Whether WAL says enough of an old row.
fn identity(spec: &TableSpec, table: &Table) -> Option<Item> {
    let topic = format!("table {spec}");
    let covered = table.identity_columns();
    if covered.is_empty() {
        let fact = format!("table {spec} has no usable replica identity: once published, its updates fail");
        let cure = match table.identity {
            Identity::Nothing => {
                format!("run ALTER TABLE {spec} REPLICA IDENTITY DEFAULT, then \"lockstep init\"")
            }
            _ => "add a primary key, then run \"lockstep init\"".to_owned(),
        };
        return Some(Item::new(Verdict::Failure, topic, fact, cure));
    }
    let wanted = spec.identity_columns();
    let missing: Vec<_> = wanted.iter().copied().filter(|c| !covered.contains(c)).collect();
    if missing.is_empty() {
        let partition = table.unidentified(&wanted)?;
        let fact = format!(
            "the replica identity of partition {} of {spec} does not cover {}: its deletes cannot be followed",
            partition.name,
            wanted.join(", ")
        );
        return Some(Item::new(
            Verdict::Failure,
            topic,
            fact,
            "run \"lockstep init\", which sets it or says how",
        ));
    }
    let nullable = |column: &&&str| table.column(column).is_some_and(|Column { not_null, .. }| !not_null);
    let fact = format!(
        "the replica identity of {spec} does not cover {}: deletes and changes of it cannot be followed",
        missing.join(", ")
    );
    let cure = match missing.iter().find(nullable) {
        Some(column) => {
            format!("run ALTER TABLE {spec} ALTER COLUMN {column} SET NOT NULL, then \"lockstep init\"")
        }
        None => "run \"lockstep init\", which builds an index for it, or says how".to_owned(),
    };
    Some(Item::new(Verdict::Failure, topic, fact, cure))
}

/// Columns that nobody follows and that REPLICA IDENTITY FULL publishes all the same.
pub(super) fn exposed(spec: &TableSpec, table: &Table) -> Option<Item> {
    let followed = spec.followed(table.replicated());
    let exposed: Vec<&str> = table.replicated().filter(|column| !followed.contains(column)).collect();
    (table.identity == Identity::Full && !exposed.is_empty()).then(|| {
        Item::new(
            Verdict::Failure,
            format!("table {spec}"),
            format!(
                "{spec} has REPLICA IDENTITY FULL, which excludes a column list: columns that nobody follows, \
                 secrets perhaps, are published: {}",
                exposed.join(", ")
            ),
            format!("if nobody needs it, run ALTER TABLE {spec} REPLICA IDENTITY DEFAULT, then \"lockstep init\""),
        )
    })
}
