//! Keys of users who are no longer in the database: deleted in a gap, or never there.
//!
//! The stream tells of every deletion but those in a gap, and applications write keys by hand. So at the end of a
//! load all keys are looked at, and their users looked up; those that a snapshot does not see are handed to the
//! pipeline like any row that was read, which deletes their keys where no later event of the stream says otherwise.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::Reader;
use super::known::Known;
use super::read::{self, Which};
use super::table::Table;
use crate::balance::User;
use crate::error::Result;
use crate::lsn::{Lsn, Snapshot};
use crate::pipeline::{Chunk, ChunkEnd, Errand, Look};
use crate::sink::Walk;
use crate::wire::Lease;

/// Users looked up in one transaction.
const BATCH_USERS: usize = 1_000;

/// Looks at every key once, and looks up whose it is where that is nobody who is `known`; returns how many users were
/// found to be gone.
pub(super) async fn sweep(reader: &mut Reader, tables: &[Table], known: &Known) -> Result<u64> {
    let config = Arc::clone(&reader.config);
    let mut lease = Lease::new(&config.postgres);
    let (mut place, mut gone) = (Some(Walk::new()), 0);
    while let Some(walk) = place {
        let look = reader.errand(|done| Errand::Look(Look { walk, done }));
        let (keys, next) = lease.while_waiting(look).await?;
        place = next;
        let users: Vec<User> = users_of(reader, tables, known, &keys).into_iter().collect();
        for users in users.chunks(BATCH_USERS) {
            gone += remove_absent(reader, &mut lease, tables, users).await?;
        }
    }
    Ok(gone)
}

/// Whose keys these are, as far as they are users of a followed table and not known.
fn users_of(reader: &Reader, tables: &[Table], known: &Known, keys: &[Bytes]) -> HashSet<User> {
    let users = keys.iter().filter_map(|key| {
        let (user_type, id) = reader.key_map.parse_key(std::str::from_utf8(key).ok()?)?;
        if known.holds(user_type, id) { None } else { user(tables, user_type, id) }
    });
    users.collect()
}

/// A user who is followed, and whom a table may hold.
pub fn user(tables: &[Table], user_type: &str, id: &str) -> Option<User> {
    let table = tables.iter().find(|table| may_hold(table, user_type))?;
    if !table.spec.shard.holds(id) {
        return None;
    }
    Some(User { user_type: user_type.into(), id: id.into(), numeric_id: table.has_numeric_id() })
}

/// Whether a table may hold users of this type.
pub fn may_hold(table: &Table, user_type: &str) -> bool {
    table.spec.may_hold(user_type)
}

/// Deletes the keys of those of `users` whom no table holds; returns how many they are.
pub async fn remove_absent(
    reader: &mut Reader,
    lease: &mut Lease<'_>,
    tables: &[Table],
    users: &[User],
) -> Result<u64> {
    loop {
        let seen = Seen::read(reader, lease, tables, users).await?;
        let absent = users.iter().filter(|user| !seen.present.contains(user));
        let plans: Vec<_> = absent.map(|user| reader.key_map.plan_absent(user)).collect();
        let (count, Some(snapshot)) = (plans.len() as u64, seen.snapshot) else { return Ok(0) };
        if plans.is_empty() {
            return Ok(0);
        }
        let read_before = seen.read_before;
        let chunk = |done| Chunk {
            plans,
            refused: Vec::new(),
            snapshot,
            read_before,
            compares: None,
            told: None,
            done,
        };
        let handed_in = reader.errand(|done| Errand::Chunk(chunk(done)));
        if lease.while_waiting(handed_in).await? == ChunkEnd::Written {
            return Ok(count);
        }
    }
}

/// Which users the tables hold.
#[derive(Default)]
struct Seen {
    present: HashSet<User>,
    /// Of the first table: whoever came to a table later is not seen by it, and stays.
    snapshot: Option<Snapshot>,
    /// After the last table.
    read_before: Lsn,
}

impl Seen {
    async fn read(
        reader: &mut Reader,
        lease: &mut Lease<'_>,
        tables: &[Table],
        users: &[User],
    ) -> Result<Seen> {
        let mut seen = Seen::default();
        for table in tables {
            let of_table = users.iter().filter(|user| may_hold(table, &user.user_type));
            let ids: BTreeSet<&str> =
                of_table.map(|user| &*user.id).filter(|id| table.can_hold(id)).collect();
            let ids = ids.into_iter().map(str::to_owned).collect();
            let rows = read::read(lease.client().await?, table, &Which::Ids(ids)).await?;
            seen.present.extend(reader.users_of(table, &rows));
            seen.snapshot.get_or_insert(rows.snapshot);
            seen.read_before = seen.read_before.max(rows.read_before);
        }
        Ok(seen)
    }
}
