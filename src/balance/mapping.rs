//! Which relations are followed: the way in of this room.

use std::sync::Arc;

use super::event::{Event, Kind, Output, Refusal, Refused, Truncated};
use super::join::{Draft, Window};
use super::layout::{Layout, MappingGap, Rows};
use crate::config::{Shard, TableSpec, UserType};
use crate::lsn::Position;
use crate::pgoutput::{Datum, OldTuple, Relation, Tuple};
use crate::txn::{Change, CommitInfo, Row, Transaction};

/// The status in which a transaction row counts.
const COMPLETED: &[u8] = b"completed";

/// The followed tables, and what is known of their relations. One stream or one loader owns one.
#[derive(Debug, Clone)]
pub struct Mapping {
    specs: Arc<[TableSpec]>,
    /// One entry a relation that was seen; a table that was made anew takes its predecessor's place.
    relations: Vec<Seen>,
    /// Constant user types of the users tables.
    constant_types: Arc<[Arc<str>]>,
    /// Whether all are constant: rows of `user_transactions` of another type touch nothing then.
    all_constant: bool,
    window: Window,
}

#[derive(Debug, Clone)]
struct Seen {
    relation: Arc<Relation>,
    /// `None`: not a followed table.
    layout: Option<Box<Layout>>,
}

impl Mapping {
    /// A mapping that has seen no relation yet.
    pub fn new(specs: &[TableSpec]) -> Mapping {
        let users = || specs.iter().filter(|spec| spec.is_users());
        let constant = |spec: &TableSpec| match &spec.user_type {
            UserType::Constant(user_type) => Some(Arc::from(user_type.as_str())),
            UserType::Column(_) => None,
        };
        Mapping {
            specs: specs.into(),
            relations: Vec::new(),
            constant_types: users().filter_map(constant).collect(),
            all_constant: users().all(|spec| constant(spec).is_some()),
            window: Window::of(Shard::of(specs)),
        }
    }

    /// The events of a transaction window, in the order of their positions; then the rows it refused.
    pub fn events(&mut self, transaction: &Transaction) -> Vec<Output> {
        let mut window = std::mem::take(&mut self.window);
        let constant_types = Arc::clone(&self.constant_types);
        let types = self.all_constant.then_some(&*constant_types);
        let (mut out, mut refused) = (Vec::with_capacity(transaction.rows.len()), Vec::new());
        for row in &transaction.rows {
            let Some(layout) = self.layout(&row.relation) else { continue };
            let position = Position { commit_lsn: transaction.commit.commit_lsn, ordinal: row.ordinal };
            if matches!(row.change, Change::Truncate) {
                if matches!(layout.rows, Rows::Users { .. }) {
                    let truncated = Truncated {
                        user_type: layout.constant_type(),
                        of_other_tables: Arc::clone(&constant_types),
                        numeric_id: layout.numeric_id(),
                        commit: Arc::clone(&transaction.commit),
                        position,
                    };
                    window.flush(&transaction.commit, |of| numeric_ids(&self.relations, of), &mut out);
                    out.push(Output::Truncated(truncated));
                }
                continue;
            }
            let taken = match (layout.missing(), &layout.rows) {
                (Some(missing), _) => Err(missing),
                (None, Rows::Users { .. }) => users_row(layout, row, &mut window),
                (None, Rows::Transactions { .. }) => transactions_row(layout, row, types, &mut window),
            };
            if let Err(reason) = taken {
                let (table, commit) = (Arc::clone(&layout.table), Arc::clone(&transaction.commit));
                refused.push(Output::Refused(Refused { table, reason, commit, position }));
            }
        }
        window.flush(&transaction.commit, |of| numeric_ids(&self.relations, of), &mut out);
        out.append(&mut refused);
        self.window = window;
        out
    }

    /// The event of a row that was read by SQL: `kind` is `Loaded` or `Reread`, `commit` tells the position
    /// that the row is written at. Times of such an event come from the row's `updated_at`,
    /// where it has none its timestamp is that of `commit`.
    ///
    /// # Errors
    /// The row touches no key; or the relation is not a followed table of users.
    pub fn row_event(
        &mut self,
        relation: &Arc<Relation>,
        tuple: &Tuple,
        kind: Kind,
        commit: &Arc<CommitInfo>,
    ) -> Result<Event, Refusal> {
        let layout = self.layout(relation).ok_or(Refusal::Unidentified)?;
        let Rows::Users { balance_column } = &layout.rows else { return Err(Refusal::Unidentified) };
        let balance_column = Arc::clone(balance_column);
        layout.missing().map_or(Ok(()), Err)?;
        let read = layout.read(tuple)?;
        Ok(Event {
            user: read.user,
            kind,
            commit: Arc::clone(commit),
            position: Position { commit_lsn: commit.commit_lsn, ordinal: 0 },
            fields: read.fields,
            balance_column,
            changed: None,
            completed: Vec::new(),
            doubt: read.doubt,
        })
    }

    /// Schema and name of the table that has the users of this type.
    pub fn users_table(&self, user_type: &str) -> Option<String> {
        let users = || self.specs.iter().filter(|spec| spec.is_users());
        let constant =
            |spec: &&TableSpec| matches!(&spec.user_type, UserType::Constant(of) if of == user_type);
        let any = |spec: &&TableSpec| matches!(spec.user_type, UserType::Column(_));
        users().find(constant).or_else(|| users().find(any)).map(ToString::to_string)
    }

    /// Mapped columns that the relations seen so far do not have.
    pub fn gaps(&self) -> Vec<MappingGap> {
        let layouts = self.relations.iter().filter_map(|seen| seen.layout.as_deref());
        let mut gaps: Vec<_> = layouts.flat_map(|layout| layout.gaps.iter().cloned()).collect();
        gaps.sort();
        gaps
    }

    /// What a relation's columns mean, compiled when it is new or has changed.
    fn layout(&mut self, relation: &Arc<Relation>) -> Option<&mut Layout> {
        let same = |seen: &Seen| {
            let named = || seen.relation.schema == relation.schema && seen.relation.name == relation.name;
            seen.relation.oid == relation.oid || named()
        };
        let at = match self.relations.iter().position(|seen| Arc::ptr_eq(&seen.relation, relation)) {
            Some(at) => at,
            None => {
                let at = self.relations.iter().position(same);
                let former = at.and_then(|at| self.relations.get(at)).and_then(|seen| seen.layout.as_deref());
                let spec =
                    self.specs.iter().find(|s| *s.schema == *relation.schema && *s.name == *relation.name);
                let layout = spec.map(|spec| Box::new(Layout::new(spec, relation, former)));
                let seen = Seen { relation: Arc::clone(relation), layout };
                match at.and_then(|at| Some((at, self.relations.get_mut(at)?))) {
                    Some((at, place)) => {
                        *place = seen;
                        at
                    }
                    None => {
                        self.relations.push(seen);
                        self.relations.len() - 1
                    }
                }
            }
        };
        self.relations.get_mut(at)?.layout.as_deref_mut()
    }
}

/// Whether the ids of a user type are numbers in its users table; `None` where that was not described yet.
fn numeric_ids(relations: &[Seen], user_type: &str) -> Option<bool> {
    let layouts = relations.iter().filter_map(|seen| seen.layout.as_deref());
    let users = layouts.filter(|layout| matches!(layout.rows, Rows::Users { .. }));
    let mut of_any_type = None;
    for layout in users {
        match layout.constant_type() {
            Some(constant) if *constant == *user_type => return Some(layout.numeric_id()),
            Some(_) => {}
            None => of_any_type = Some(layout.numeric_id()),
        }
    }
    of_any_type
}

/// What a row of a users table does to its users.
fn users_row(layout: &mut Layout, row: &Row, window: &mut Window) -> Result<(), Refusal> {
    let ordinal = row.ordinal;
    let Rows::Users { balance_column } = &layout.rows else { return Ok(()) };
    let balance_column = Arc::clone(balance_column);
    match &row.change {
        Change::Insert(new) => {
            let read = layout.read(new)?;
            window.touch(&read.user.clone(), ordinal, |draft| draft.create(read, balance_column));
        }
        Change::Update { old: None, new } => {
            let read = layout.read(new)?;
            window.touch(&read.user.clone(), ordinal, |draft| draft.update(read, balance_column, None));
        }
        Change::Update { old: Some(old), new } => {
            let read = layout.read(new);
            let former = layout.old_user(old, read.as_ref().ok().map(|read| &read.user));
            let moved = match (&former, &read) {
                (Ok(former), Ok(read)) => *former != read.user,
                // From a name that had keys to one that cannot have any, or the other way.
                _ => true,
            };
            if let (Ok(former), true) = (&former, moved) {
                window.touch(former, ordinal, Draft::delete);
            }
            let (mut read, before) = (read?, old_row(layout, old));
            if let Some(before) = &before {
                read.fill_unsent(before);
            }
            window.touch(&read.user.clone(), ordinal, |draft| match moved {
                true => draft.create(read, balance_column),
                false => draft.update(read, balance_column, before),
            });
        }
        Change::Delete(old) => {
            let former = layout.old_user(old, None)?;
            window.touch(&former, ordinal, Draft::delete);
        }
        Change::Truncate => {}
    }
    Ok(())
}

/// The values of the old row, where the identity is FULL.
fn old_row(layout: &mut Layout, old: &OldTuple) -> Option<Vec<super::Field>> {
    match old {
        OldTuple::Full(tuple) => layout.read(tuple).ok().map(|read| read.fields),
        OldTuple::Key(_) => None,
    }
}

/// A row of `user_transactions`: counts when it is completed, and was not before. Where an old row would have told
/// of another status and none was sent, the status is what it was.
fn transactions_row(
    layout: &mut Layout,
    row: &Row,
    types: Option<&[Arc<str>]>,
    window: &mut Window,
) -> Result<(), Refusal> {
    let Rows::Transactions { status, tells_status } = layout.rows else { return Ok(()) };
    let completed = |tuple: &Tuple| layout.datum(tuple, status) == Datum::Text(COMPLETED);
    let new = match &row.change {
        Change::Insert(new) => new,
        Change::Update { old: Some(OldTuple::Full(old)), .. } if completed(old) => return Ok(()),
        Change::Update { old: Some(OldTuple::Key(old)), .. } if tells_status && completed(old) => {
            return Ok(());
        }
        Change::Update { old: None, .. } if tells_status => return Ok(()),
        Change::Update { new, .. } => new,
        Change::Delete(_) | Change::Truncate => return Ok(()),
    };
    if !completed(new) {
        return Ok(());
    }
    let read = layout.read(new)?;
    if types.is_none_or(|types| types.contains(&read.user.user_type)) {
        window.complete(read, row.ordinal);
    }
    Ok(())
}
