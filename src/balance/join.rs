//! Rows of one user in one window -> one event.

use std::collections::HashMap;
use std::sync::Arc;

use super::layout::Read;
use super::{Completed, Doubt, Event, Field, Kind, Output, User, Value};
use crate::config::Shard;
use crate::lsn::Position;
use crate::txn::CommitInfo;

/// Up to so many users are found by looking at each: most transactions touch one or two.
const SCANNED_USERS: usize = 8;

/// The users of one window; its memory is kept for the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    drafts: Vec<Draft>,
    /// Filled from the ninth user on.
    index: HashMap<User, usize>,
    /// Whose rows count.
    shard: Shard,
}

/// What is known of one user so far.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    user: User,
    ordinal: u32,
    row: LastRow,
    completed: Vec<Completed>,
    /// Of a completed row: no later row makes it good.
    doubt: Option<Doubt>,
}

/// What the users rows have come to.
#[derive(Debug, Clone)]
enum LastRow {
    None,
    Created(State),
    /// With the row before the first change, where it was sent.
    Updated(State, Option<Vec<Field>>),
    Deleted,
}

/// The row as it stands.
#[derive(Debug, Clone)]
struct State {
    fields: Vec<Field>,
    balance_column: Arc<str>,
    doubt: Option<Doubt>,
}

impl Window {
    /// One that takes the rows of this part of the users, and passes over all others.
    pub(super) fn of(shard: Shard) -> Window {
        Window { shard, ..Window::default() }
    }

    /// Applies a row of a users table at `ordinal` to the user's draft.
    pub(super) fn touch(&mut self, user: &User, ordinal: u32, apply: impl FnOnce(&mut Draft)) {
        self.draft(user, ordinal, |draft| {
            draft.user.numeric_id = user.numeric_id;
            apply(draft);
        });
    }

    /// Takes a completed row of `user_transactions` at `ordinal`.
    pub(super) fn complete(&mut self, read: Read, ordinal: u32) {
        self.draft(&read.user.clone(), ordinal, |draft| draft.complete(read));
    }

    fn draft(&mut self, user: &User, ordinal: u32, apply: impl FnOnce(&mut Draft)) {
        if !self.shard.holds(&user.id) {
            return;
        }
        let found = if self.drafts.len() <= SCANNED_USERS {
            self.drafts.iter().position(|draft| draft.user == *user)
        } else {
            if self.index.is_empty() {
                self.index.extend(self.drafts.iter().enumerate().map(|(at, draft)| (draft.user.clone(), at)));
            }
            self.index.get(user).copied()
        };
        let at = found.unwrap_or(self.drafts.len());
        if found.is_none() {
            if self.drafts.len() > SCANNED_USERS {
                self.index.insert(user.clone(), at);
            }
            self.drafts.push(Draft::new(user.clone()));
        }
        if let Some(draft) = self.drafts.get_mut(at) {
            draft.ordinal = ordinal;
            apply(draft);
        }
    }

    /// Makes the events of all users, in the order of their last rows. `numeric_ids` says how the users table of
    /// a type has its ids, where it is known: nothing but a completed row may have come of a user.
    pub(super) fn flush(
        &mut self,
        commit: &Arc<CommitInfo>,
        numeric_ids: impl Fn(&str) -> Option<bool>,
        out: &mut Vec<Output>,
    ) {
        // One row may delete a user and create another at the same ordinal: the deleted comes first.
        self.drafts.sort_by_key(|draft| (draft.ordinal, !matches!(draft.row, LastRow::Deleted)));
        out.extend(self.drafts.drain(..).map(|mut draft| {
            if matches!(draft.row, LastRow::None) {
                let known = numeric_ids(&draft.user.user_type);
                draft.user.numeric_id = known.unwrap_or(draft.user.numeric_id);
            }
            Output::Event(Box::new(draft.event(commit)))
        }));
        self.index.clear();
    }
}

impl Draft {
    fn new(user: User) -> Draft {
        Draft { user, ordinal: 0, row: LastRow::None, completed: Vec::new(), doubt: None }
    }

    /// An insert, or a row that took over this id and type.
    pub(super) fn create(&mut self, read: Read, balance_column: Arc<str>) {
        self.row = LastRow::Created(State::new(read, balance_column));
    }

    /// A changed row; `before` where the old row was sent.
    pub(super) fn update(&mut self, read: Read, balance_column: Arc<str>, before: Option<Vec<Field>>) {
        let mut state = State::new(read, balance_column);
        let row = std::mem::replace(&mut self.row, LastRow::None);
        self.row = match row {
            LastRow::None | LastRow::Deleted => LastRow::Updated(state, before),
            LastRow::Created(earlier) => {
                state.follow(&earlier);
                LastRow::Created(state)
            }
            LastRow::Updated(earlier, before) => {
                state.follow(&earlier);
                LastRow::Updated(state, before)
            }
        };
    }

    /// The row is gone.
    pub(super) fn delete(&mut self) {
        self.row = LastRow::Deleted;
    }

    fn complete(&mut self, read: Read) {
        self.doubt = self.doubt.take().or(read.doubt);
        self.completed.push(Completed { fields: read.fields });
    }

    fn event(self, commit: &Arc<CommitInfo>) -> Event {
        let (kind, state, before) = match self.row {
            LastRow::None => (Kind::Completed, None, None),
            LastRow::Created(state) => (Kind::Created, Some(state), None),
            LastRow::Updated(state, before) => (Kind::Updated, Some(state), before),
            LastRow::Deleted => (Kind::Deleted, None, None),
        };
        let doubt = if kind == Kind::Deleted { None } else { self.doubt };
        let state =
            state.unwrap_or_else(|| State { fields: Vec::new(), balance_column: "".into(), doubt: None });
        let unsent = || match kind {
            Kind::Created => state.fields.iter().find(|field| field.value == Value::Unchanged),
            _ => None,
        };
        let doubt = state
            .doubt
            .clone()
            .or(doubt)
            .or_else(|| unsent().map(|field| Doubt::Unsent { column: Arc::clone(&field.name) }));
        Event {
            user: self.user,
            kind,
            position: Position { commit_lsn: commit.commit_lsn, ordinal: self.ordinal },
            commit: Arc::clone(commit),
            changed: before.map(|before| changed(&before, &state.fields)),
            fields: state.fields,
            balance_column: state.balance_column,
            completed: self.completed,
            doubt,
        }
    }
}

impl State {
    fn new(read: Read, balance_column: Arc<str>) -> State {
        State { fields: read.fields, balance_column, doubt: read.doubt }
    }

    /// Takes from the row before what this one did not send, its doubt included.
    fn follow(&mut self, earlier: &State) {
        fill(&mut self.fields, &earlier.fields);
        if let (None, Some(Doubt::Undecodable { column, .. } | Doubt::Oversized { column, .. })) =
            (&self.doubt, &earlier.doubt)
        {
            let still = |field: &Field| field.name == *column && field.value == Value::Unchanged;
            if self.fields.iter().any(still) {
                self.doubt.clone_from(&earlier.doubt);
            }
        }
    }
}

impl Read {
    /// Takes from the old row what the new one did not send, because it is the same.
    pub(super) fn fill_unsent(&mut self, before: &[Field]) {
        fill(&mut self.fields, before);
    }
}

/// An earlier value stands where the later row did not send the column.
fn fill(fields: &mut [Field], earlier: &[Field]) {
    for field in fields.iter_mut().filter(|field| field.value == Value::Unchanged) {
        if let Some(known) = earlier.iter().find(|known| known.name == field.name) {
            field.value.clone_from(&known.value);
        }
    }
}

/// Names of the columns whose values differ.
fn changed(before: &[Field], after: &[Field]) -> Vec<Arc<str>> {
    let differs = |field: &&Field| {
        let same = |known: &Field| known.name == field.name && known.value == field.value;
        field.value != Value::Unchanged && !before.iter().any(same)
    };
    after.iter().filter(differs).map(|field| Arc::clone(&field.name)).collect()
}
