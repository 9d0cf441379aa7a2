//! Events -> [`KeyPlan`]s: what is to happen to which key, by the declarative key map. No IO.

mod coalesce;
mod json;
mod key;
mod keymap;
mod lookup;
mod payload;
mod plan;
mod template;
#[cfg(test)]
mod tests;
mod texts;

pub use key::{KeyTemplate, escape_glob};
pub use keymap::{KeyMap, MAX_WATCHED};
pub use lookup::{Fate, Timed};
pub use texts::{Pairs, Texts};

use std::time::Duration;

use bytes::Bytes;

use crate::balance::User;
use crate::lsn::{Position, Xid64};

/// Everything one event does to Redis. The sink applies it atomically where the keys share a node.
#[derive(Debug, Clone)]
pub struct KeyPlan {
    /// Whose keys these are.
    pub user: User,
    /// Where the event stands: a fence at or past it stops the whole plan.
    pub position: Position,
    /// Transaction of the user's last `users` row in the event; `None` when only completed rows came.
    pub row_xid: Option<Xid64>,
    /// The transaction; of a row that was read, one past what the snapshot sees.
    pub xid: Xid64,
    /// Whether the user is gone afterwards: the fence becomes a tombstone.
    pub deletes_user: bool,
    /// Whether every key of the user is right afterwards, whatever was there before.
    pub restores: bool,
    /// The watched columns' values in the key map's order; `None` where this event does not know it.
    /// The fence remembers them, so that a later event can tell what changed. The balance is the first.
    pub watched: Vec<Option<Bytes>>,
    /// Whether the user was read from the database again, and not loaded for the first time.
    pub rereads: bool,
    /// Whether it says of every mapped column what the keys hold afterwards; not where a value was not sent, or
    /// only completed rows came.
    pub whole: bool,
    /// Whether the event must be completed from the database afterwards, and why.
    pub doubt: Option<crate::balance::Doubt>,
    /// The event as JSON, published by [`Step::PublishEvent`].
    pub event: EventJson,
    /// The event's type, where the plan alone can tell; `None` where nothing is published or the fence decides.
    pub published_as: Option<&'static str>,
    /// What is to be done, in order; publishes come last.
    pub steps: Vec<Step>,
}

impl KeyPlan {
    /// The type of the published event, once the fence has decided whether it is a `user_update`.
    pub fn event_type(&self, as_update: bool) -> Option<&'static str> {
        match &self.event {
            EventJson::Fixed(_) => self.published_as,
            EventJson::ByBalance { .. } if as_update => Some("user_update"),
            EventJson::ByBalance { .. } => Some("balance_change"),
        }
    }

    /// Where a step keeps the balance (the key, and the field where that is a hash), and what it writes there.
    pub fn balance_of<'s>(&self, step: &'s Step) -> Option<(&'s Bytes, Option<&'static str>, &'s [u8])> {
        match step {
            Step::Hash { key, set, .. } => {
                let (_, balance) = set.iter().find(|(field, _)| *field == BALANCE_FIELD.as_bytes())?;
                Some((key, Some(BALANCE_FIELD), balance))
            }
            // A string may hold something else.
            Step::Set { key, value, .. } => {
                let balance = self.watched.first()?.as_ref()?;
                (balance == value).then_some((key, None, &**value))
            }
            _ => None,
        }
    }
}

/// The event's JSON text, of which one word may only be known beside the fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventJson {
    /// Complete.
    Fixed(Bytes),
    /// `head`, then `balance_change` or `user_update` (whether the balance is the one last written),
    /// then `tail`.
    ByBalance {
        /// Text up to and with the quotation mark before the event type.
        head: Bytes,
        /// Text from the quotation mark after it.
        tail: Bytes,
    },
}

impl EventJson {
    /// Bytes of the text, but for the word that may not be known.
    pub fn len(&self) -> usize {
        match self {
            EventJson::Fixed(json) => json.len(),
            EventJson::ByBalance { head, tail } => head.len() + tail.len(),
        }
    }

    /// Whether nothing is published.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One change of one key, or one publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Sets and removes fields of a hash.
    Hash {
        /// The key.
        key: Bytes,
        /// Field names and values to set; may be empty.
        set: Pairs,
        /// Field names to remove; may be empty.
        remove: Texts,
        /// Only when the key exists.
        if_exists: bool,
        /// When to do it.
        guard: Guard,
    },
    /// Sets a string.
    Set {
        /// The key.
        key: Bytes,
        /// Its value.
        value: Bytes,
        /// Time to live, renewed at every write.
        ttl: Option<Duration>,
        /// When to do it.
        guard: Guard,
    },
    /// Deletes a key of any type.
    Delete {
        /// The key.
        key: Bytes,
        /// Whether other events write this key: then its delete is fenced as their writes are, for a late one
        /// would take away what a newer event wrote.
        written: bool,
        /// When to do it.
        guard: Guard,
    },
    /// Deletes every key of the form prefix, anything, suffix.
    DeletePattern {
        /// The literal text before the `*`, with the user in it.
        prefix: Bytes,
        /// The literal text behind the `*`; usually empty.
        suffix: Bytes,
        /// When to do it.
        guard: Guard,
    },
    /// Publishes [`KeyPlan::event`].
    PublishEvent {
        /// The channel.
        channel: Bytes,
        /// When to do it.
        guard: Guard,
    },
    /// Publishes a payload of the key map's own.
    Publish {
        /// The channel.
        channel: Bytes,
        /// The payload.
        payload: Bytes,
        /// When to do it.
        guard: Guard,
    },
}

/// The field of a hash by which a stored balance is known.
const BALANCE_FIELD: &str = "balance";

impl Step {
    /// When it is done.
    pub fn guard(&self) -> &Guard {
        match self {
            Step::Hash { guard, .. }
            | Step::Set { guard, .. }
            | Step::Delete { guard, .. }
            | Step::DeletePattern { guard, .. }
            | Step::PublishEvent { guard, .. }
            | Step::Publish { guard, .. } => guard,
        }
    }

    /// The one key it changes; `None` where it publishes or deletes whatever matches.
    pub fn key(&self) -> Option<&Bytes> {
        match self {
            Step::Hash { key, .. } | Step::Set { key, .. } | Step::Delete { key, .. } => Some(key),
            Step::DeletePattern { .. } | Step::PublishEvent { .. } | Step::Publish { .. } => None,
        }
    }
}

/// What only the fence can decide: which watched columns differ from what was last written.
/// Bit `n` is column `n` of the key map's. What the planner can decide itself leaves no guard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Guard {
    /// At least one of these columns changed, or nothing is known of what was last written; zero: no condition.
    pub any_changed: u32,
    /// None of these columns changed; zero: no condition. All conditions of a guard must hold.
    pub none_changed: u32,
    /// The stored balance is there and is not the plan's: what was read again is told only where it was
    /// wrong. Stored balances are the fields `balance` of hashes and the strings that hold nothing but the balance.
    pub stored_balance_differs: bool,
}

impl Guard {
    /// No condition.
    pub const ALWAYS: Guard = Guard { any_changed: 0, none_changed: 0, stored_balance_differs: false };
}
