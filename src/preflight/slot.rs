//! Preconditions of the replication slot.

use super::{Item, Verdict};
use crate::catalog::{Catalog, Slot};
use crate::config::Config;

pub(super) fn judge(catalog: &Catalog, config: &Config) -> Vec<Item> {
    let name = &config.postgres.slot;
    let topic = format!("slot {name}");
    let obstacle = |fact: String, cure: &str| vec![Item::new(Verdict::Obstacle, &topic, fact, cure)];
    let Some(slot) = &catalog.slot else {
        let cure = "run \"lockstep init\", which creates it";
        return obstacle(format!("slot {name:?} does not exist"), cure);
    };
    if let Some(fact) = foreign(slot, name, &catalog.server.database) {
        return obstacle(fact, "choose another name under postgres.slot, then run \"lockstep init\"");
    }
    if let Some(reason) = slot.lost_because() {
        let cure =
            "run \"lockstep drop\", \"lockstep init\" and \"lockstep run\", which loads all users again";
        return obstacle(format!("slot {name:?} is invalidated ({reason})"), cure);
    }
    if slot.wal_status.as_deref() == Some("unreserved") {
        let fact =
            format!("slot {name:?} is about to lose WAL that it needs ({} bytes)", slot.retained_bytes);
        let cure = "start Lockstep now, or raise max_slot_wal_keep_size";
        return vec![Item::new(Verdict::Warning, topic, fact, cure)];
    }
    if let Some(item) = lost_by_a_promotion(slot, &topic, name) {
        return vec![item];
    }
    let state = match &slot.holder {
        Some(holder) => format!("streams to pid {} ({})", holder.pid, holder.who),
        None => "is free".to_owned(),
    };
    let kept = if slot.failover == Some(true) { ", kept on standbys that synchronise slots" } else { "" };
    vec![Item::pass(topic, format!("slot {name:?} {state}, {} bytes behind{kept}", slot.lag_bytes))]
}

/// A slot that standbys could keep (17+) and do not.
fn lost_by_a_promotion(slot: &Slot, topic: &str, name: &str) -> Option<Item> {
    let cure = format!(
        "stop Lockstep and send ALTER_REPLICATION_SLOT {name} (FAILOVER true) with psql \"replication=database ...\"; \
         set sync_replication_slots = on on the standby"
    );
    let fact = format!("slot {name:?} is no failover slot: a standby that is promoted does not have it");
    (slot.failover == Some(false)).then(|| Item::new(Verdict::Warning, topic, fact, cure))
}

/// Why the slot cannot be ours.
pub fn foreign(slot: &Slot, name: &str, database: &str) -> Option<String> {
    match (slot.plugin.as_deref(), slot.database.as_deref()) {
        (None, _) => Some(format!("slot {name:?} is a {} slot", slot.kind)),
        (Some(plugin), _) if plugin != "pgoutput" => {
            Some(format!("slot {name:?} uses the plugin {plugin:?}, not pgoutput"))
        }
        (_, other) if other != Some(database) => {
            Some(format!("slot {name:?} belongs to the database {:?}, not {database:?}", other.unwrap_or("")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_slot_that_could_outlive_a_promotion_and_does_not_is_warned_of() {
        let slot = |failover| Slot {
            kind: "logical".into(),
            plugin: Some("pgoutput".into()),
            database: Some("app".into()),
            holder: None,
            wal_status: Some("reserved".into()),
            invalidation: None,
            failover,
            restart_lsn: None,
            confirmed_flush: None,
            retained_bytes: 0,
            lag_bytes: 0,
        };
        let warned = |failover| lost_by_a_promotion(&slot(failover), "slot", "s").map(|item| item.verdict);
        assert_eq!([warned(None), warned(Some(true))], [None, None]);
        assert_eq!(warned(Some(false)), Some(Verdict::Warning));
    }
}
