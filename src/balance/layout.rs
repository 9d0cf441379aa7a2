//! What the columns of one relation mean, compiled once for each description of it.

use std::fmt;
use std::sync::Arc;

use super::event::Refusal;
use super::user::{is_sound_id, is_sound_type};
use super::value::{Class, is_integer};
use super::{Doubt, Field, User, Value};
use crate::config::tables::{SECTION_2_COLUMNS, TRANSACTION_COLUMNS};
use crate::config::{TableKind, TableSpec, UserType};
use crate::pgoutput::{Datum, OldTuple, Relation, Tuple};

/// Numeric balance columns: the applications have always read their NULL as `0` (CONTRACT section 3).
pub(super) const NULL_IS_ZERO: [&str; 3] = ["wallet_balance", "margin", "net_profit"];

/// User types that one table keeps interned; more are allocated anew for each row.
const INTERNED_TYPES: usize = 64;

/// Bytes of values of one row that are followed; beyond it the user is in doubt. Redis cuts off a subscriber whose
/// buffer stays over 8 MiB or reaches 32 MiB, and both channels get the event.
const MAX_ROW_BYTES: usize = 4 << 20;

/// A mapped column that the relation does not have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MappingGap {
    /// Schema and name of the table.
    pub table: Arc<str>,
    /// The column.
    pub column: Arc<str>,
    /// Whether no row of the table can be followed without it.
    pub essential: bool,
}

impl fmt::Display for MappingGap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.table, self.column)
    }
}

/// A relation that is a followed table.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) relation: Arc<Relation>,
    /// Schema and name.
    pub(super) table: Arc<str>,
    pub(super) rows: Rows,
    pub(super) gaps: Vec<MappingGap>,
    columns: Vec<Slot>,
    constant_type: Option<Arc<str>>,
    numeric_id: bool,
    mapped: usize,
    types: Vec<Arc<str>>,
}

/// What the rows are.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    Users {
        balance_column: Arc<str>,
    },
    Transactions {
        /// Place of the status.
        status: usize,
        /// Whether an old row is sent wherever the status changed: the replica identity covers it.
        tells_status: bool,
    },
}

/// What one column is for.
#[derive(Debug, Clone)]
enum Slot {
    Id,
    Type,
    Field(Arc<str>, Class),
    Skip,
}

/// The values of one row.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) user: User,
    pub(super) fields: Vec<Field>,
    /// The first column whose value never reaches a key.
    pub(super) doubt: Option<Doubt>,
}

impl Layout {
    /// Compiles a relation; `former` is the same table as it was described before.
    pub(super) fn new(spec: &TableSpec, relation: &Arc<Relation>, former: Option<&Layout>) -> Layout {
        let table: Arc<str> = format!("{}.{}", relation.schema, relation.name).into();
        let (id_column, named) = match &spec.kind {
            TableKind::Users { id_column, balance_column } => (id_column, balance_column.as_str()),
            TableKind::Transactions { user_id_column } => (user_id_column, "status"),
        };
        let (constant_type, type_column) = match &spec.user_type {
            UserType::Constant(user_type) => (Some(Arc::from(user_type.as_str())), None),
            UserType::Column(column) => (None, Some(column.as_str())),
        };
        let wanted = Wanted { spec, named, id_column, type_column };
        let columns: Vec<Slot> = relation.columns.iter().map(|c| wanted.slot(&c.name, c.type_oid)).collect();
        let position = |name: &str| relation.columns.iter().position(|c| &*c.name == name);
        let rows = match &spec.kind {
            TableKind::Users { balance_column, .. } => {
                Rows::Users { balance_column: balance_column.as_str().into() }
            }
            TableKind::Transactions { .. } => {
                let at = position("status");
                let column = at.and_then(|at| relation.columns.get(at));
                let tells_status = column.is_some_and(|column| column.is_key);
                Rows::Transactions { status: at.unwrap_or(0), tells_status }
            }
        };
        let id_at = position(id_column).and_then(|at| relation.columns.get(at));
        Layout {
            gaps: wanted.gaps(&table, relation, former),
            mapped: columns.iter().filter(|slot| matches!(slot, Slot::Field(..))).count(),
            numeric_id: id_at.is_some_and(|column| is_integer(column.type_oid)),
            relation: Arc::clone(relation),
            table,
            rows,
            columns,
            constant_type,
            types: Vec::new(),
        }
    }

    /// The column without which no row can be followed, where one is missing.
    pub(super) fn missing(&self) -> Option<Refusal> {
        let gap = self.gaps.iter().find(|gap| gap.essential)?;
        Some(Refusal::Missing { column: Arc::clone(&gap.column) })
    }

    /// Whether ids are JSON numbers.
    pub(super) fn numeric_id(&self) -> bool {
        self.numeric_id
    }

    /// The user type of every row, where no column tells it.
    pub(super) fn constant_type(&self) -> Option<Arc<str>> {
        self.constant_type.clone()
    }

    /// One value, read as text.
    pub(super) fn datum<'t>(&self, tuple: &'t Tuple, at: usize) -> Datum<'t> {
        tuple.columns().nth(at).unwrap_or(Datum::Null)
    }

    /// Reads a whole row.
    pub(super) fn read(&mut self, tuple: &Tuple) -> Result<Read, Refusal> {
        let (mut id, mut user_type, mut doubt) = (Datum::Null, Datum::Null, None);
        let mut fields = Vec::with_capacity(self.mapped);
        let mut bytes: usize = 0;
        for (slot, datum) in self.columns.iter().zip(tuple.columns()) {
            match slot {
                Slot::Skip => {}
                Slot::Id => id = datum,
                Slot::Type => user_type = datum,
                Slot::Field(name, class) => {
                    let (table, column) = (&self.table, name);
                    if let Datum::Text(text) = datum {
                        bytes = bytes.saturating_add(text.len());
                    }
                    let mut in_doubt = |why: fn(Arc<str>, Arc<str>) -> Doubt| {
                        doubt.get_or_insert_with(|| why(Arc::clone(table), Arc::clone(column)));
                        Value::Unchanged
                    };
                    let value = match class.read(datum) {
                        _ if bytes > MAX_ROW_BYTES => {
                            in_doubt(|table, column| Doubt::Oversized { table, column })
                        }
                        Ok(value) => value,
                        Err(_) => in_doubt(|table, column| Doubt::Undecodable { table, column }),
                    };
                    fields.push(Field { name: Arc::clone(name), value });
                }
            }
        }
        Ok(Read { user: self.user(id, user_type)?, fields, doubt })
    }

    /// The user of an old row; parts that the identity does not cover are those of `new`.
    pub(super) fn old_user(&mut self, old: &OldTuple, new: Option<&User>) -> Result<User, Refusal> {
        let whole = matches!(old, OldTuple::Full(_));
        let (mut id, mut user_type) = (None, None);
        let described = self.columns.iter().zip(&self.relation.columns);
        for ((slot, column), datum) in described.zip(old.tuple().columns()) {
            match slot {
                Slot::Id if whole || column.is_key => id = Some(datum),
                Slot::Type if whole || column.is_key => user_type = Some(datum),
                _ => {}
            }
        }
        match (id, user_type, new) {
            (Some(id), Some(user_type), _) => self.user(id, user_type),
            (Some(id), None, _) if self.constant_type.is_some() => self.user(id, Datum::Null),
            (Some(id), None, Some(new)) => self.user(id, Datum::Text(new.user_type.as_bytes())),
            (None, Some(user_type), Some(new)) => self.user(Datum::Text(new.id.as_bytes()), user_type),
            (None, None, Some(new)) => Ok(new.clone()),
            _ => Err(Refusal::Unidentified),
        }
    }

    /// The user of these two values.
    fn user(&mut self, id: Datum<'_>, user_type: Datum<'_>) -> Result<User, Refusal> {
        let text = |datum| match datum {
            Datum::Text(bytes) => std::str::from_utf8(bytes).ok(),
            Datum::Null | Datum::Unchanged => None,
        };
        let user_type = match &self.constant_type {
            Some(constant) => Arc::clone(constant),
            None => self.intern(text(user_type).ok_or(Refusal::UserType)?)?,
        };
        let id = text(id).filter(|id| is_sound_id(id)).ok_or(Refusal::UserId)?;
        Ok(User { user_type, id: id.into(), numeric_id: self.numeric_id })
    }

    fn intern(&mut self, user_type: &str) -> Result<Arc<str>, Refusal> {
        if let Some(known) = self.types.iter().find(|known| &***known == user_type) {
            return Ok(Arc::clone(known));
        }
        if !is_sound_type(user_type) {
            return Err(Refusal::UserType);
        }
        let interned: Arc<str> = user_type.into();
        if self.types.len() < INTERNED_TYPES {
            self.types.push(Arc::clone(&interned));
        }
        Ok(interned)
    }
}

/// What a table's configuration asks of a relation.
struct Wanted<'a> {
    spec: &'a TableSpec,
    /// The column that is followed whatever `columns` says: the balance, or the status.
    named: &'a str,
    id_column: &'a str,
    type_column: Option<&'a str>,
}

impl Wanted<'_> {
    fn slot(&self, name: &Arc<str>, type_oid: u32) -> Slot {
        let is_users = matches!(self.spec.kind, TableKind::Users { .. });
        if **name == *self.id_column {
            return Slot::Id;
        }
        if self.type_column == Some(name) {
            return Slot::Type;
        }
        let listed = |list: &[&str]| list.contains(&&**name);
        let wanted = match &self.spec.columns {
            _ if **name == *self.named => true,
            // They always hold the user's own id and type, wherever those come from.
            _ if is_users && listed(&["id", "user_type"]) => false,
            _ if !is_users => listed(&TRANSACTION_COLUMNS),
            Some(columns) => columns.iter().any(|column| **column == **name),
            None => listed(&SECTION_2_COLUMNS),
        };
        let class = match Class::of_type(type_oid) {
            _ if is_users && (**name == *self.named || listed(&NULL_IS_ZERO)) => Class::Balance,
            class => class,
        };
        if wanted { Slot::Field(Arc::clone(name), class) } else { Slot::Skip }
    }

    /// What is asked for and not there; what was there before and is no more.
    fn gaps(&self, table: &Arc<str>, relation: &Relation, former: Option<&Layout>) -> Vec<MappingGap> {
        let gone = |name: &str| !relation.columns.iter().any(|column| &*column.name == name);
        let essential = [Some(self.id_column), self.type_column, Some(self.named)];
        let essential = essential.into_iter().flatten().map(|name| (name, true));
        let configured = self.spec.columns.iter().flatten().map(|name| (name.as_str(), false));
        let mapped = former.iter().flat_map(|layout| &layout.columns).filter_map(|slot| match slot {
            Slot::Field(name, _) => Some((&**name, false)),
            _ => None,
        });
        let known = former.iter().flat_map(|layout| &layout.gaps).map(|gap| (&*gap.column, false));
        let mut gaps: Vec<MappingGap> = Vec::new();
        for (column, essential) in essential.chain(configured).chain(mapped).chain(known) {
            if gone(column) && !gaps.iter().any(|gap| &*gap.column == column) {
                gaps.push(MappingGap { table: Arc::clone(table), column: column.into(), essential });
            }
        }
        gaps
    }
}
