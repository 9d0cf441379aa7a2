//! Whether there can be such a user, and its row.

use std::sync::Arc;

use super::{Inspector, NoAnswer};
use crate::balance::user::{is_sound_id, is_sound_type};
use crate::balance::{Event, Kind, User};
use crate::config::{Shard, TableSpec, UserType};
use crate::error::Result;
use crate::keyplan::KeyPlan;
use crate::lsn::Lsn;
use crate::pgoutput::PgTime;
use crate::resync::Reader;
use crate::resync::read::{self, Rows, Which};
use crate::resync::sweep::may_hold;
use crate::resync::table::{self, Table};
use crate::txn::CommitInfo;
use crate::wire::Lease;

/// Longest user type that is asked for, in bytes, where a column tells it.
const LONGEST_TYPE_BYTES: usize = 64;

/// Type and id as they were asked for: they could be a user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    user_type: String,
    id: String,
}

impl Name {
    /// The user type.
    pub fn user_type(&self) -> &str {
        &self.user_type
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// A row as one snapshot sees it, and what it means.
pub(super) struct Row {
    pub(super) rows: Rows,
    pub(super) event: Event,
    pub(super) plan: KeyPlan,
    /// Columns whose values are times.
    pub(super) times: Vec<Arc<str>>,
}

/// What the tables say of a name.
pub(super) enum Found {
    Row(Box<Row>),
    /// Nobody of this name, before this position.
    Nobody(User, Lsn),
}

impl Inspector {
    /// Whether there can be such a user.
    ///
    /// # Errors
    /// Why not, without the words that were asked for.
    pub fn name(&self, user_type: &str, id: &str) -> Result<Name, NoAnswer> {
        check(&self.0.reader.config.tables, user_type, id).map_err(NoAnswer::Mistake)?;
        Ok(Name { user_type: user_type.to_owned(), id: id.to_owned() })
    }
}

fn check(tables: &[TableSpec], user_type: &str, id: &str) -> Result<(), String> {
    let users = || tables.iter().filter(|table| table.is_users());
    let constants: Vec<&str> = users()
        .filter_map(|table| match &table.user_type {
            UserType::Constant(constant) => Some(constant.as_str()),
            UserType::Column(_) => None,
        })
        .collect();
    let any = users().any(|table| table.user_type_column().is_some());
    if !constants.contains(&user_type) {
        if !any {
            return Err(format!("userType is none that is followed: say one of {}", constants.join(", ")));
        }
        if user_type.len() > LONGEST_TYPE_BYTES || !is_sound_type(user_type) {
            return Err(format!(
                "userType is empty, longer than {LONGEST_TYPE_BYTES} bytes, or holds a brace, a colon or a control \
                 character"
            ));
        }
    }
    if !is_sound_id(id) {
        return Err("userId is empty, too long, or holds a brace or a control character".to_owned());
    }
    let shard = Shard::of(tables);
    match shard.holds(id) {
        true => Ok(()),
        false => Err(format!(
            "userId is followed by shard {} of {}, and this is shard {}: ask that one",
            shard.whose(id),
            shard.count(),
            shard.index()
        )),
    }
}

/// The tables that may hold the user.
///
/// # Errors
/// The database's; or none of their id columns can hold such an id.
pub(super) async fn tables(
    reader: &Reader,
    lease: &mut Lease<'_>,
    name: &Name,
) -> Result<Vec<Table>, NoAnswer> {
    let mut tables = Vec::new();
    for spec in reader.config.tables.iter().filter(|spec| spec.is_users()) {
        let table = match &spec.user_type {
            UserType::Constant(constant) if *constant != name.user_type => continue,
            _ => table::describe(lease.client().await?, spec).await?,
        };
        tables.push(table);
    }
    debug_assert!(tables.iter().all(|table| may_hold(table, &name.user_type)));
    if tables.iter().any(|table| table.can_hold(&name.id)) {
        tables.retain(|table| table.can_hold(&name.id));
        return Ok(tables);
    }
    Err(NoAnswer::Mistake("userId is no value that the id column of the table holds".to_owned()))
}

/// Reads the user's row, and plans what it does to Redis.
pub(super) async fn find(
    reader: &mut Reader,
    lease: &mut Lease<'_>,
    tables: &[Table],
    (name, kind): (&Name, Kind),
) -> Result<Found> {
    let mut read_before = Lsn::ZERO;
    for table in tables {
        let which = Which::Ids(vec![name.id.clone()]);
        let rows = read::read(lease.client().await?, table, &which).await?;
        read_before = read_before.max(rows.read_before);
        let time = PgTime(reader.health.last_commit());
        let commit = Arc::new(CommitInfo { commit_lsn: rows.read_before, time, xid: rows.snapshot.xmax });
        let mut events = rows
            .rows
            .iter()
            .filter_map(|row| reader.mapping.row_event(&table.relation, row, kind, &commit).ok());
        // A column may tell that it is a user of another type.
        let event =
            events.find(|event| *event.user.user_type == *name.user_type && *event.user.id == *name.id);
        drop(events);
        if let Some(event) = event {
            let plan = reader.key_map.plan(&event);
            let times = times(table);
            return Ok(Found::Row(Box::new(Row { rows, event, plan, times })));
        }
    }
    let numeric_id = tables.first().is_some_and(Table::has_numeric_id);
    let (user_type, id) = (name.user_type.as_str().into(), name.id.as_str().into());
    Ok(Found::Nobody(User { user_type, id, numeric_id }, read_before))
}

/// `timestamp` and `timestamptz` by their `pg_type.oid`.
fn times(table: &Table) -> Vec<Arc<str>> {
    let columns = table.relation.columns.iter().filter(|column| matches!(column.type_oid, 1114 | 1184));
    columns.map(|column| Arc::clone(&column.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(user_type: &str) -> TableSpec {
        TableSpec { user_type: UserType::Constant(user_type.into()), ..TableSpec::defaults()[0].clone() }
    }

    #[test]
    fn a_type_is_one_that_is_followed() {
        let tables = [constant("live"), constant("demo")];
        assert_eq!(check(&tables, "demo", "7"), Ok(()));
        for unknown in ["", "real", "Live", "live ", &"x".repeat(100_000)] {
            assert_eq!(
                check(&tables, unknown, "7").unwrap_err(),
                "userType is none that is followed: say one of live, demo"
            );
        }
    }

    #[test]
    fn where_a_column_tells_the_type_it_is_any_that_a_key_can_have() {
        let tables = TableSpec::defaults();
        for sound in ["live", "Ünï", "a b", &"x".repeat(64)] {
            assert_eq!(check(&tables, sound, "7"), Ok(()), "{sound}");
        }
        for wrong in ["", "a:b", "{", "a\nb", "\0", &"x".repeat(65)] {
            let told = check(&tables, wrong, "7").unwrap_err();
            assert!(told.starts_with("userType is empty, longer than 64 bytes"), "{told}");
        }
    }

    #[test]
    fn of_a_user_of_another_shard_that_one_is_asked() {
        let shard = Shard::new(1, 3).unwrap();
        let tables = [TableSpec { shard, ..TableSpec::defaults()[0].clone() }];
        assert_eq!(check(&tables, "live", "7"), Ok(()));
        let told = check(&tables, "live", "8").unwrap_err();
        assert_eq!(told, "userId is followed by shard 2 of 3, and this is shard 1: ask that one");
    }

    #[test]
    fn an_id_is_one_that_a_key_can_have() {
        let tables = TableSpec::defaults();
        for wrong in ["", "{7}", "7\r\n", &"7".repeat(513)] {
            assert!(check(&tables, "live", wrong).unwrap_err().starts_with("userId is empty"), "{wrong:?}");
        }
    }
}
