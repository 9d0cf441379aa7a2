//! Whether WAL tells that a row of `user_transactions` was completed before it was changed.
//!
//! Only rows that become completed count. An edit of a row that was completed already looks the same unless WAL
//! names old rows by their status too: then an old row is sent exactly where the status changed, or the key did.

use super::{Item, Verdict};
use crate::catalog::{Identity, Table};
use crate::config::{TableKind, TableSpec};

/// The column.
const STATUS: &str = "status";

/// How a table of transactions stands.
enum Standing<'t> {
    /// WAL tells it, or another precondition is in the way first.
    Told,
    /// An identity of these columns would tell it.
    Mendable(Vec<&'t str>),
    /// `init` leaves the identity as it is; the cure.
    Kept(String),
    /// A partition does not tell what its table promises.
    Partition(&'t str),
}

/// The columns of the replica identity that `init` is to give a table of transactions; `None`: the one it has.
pub fn completed_identity<'t>(spec: &TableSpec, table: &'t Table) -> Option<Vec<&'t str>> {
    match standing(spec, table) {
        Standing::Mendable(columns) => Some(columns),
        _ => None,
    }
}

pub(super) fn judge(spec: &TableSpec, table: &Table) -> Option<Item> {
    let (verdict, cure) = match standing(spec, table) {
        Standing::Told => return None,
        Standing::Mendable(_) => {
            (Verdict::Warning, "run \"lockstep init\", which builds an index for it".to_owned())
        }
        Standing::Kept(cure) => (Verdict::Warning, cure),
        Standing::Partition(partition) => {
            let fact = format!(
                "the replica identity of {spec} covers {STATUS} and that of its partition {partition} does not: \
                 rows that become completed there are missed"
            );
            let cure = format!(
                "run ALTER TABLE {spec} REPLICA IDENTITY DEFAULT, or give {partition} the same identity"
            );
            return Some(Item::new(Verdict::Failure, format!("table {spec}"), fact, cure));
        }
    };
    let fact = format!(
        "the replica identity of {spec} does not cover {STATUS}: an edit of a completed row is told as if it had \
         been completed just now"
    );
    Some(Item::new(verdict, format!("table {spec}"), fact, cure))
}

fn standing<'t>(spec: &TableSpec, table: &'t Table) -> Standing<'t> {
    let covered = table.identity_columns();
    let status = table.column(STATUS);
    let (TableKind::Transactions { .. }, Some(status), false) = (&spec.kind, status, covered.is_empty())
    else {
        return Standing::Told;
    };
    if covered.contains(&STATUS) {
        let partition = table.unidentified(&[STATUS]).filter(|_| table.identity != Identity::Full);
        return partition.map_or(Standing::Told, |partition| Standing::Partition(&partition.name));
    }
    if table.kind == 'p' {
        return Standing::Kept(format!(
            "no cure for a partitioned table but not to edit such rows: each partition of {spec} has an identity of its own"
        ));
    }
    if !status.not_null {
        return Standing::Kept(format!(
            "run ALTER TABLE {spec} ALTER COLUMN {STATUS} SET NOT NULL, then \"lockstep init\""
        ));
    }
    if table.identity != Identity::Default {
        return Standing::Kept(format!(
            "it was set to something else on purpose: if nobody needs it, run ALTER TABLE {spec} REPLICA IDENTITY \
             DEFAULT, then \"lockstep init\""
        ));
    }
    let wanted: Vec<&str> = covered.into_iter().chain([&*status.name]).collect();
    match table.narrower_list(&wanted) {
        Some(list) => Standing::Kept(format!(
            "publication {:?} lists columns of {spec} without {}, so its updates would fail: add them there, then \
             run \"lockstep init\"",
            list.publication,
            wanted.join(", ")
        )),
        None => Standing::Mendable(wanted),
    }
}
