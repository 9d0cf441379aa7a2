//! Events that wait for the next flight, in commit order.

use std::collections::VecDeque;

use super::lane::Cargo;
use crate::balance::Truncated;
use crate::keyplan::KeyPlan;
use crate::pgoutput::PgTime;

/// What the stream brought and no flight has taken yet, oldest first.
#[derive(Debug, Default)]
pub struct Queue {
    items: VecDeque<Item>,
    events: usize,
}

#[derive(Debug)]
enum Item {
    Event(Box<KeyPlan>, PgTime),
    Truncate(Truncated),
    /// The record of what was asked.
    Asked(String),
    /// Everything before belongs to windows up to this one.
    EndOfWindow(u64),
}

/// What leaves for Redis next.
#[derive(Debug)]
pub struct Departure {
    /// What leaves.
    pub cargo: Cargo,
    /// The last window that is wholly in Redis once this is acknowledged.
    pub completes: Option<u64>,
}

impl Queue {
    /// Adds what a user's event does, and when it committed.
    pub fn push_event(&mut self, plan: KeyPlan, committed: PgTime) {
        self.events += 1;
        self.items.push_back(Item::Event(Box::new(plan), committed));
    }

    /// Adds a truncate.
    pub fn push_truncate(&mut self, truncated: Truncated) {
        self.events += 1;
        self.items.push_back(Item::Truncate(truncated));
    }

    /// Adds the record of what was asked, as it is from here on.
    pub fn push_asked(&mut self, record: String) {
        self.items.push_back(Item::Asked(record));
    }

    /// Ends a window. Windows that brought nothing leave one item, however many they are.
    pub fn end_window(&mut self, sequence: u64) {
        match self.items.back_mut() {
            Some(Item::EndOfWindow(last)) => *last = sequence,
            _ => self.items.push_back(Item::EndOfWindow(sequence)),
        }
    }

    /// Events and truncates that wait.
    pub fn events(&self) -> usize {
        self.events
    }

    /// When the oldest waiting event committed.
    pub fn oldest_commit(&self) -> Option<PgTime> {
        self.items.iter().find_map(|item| match item {
            Item::Event(_, committed) => Some(*committed),
            Item::Truncate(truncated) => Some(truncated.commit.time),
            Item::Asked(_) | Item::EndOfWindow(_) => None,
        })
    }

    /// The next departure of at most `limit` plans; `None` when nothing waits.
    pub fn depart(&mut self, limit: usize) -> Option<Departure> {
        if let Some(Item::Truncate(_) | Item::Asked(_)) = self.items.front() {
            return self.depart_alone();
        }
        let mut plans = Vec::with_capacity(self.events.min(limit));
        let mut committed = Vec::with_capacity(plans.capacity());
        let mut completes = None;
        while let Some(item) = self.items.pop_front() {
            match item {
                Item::Event(plan, at) if plans.len() < limit => {
                    self.events -= 1;
                    committed.push(at);
                    plans.push(*plan);
                }
                Item::EndOfWindow(sequence) => completes = Some(sequence),
                later => {
                    self.items.push_front(later);
                    break;
                }
            }
        }
        let departs = !plans.is_empty() || completes.is_some();
        departs.then_some(Departure { cargo: Cargo::Events { plans, committed }, completes })
    }

    fn depart_alone(&mut self) -> Option<Departure> {
        let cargo = match self.items.pop_front()? {
            Item::Truncate(truncated) => {
                self.events -= 1;
                Cargo::Truncate(truncated)
            }
            Item::Asked(record) => Cargo::Asked(record),
            Item::Event(..) | Item::EndOfWindow(_) => return None,
        };
        let completes = match self.items.front() {
            Some(Item::EndOfWindow(sequence)) => Some(*sequence),
            _ => None,
        };
        if completes.is_some() {
            self.items.pop_front();
        }
        Some(Departure { cargo, completes })
    }
}
