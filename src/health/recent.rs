//! The latest events, for whoever looks: a bounded ring.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::lsn::Lsn;

/// Events that are kept.
pub const KEPT: usize = 50;

/// An event that Redis acknowledged.
#[derive(Debug, Clone)]
pub struct Happened {
    /// Its type, as published.
    pub event_type: &'static str,
    /// When it committed, in microseconds as the server counts them.
    pub committed: i64,
    /// Where.
    pub commit_lsn: Lsn,
    /// The event as it was published: what stands before its type and after it, or all of it.
    pub json: (Bytes, Option<Bytes>),
}

impl Happened {
    /// The event as it was published; it tells of a user.
    pub fn text(&self) -> String {
        let (head, tail) = &self.json;
        let head = String::from_utf8_lossy(head);
        match tail {
            Some(tail) => [&head, self.event_type, &String::from_utf8_lossy(tail)].concat(),
            None => head.into_owned(),
        }
    }
}

/// The ring.
#[derive(Debug, Default)]
pub struct Recent(Mutex<VecDeque<Happened>>);

impl Recent {
    /// Takes in what happened last, oldest first, at most [`KEPT`] of it.
    pub fn note(&self, happened: impl IntoIterator<Item = Happened>) {
        let mut kept = self.kept();
        for event in happened {
            if kept.len() >= KEPT {
                kept.pop_front();
            }
            kept.push_back(event);
        }
    }

    /// The latest first.
    pub fn latest(&self) -> Vec<Happened> {
        self.kept().iter().rev().cloned().collect()
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Happened>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64) -> Happened {
        let json = (Bytes::from_static(b"{\"t\":\""), Some(Bytes::from_static(b"\"}")));
        Happened { event_type: "balance_change", committed: 0, commit_lsn: Lsn(n), json }
    }

    #[test]
    fn the_latest_are_kept_and_come_first() {
        let recent = Recent::default();
        recent.note((1..=40).map(event));
        recent.note((41..=60).map(event));
        let latest: Vec<u64> = recent.latest().iter().map(|event| event.commit_lsn.0).collect();
        assert_eq!(latest, (11..=60).rev().collect::<Vec<u64>>());
    }

    #[test]
    fn an_event_whose_type_the_fence_decided_is_whole() {
        assert_eq!(event(1).text(), "{\"t\":\"balance_change\"}");
        let fixed = Happened { json: (Bytes::from_static(b"{}"), None), ..event(1) };
        assert_eq!(fixed.text(), "{}");
    }
}
