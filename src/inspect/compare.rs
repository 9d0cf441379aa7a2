//! What Redis holds, field by field against what a row would be written as. No IO.

use bytes::Bytes;

use super::decimal;
use super::report::{FieldState, KeyKind, KeyState, State};
use super::who::Row;
use crate::balance::{Amount, Value};
use crate::keyplan::{KeyPlan, Step, Timed};
use crate::sink::{Held, Question, Seen, Wanted, Written};

/// The keys of a row that are compared, each with what is asked of it.
pub(super) struct Sheet<'r> {
    row: &'r Row,
    question: Question<'r>,
}

/// How far what is in a key can be told from what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// The stream has not passed what was read, or is past it already.
    Apart,
    /// The row was written there last, so that whatever differs is somebody else's.
    Latest,
    /// An older row was.
    Behind(Written),
    /// Nothing of ours, as far as Redis remembers.
    Unknown,
}

impl<'r> Sheet<'r> {
    pub(super) fn new(row: &'r Row, timed: &'r Timed) -> Sheet<'r> {
        Sheet { row, question: Question::new(&row.plan, timed) }
    }

    /// What has to be known of Redis.
    pub(super) fn wanted(&self) -> Vec<(Bytes, Wanted)> {
        let wanted = self.question.asked().iter().filter_map(|(step, fields)| {
            let wanted = match step {
                Step::Hash { .. } => {
                    Wanted::Fields(fields.iter().map(|field| Bytes::copy_from_slice(field)).collect())
                }
                Step::Set { .. } => Wanted::Text,
                _ => Wanted::Presence,
            };
            Some((step.key()?.clone(), wanted))
        });
        wanted.collect()
    }

    /// The state of every key. `passed`: the stream has passed what was read.
    pub(super) fn judge(&self, seen: &[Seen], passed: bool) -> Vec<KeyState> {
        let asked = self.question.asked().iter().zip(seen);
        asked.map(|((step, fields), seen)| self.key(step, fields, seen, passed)).collect()
    }

    fn key(&self, step: &Step, fields: &[&[u8]], seen: &Seen, passed: bool) -> KeyState {
        let standing = self.standing(seen, passed);
        let (kind, fields) = match step {
            Step::Hash { set, if_exists, .. } => {
                let wanted =
                    |name: &[u8]| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
                let held = |at: usize| match &seen.held {
                    Held::Fields(held) => held.get(at).cloned().flatten(),
                    _ => None,
                };
                let spared = *if_exists && seen.held == Held::Absent;
                let compared = fields.iter().enumerate().filter(|(_, name)| !self.is_time(name));
                let field = |(at, name): (usize, &&[u8])| {
                    self.field(Some(name), wanted(name).filter(|_| !spared), held(at), (seen, &standing))
                };
                (KeyKind::Hash, compared.map(field).collect())
            }
            Step::Set { value, ttl, .. } => {
                let held = match &seen.held {
                    Held::Text(held) => Some(held.clone()),
                    _ => None,
                };
                let mut field = self.field(None, Some(value), held, (seen, &standing));
                // One that has expired is absent, whatever is on its way.
                if seen.held == Held::Absent && ttl.is_some() {
                    field.state = State::Absent;
                }
                (KeyKind::String, vec![field])
            }
            _ => (KeyKind::Absent, vec![self.field(None, None, present(&seen.held), (seen, &standing))]),
        };
        KeyState::new(step.key().map_or(&[], |key| &**key), kind, seen, fields)
    }

    fn field(
        &self,
        name: Option<&[u8]>,
        wanted: Option<&[u8]>,
        held: Option<Bytes>,
        (seen, standing): (&Seen, &Standing),
    ) -> FieldState {
        let number = |text: &[u8]| Amount::parse(std::str::from_utf8(text).ok()?).ok();
        let numbers = match (wanted, &held) {
            (Some(wanted), Some(held)) if self.is_numeric(name, wanted) => number(wanted).zip(number(held)),
            _ => None,
        };
        let same = match &numbers {
            Some((wanted, held)) => wanted == held,
            None => wanted == held.as_deref() && seen.held != Held::OtherType,
        };
        let state = match standing {
            _ if same => State::Equal,
            Standing::Apart => State::InFlight,
            _ if seen.held == Held::Absent => State::Absent,
            Standing::Behind(written) if !self.is_others(name, held.as_deref(), written) => State::Stale,
            _ => State::Foreign,
        };
        let told = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        let difference = numbers.filter(|_| !same).map(|(wanted, held)| decimal::difference(&held, &wanted));
        let since = match standing {
            Standing::Behind(written) if state == State::Stale => {
                Some(written.position.commit_lsn.to_string())
            }
            _ => None,
        };
        FieldState {
            field: name.map(told),
            state,
            database: wanted.map(told),
            redis: held.as_deref().map(told),
            difference: difference.map(|amount| amount.as_str().to_owned()),
            since,
        }
    }

    fn standing(&self, seen: &Seen, passed: bool) -> Standing {
        let rows = &self.row.rows;
        let Some(written) = seen.fence.clone() else {
            return if passed && seen.is_steady { Standing::Unknown } else { Standing::Apart };
        };
        let is_later = written.xid.is_some_and(|xid| !rows.snapshot.sees(xid))
            || written.position.commit_lsn > rows.read_before;
        match () {
            () if !passed || !seen.is_steady || is_later => Standing::Apart,
            () if !written.is_gone && written.balance == self.balance() => Standing::Latest,
            () => Standing::Behind(written),
        }
    }

    /// The balance as a fence remembers it: it alone, of all that was written, so that it stands for the row.
    fn balance(&self) -> Option<Bytes> {
        self.row.plan.watched.first().cloned().flatten()
    }

    /// Whether a balance is one that we have not written last.
    fn is_others(&self, name: Option<&[u8]>, held: Option<&[u8]>, written: &Written) -> bool {
        self.is_balance(name) && held != written.balance.as_deref()
    }

    fn is_balance(&self, name: Option<&[u8]>) -> bool {
        name.is_none_or(|name| name == b"balance" || name == self.row.event.balance_column.as_bytes())
    }

    /// Whether two texts of a field are compared as numbers: by its column's type, where it is a column; else by what
    /// is written there, which is never so for the id.
    fn is_numeric(&self, name: Option<&[u8]>, wanted: &[u8]) -> bool {
        if let Some(value) = name.and_then(|name| self.column(name)) {
            return matches!(value, Value::Number(_));
        }
        let text = std::str::from_utf8(wanted).unwrap_or_default();
        name != Some(b"id") && Amount::parse(text).is_ok_and(|amount| amount.as_str() == text)
    }

    fn column(&self, name: &[u8]) -> Option<&Value> {
        let fields = &self.row.event.fields;
        fields.iter().find(|field| field.name.as_bytes() == name).map(|field| &field.value)
    }

    fn is_time(&self, name: &[u8]) -> bool {
        self.row.times.iter().any(|time| time.as_bytes() == name)
    }
}

/// What stands for a key that is not to be there.
fn present(held: &Held) -> Option<Bytes> {
    (*held != Held::Absent).then(|| Bytes::from_static(b"(a key)"))
}

/// Keys of a plan that are there, of those that are not to be.
pub(super) fn left_keys(plan: &KeyPlan) -> Vec<(Bytes, Wanted)> {
    plan.steps.iter().filter_map(|step| Some((step.key()?.clone(), Wanted::Presence))).collect()
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
