//! TRUNCATE of a table of users: the stream names the table only, so its users are found in Redis.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::patience::patiently;
use super::quarantine::MAX_ENTRIES;
use crate::balance::{Event, Kind, Truncated, User};
use crate::error::Result;
use crate::keyplan::{KeyMap, KeyPlan};
use crate::sink::{Fencing, Flight, Outcome, Sink, Walk};

/// What became of the users of a table.
#[derive(Debug, Default)]
pub struct Tally {
    /// Deleted, and told.
    pub published: u64,
    /// Stopped by a fence.
    pub skipped: u64,
    /// Deleted, and not told as it should have been.
    pub refused: u64,
    /// Keys of another type than the key map says.
    pub retyped_keys: u64,
    /// Who was refused, and why; at most as many as the quarantine keeps.
    pub refused_users: Vec<(User, String)>,
    /// The table, once all of it is done.
    pub emptied: Option<Truncated>,
}

impl Tally {
    fn add(&mut self, plan: &KeyPlan, outcome: Outcome) {
        match outcome {
            Outcome::Skipped => self.skipped += 1,
            Outcome::Applied(applied) => {
                self.published += u64::from(plan.event_type(applied.as_update).is_some());
                self.retyped_keys += u64::from(applied.retyped_keys);
            }
            Outcome::Refused { reason } => {
                self.refused += 1;
                if self.refused_users.len() < MAX_ENTRIES {
                    self.refused_users.push((plan.user.clone(), reason));
                }
            }
        }
    }
}

/// Deletes every key of the table's users, in bounded batches, as if each had been deleted by the transaction.
pub async fn truncate(sink: &mut Sink, truncated: &Truncated, key_map: &KeyMap) -> Result<Tally> {
    let mut tally = Tally::default();
    for template in key_map.templates() {
        let glob = template.glob_for(truncated.user_type.as_deref());
        let mut place = Some(Walk::default());
        while let Some(walk) = place.take() {
            let (keys, next) =
                patiently(sink, async |sink| sink.walk(glob.as_bytes(), walk.clone()).await).await?;
            place = next;
            let users: BTreeSet<User> =
                keys.iter().filter_map(|key| user_of(key, truncated, key_map)).collect();
            let plans = users.into_iter().map(|user| key_map.plan(&deleted(user, truncated))).collect();
            let flight = Flight { plans, fencing: Fencing::Stream, checkpoint: None };
            let outcomes = sink.apply(&flight).await?;
            flight.plans.iter().zip(outcomes).for_each(|(plan, outcome)| tally.add(plan, outcome));
        }
    }
    tally.emptied = Some(truncated.clone());
    Ok(tally)
}

/// Whose key it is, where that is a user of the table.
fn user_of(key: &[u8], truncated: &Truncated, key_map: &KeyMap) -> Option<User> {
    let key = std::str::from_utf8(key).ok()?;
    let (user_type, id) = key_map.parse_key(key)?;
    truncated.may_concern(user_type).then(|| User {
        user_type: user_type.into(),
        id: id.into(),
        numeric_id: truncated.numeric_id,
    })
}

fn deleted(user: User, truncated: &Truncated) -> Event {
    Event {
        user,
        kind: Kind::Deleted,
        commit: Arc::clone(&truncated.commit),
        position: truncated.position,
        fields: Vec::new(),
        balance_column: "".into(),
        changed: None,
        completed: Vec::new(),
        doubt: None,
    }
}
