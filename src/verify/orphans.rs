//! Every key in Redis that the key map names: those whose user was not found, and is held by no table, are looked at again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{Parts, Patience, READERS};
use crate::balance::User;
use crate::catalog::query_error;
use crate::config::UserType;
use crate::error::{Error, Result};
use crate::resync::known::Known;
use crate::resync::sweep;
use crate::resync::table::Table;
use crate::sink::{Sink, Walk, told_where_to_look};
use crate::wire::Lease;

/// Users looked up in one statement.
const BATCH_USERS: usize = 1_000;
/// Keys of any name: one walk finds those of all templates.
const EVERY_KEY: &[u8] = b"*";

/// Looks at every key once.
pub(super) async fn look(parts: Parts, known: &Known) -> Result<()> {
    tracing::info!("looking for keys of nobody");
    let config = Arc::clone(&parts.config);
    let mut lease = Lease::new(&config.postgres);
    let mut patience = Patience::new(READERS);
    let mut sink = None;
    let mut place = Some(Walk::new());
    while let Some(walk) = &place {
        match step((&parts, known), &mut lease, &mut sink, walk.clone()).await {
            Ok(next) => {
                place = next;
                patience.end();
            }
            Err(fault) => {
                patience.after(fault).await?;
                lease = Lease::new(&config.postgres);
            }
        }
    }
    Ok(())
}

/// Looks at the next keys; where the walk goes on.
async fn step(
    (parts, known): (&Parts, &Known),
    lease: &mut Lease<'_>,
    sink: &mut Option<Sink>,
    walk: Walk,
) -> Result<Option<Walk>> {
    let sink = match sink {
        Some(sink) => sink,
        none => none.insert(lease.while_waiting(parts.sink()).await?),
    };
    let seen = lease.while_waiting(sink.walk(EVERY_KEY, walk)).await;
    let (keys, next) = seen.map_err(told_where_to_look)?;
    let found: Vec<(User, Vec<Bytes>)> = whose(parts, known, keys).into_iter().collect();
    for found in found.chunks(BATCH_USERS) {
        let users: Vec<&User> = found.iter().map(|(user, _)| user).collect();
        let held = held(lease, &parts.tables, &users).await?;
        for (user, keys) in found.iter().filter(|(user, _)| !held.contains(user)) {
            lease.while_waiting(parts.suspect(user.clone(), keys.clone())).await;
        }
        lease.while_waiting(parts.pace.take(users.len() as u64)).await;
    }
    Ok(next)
}

/// The keys of each user who was not found and whom a table that is wanted may hold; those of other programs are nobody's.
fn whose(parts: &Parts, known: &Known, keys: Vec<Bytes>) -> HashMap<User, Vec<Bytes>> {
    let mut found: HashMap<User, Vec<Bytes>> = HashMap::new();
    for key in keys {
        let whose = std::str::from_utf8(&key).ok().and_then(|key| parts.key_map.parse_key(key));
        let Some((user_type, id)) = whose else { continue };
        if known.holds(user_type, id) {
            continue;
        }
        let wanted = |table: &&Table| parts.wants(table) && sweep::may_hold(table, user_type);
        if !parts.tables.iter().any(|table| wanted(&table)) {
            continue;
        }
        if let Some(user) = sweep::user(&parts.tables, user_type, id) {
            // A copy: a key shares the buffer of all that were read with it.
            let keys = found.entry(user).or_default();
            if !keys.contains(&key) {
                keys.push(Bytes::copy_from_slice(&key));
            }
        }
    }
    found
}

/// Which of these users the tables hold.
async fn held(lease: &mut Lease<'_>, tables: &[Table], users: &[&User]) -> Result<HashSet<User>> {
    let mut held = HashSet::new();
    for table in tables {
        let of_table = users.iter().filter(|user| sweep::may_hold(table, &user.user_type));
        let ids: HashSet<&str> = of_table.map(|user| &*user.id).filter(|id| table.can_hold(id)).collect();
        if !ids.is_empty() {
            held.extend(held_by(lease.client().await?, table, &ids).await?);
        }
    }
    Ok(held)
}

async fn held_by(client: &Client, table: &Table, ids: &HashSet<&str>) -> Result<Vec<User>> {
    let id = escape_identifier(&table.id_column);
    let user_type = match &table.spec.user_type {
        UserType::Constant(constant) => escape_literal(constant),
        UserType::Column(column) => escape_identifier(column),
    };
    let ids: Vec<String> = ids.iter().map(|id| escape_literal(id)).collect();
    let statement =
        format!("SELECT {id}, {user_type} FROM {} WHERE {id} IN ({})", table.qualified, ids.join(", "));
    let messages = client.simple_query(&statement).await.map_err(|error| {
        // It may be DDL that passes.
        Error::Transient(query_error("looking users up", &error).fault().clone())
    })?;
    let user = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(User {
            id: row.get(0)?.into(),
            user_type: row.get(1)?.into(),
            numeric_id: table.has_numeric_id(),
        }),
        _ => None,
    };
    Ok(messages.iter().filter_map(user).collect())
}
