//! Preconditions of the server and the role.

use super::{Item, Verdict, standby_names};
use crate::catalog::Catalog;
use crate::config::Config;

/// Oldest supported version.
const OLDEST: i32 = 140_000;

pub(super) fn judge(catalog: &Catalog, config: &Config) -> Vec<Item> {
    let server = &catalog.server;
    let mut items = vec![match server.version_num >= OLDEST {
        true => Item::pass("server", format!("PostgreSQL {}", server.version)),
        false => Item::new(
            Verdict::Obstacle,
            "server",
            format!("PostgreSQL {} is older than 14", server.version),
            "upgrade the server to 14 or later",
        ),
    }];
    if server.in_recovery {
        items.push(Item::new(
            Verdict::Obstacle,
            "server",
            "the server is a standby (in recovery)",
            "connect to the primary: name it in postgres.url",
        ));
    }
    items.push(match server.wal_level.as_str() {
        "logical" => Item::pass("wal_level", "wal_level is logical"),
        other => Item::new(
            Verdict::Obstacle,
            "wal_level",
            format!("wal_level is {other}"),
            "run ALTER SYSTEM SET wal_level = 'logical' and restart PostgreSQL",
        ),
    });
    items.extend(room(catalog));
    items.push(match server.may_replicate {
        true => Item::pass("role", format!("role {:?} may replicate", server.role)),
        false => Item::new(
            Verdict::Obstacle,
            "role",
            format!("role {0:?} may not replicate", server.role),
            format!(
                "run ALTER ROLE {0:?} REPLICATION as superuser (on RDS: GRANT rds_replication TO {0:?})",
                server.role
            ),
        ),
    });
    items.push(slot_wal_keep(server.slot_wal_keep_mb));
    items.push(synchronous_standby(&server.synchronous_standby_names, &config.postgres.application_name));
    items
}

/// Free slots and walsenders, unless Lockstep holds its own already.
fn room(catalog: &Catalog) -> [Item; 2] {
    let ((slots, used_slots), (senders, used_senders)) = (catalog.server.slots, catalog.server.senders);
    let new_slots = i64::from(catalog.slot.is_none());
    // The stream, and the connection that tells of a shutdown.
    let new_senders = if catalog.slot.as_ref().is_some_and(|slot| slot.holder.is_some()) { 0 } else { 2 };
    let judge = |name: &str, what: &str, limit: i32, used: i64, needed: i64, verdict: Verdict| {
        let fact = format!("{used} of {limit} {what} are in use");
        match used.saturating_add(needed) <= i64::from(limit) {
            true => Item::pass(name, fact),
            false => Item::new(
                verdict,
                name,
                format!("{fact}, and {needed} more must be free"),
                format!("run ALTER SYSTEM SET {name} = {} and restart PostgreSQL", limit.saturating_add(5)),
            ),
        }
    };
    [
        judge("max_replication_slots", "replication slots", slots, used_slots, new_slots, Verdict::Obstacle),
        // Others may leave: run waits for it.
        judge("max_wal_senders", "walsenders", senders, used_senders, new_senders, Verdict::Failure),
    ]
}

fn slot_wal_keep(megabytes: i64) -> Item {
    const NAME: &str = "max_slot_wal_keep_size";
    match megabytes {
        -1 => Item::new(
            Verdict::Failure,
            NAME,
            "max_slot_wal_keep_size is -1: while Lockstep is stopped, WAL is kept until the disk is full",
            "run ALTER SYSTEM SET max_slot_wal_keep_size = '20GB' (what the disk can spare), then SELECT pg_reload_conf()",
        ),
        _ => Item::pass(NAME, format!("WAL kept for a slot is limited to {megabytes} MB")),
    }
}

fn synchronous_standby(setting: &str, application_name: &str) -> Item {
    const NAME: &str = "synchronous_standby_names";
    match standby_names::matching(setting, application_name) {
        None => Item::pass(NAME, "commits do not wait for Lockstep"),
        Some(name) => Item::new(
            Verdict::Obstacle,
            NAME,
            format!(
                "synchronous_standby_names = '{setting}' makes commits wait for Lockstep (its application_name \
                 {application_name:?} matches {name:?})"
            ),
            "name the real standbys there, without a match of that name, then SELECT pg_reload_conf()",
        ),
    }
}
