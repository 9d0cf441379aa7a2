//! A user whose keys may not hold what the database says, and what is known of that.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::balance::User;
use crate::sink::{Announced, Expectation};

/// Users who are looked at while one flight is out and are remembered.
const MAX_LOOKED_AT: usize = 8_192;

/// Why somebody is a suspect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cause {
    /// A key was announced.
    pub announced: bool,
    /// The audit found a difference.
    pub audited: bool,
    /// We wrote.
    pub ours: bool,
    /// The stream changed the user while not everything was announced: derived keys may be older than that.
    pub unwatched: bool,
}

impl Cause {
    const NONE: Cause = Cause { announced: false, audited: false, ours: false, unwatched: false };
    pub(super) const ANNOUNCED: Cause = Cause { announced: true, ..Cause::NONE };
    pub(super) const AUDITED: Cause = Cause { audited: true, ..Cause::NONE };
    pub(super) const OURS: Cause = Cause { ours: true, ..Cause::NONE };
    pub(super) const UNWATCHED: Cause = Cause { ours: true, unwatched: true, ..Cause::NONE };

    pub(super) fn join(&mut self, other: Cause) {
        self.announced |= other.announced;
        self.audited |= other.audited;
        self.ours |= other.ours;
        self.unwatched |= other.unwatched;
    }
}

/// A suspect whose time has come.
#[derive(Debug, Clone)]
pub struct Suspect {
    /// Who.
    pub user: User,
    /// Why.
    pub cause: Cause,
    /// What was written last, where that is all there is to know.
    pub written: Option<Arc<Expectation>>,
    /// What may not be as it was written.
    pub announced: Announced,
    /// The one key that was announced, where that goes by itself: when it is absent, nothing is wrong.
    pub only: Option<Bytes>,
    /// When they were written last.
    pub(super) last: Instant,
    pub(super) postponed: u8,
}

impl Suspect {
    /// Whether we wrote, and what cannot be told.
    pub fn is_ours(&self) -> bool {
        self.cause.ours && self.written.is_none()
    }
}

/// A suspect whose time has not come.
pub(super) struct Why {
    pub(super) cause: Cause,
    pub(super) last: Instant,
    pub(super) announced: Announced,
    pub(super) only: Option<Bytes>,
    pub(super) postponed: u8,
}

/// What is known of a suspect's keys.
#[derive(Clone, Copy)]
pub(super) enum Seen<'k> {
    /// Whatever was touched was announced.
    Announced,
    /// This one was announced, and stays until it is deleted.
    Lasting(&'k Bytes),
    /// This one was, and goes by itself.
    Expiring(&'k Bytes),
    /// Nothing.
    Nothing,
}

impl Seen<'_> {
    pub(super) fn note(self, announced: &mut Announced) {
        match self {
            Seen::Announced => {}
            Seen::Lasting(key) | Seen::Expiring(key) => announced.note(key),
            Seen::Nothing => *announced = Announced::Unknown,
        }
    }

    pub(super) fn expiring(self) -> Option<Bytes> {
        match self {
            // A copy: a key shares the buffer of all that were announced with it.
            Seen::Expiring(key) => Some(Bytes::copy_from_slice(key)),
            _ => None,
        }
    }
}

/// Whether what was announced of a user since a moment is still known. Who was looked at since is compared with what was
/// written before: what was announced until then is gone with the look.
#[derive(Default)]
pub(super) struct Sight {
    /// Whether all that was announced was taken in.
    is_whole: bool,
    /// Who was looked at.
    looked_at: HashSet<User>,
}

impl Sight {
    /// From now on.
    pub(super) fn begin() -> Sight {
        Sight { is_whole: true, looked_at: HashSet::new() }
    }

    /// Something was not taken in.
    pub(super) fn blink(&mut self) {
        *self = Sight::default();
    }

    /// A user is looked at.
    pub(super) fn forget(&mut self, user: &User) {
        if self.looked_at.len() >= MAX_LOOKED_AT {
            self.blink();
        }
        if self.is_whole {
            self.looked_at.insert(user.clone());
        }
    }

    /// Whether all that was announced of a user is known.
    pub(super) fn has_seen(&self, user: &User) -> bool {
        self.is_whole && !self.looked_at.contains(user)
    }
}
