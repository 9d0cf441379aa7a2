//! TRUNCATE of a table of users: the stream names the table only, so its users are found in Redis.

use std::collections::HashSet;
use std::sync::Arc;

use super::patience::patiently;
use crate::balance::{Event, Kind, Truncated, User};
use crate::error::Result;
use crate::keyplan::KeyMap;
use crate::sink::{Fencing, Flight, Sink, Walk};

/// Deletes every key of the table's users, in bounded batches, as if each had been deleted by the transaction.
pub async fn truncate(sink: &mut Sink, truncated: &Truncated, key_map: &KeyMap) -> Result<()> {
    for template in key_map.templates() {
        let glob = template.glob_for(truncated.user_type.as_deref());
        let mut place = Some(Walk::default());
        while let Some(walk) = place.take() {
            let (keys, next) = patiently(async || sink.walk(glob.as_bytes(), walk.clone()).await).await?;
            place = next;
            let users: HashSet<User> =
                keys.iter().filter_map(|key| user_of(key, truncated, key_map)).collect();
            let plans = users.into_iter().map(|user| key_map.plan(&deleted(user, truncated))).collect();
            sink.apply(&Flight { plans, fencing: Fencing::Stream, checkpoint: None }).await?;
        }
    }
    Ok(())
}

/// Whose key it is, by the first template that it fits.
fn user_of(key: &[u8], truncated: &Truncated, key_map: &KeyMap) -> Option<User> {
    let key = std::str::from_utf8(key).ok()?;
    let (user_type, id) = key_map.templates().iter().find_map(|template| template.parse_key(key))?;
    let wanted = truncated.user_type.as_deref().is_none_or(|wanted| wanted == user_type);
    wanted.then(|| User { user_type: user_type.into(), id: id.into(), numeric_id: truncated.numeric_id })
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
