//! What is answered: CONTRACT section 5, and field by field what differs.

use std::collections::HashSet;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::balance::{Amount, Event, User, Value};
use crate::keyplan::{Guard, KeyPlan, Step};
use crate::sink::{Held, Seen, Written};

/// One user, both sides.
#[derive(Debug, Clone, Serialize)]
pub struct Consistency {
    pub(super) user_id: String,
    pub(super) user_type: String,
    /// Whether nothing differs; what is only absent is no difference where it may expire.
    pub is_consistent: bool,
    pub(super) database: Account,
    pub(super) redis_config: Option<UserCache>,
    pub(super) redis_balance_cache: Option<BalanceCache>,
    pub(super) consistency_check: Check,
    /// Whether both sides could not be compared within the patience: what differs may be on its way.
    pub in_flight: bool,
    pub(super) differences: Vec<Difference>,
    pub(super) keys: Vec<KeyState>,
    pub(super) fence: Option<Fence>,
    /// Everything before it had to be in Redis.
    pub(super) database_lsn: String,
}

/// The columns that the platform's operators look at.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Account {
    pub(super) wallet_balance: Shown,
    leverage: Shown,
    margin: Shown,
    account_number: Shown,
    group: Shown,
    status: Shown,
    is_active: Shown,
}

/// The same, of the hash.
#[derive(Debug, Clone, Serialize)]
pub(super) struct UserCache {
    #[serde(flatten)]
    pub(super) account: Account,
    last_updated: Shown,
}

/// The string that expires.
#[derive(Debug, Clone, Serialize)]
pub(super) struct BalanceCache {
    pub(super) wallet_balance: Shown,
    /// In seconds.
    ttl: Option<i64>,
}

/// In short.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    pub(super) balance_matches: bool,
    pub(super) cache_matches: bool,
    pub(super) all_consistent: bool,
}

/// What was written last, as the fence tells it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Fence {
    lsn: String,
    epoch: u32,
    xid: Option<u64>,
    deleted: bool,
}

/// What a field or a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As the database has it.
    Equal,
    /// The key is not there.
    Absent,
    /// An older value, which was right once.
    Stale,
    /// What was never written for this row.
    Foreign,
    /// The stream has not come to what was read, or is past it.
    InFlight,
}

/// What a key is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum KeyKind {
    Hash,
    String,
    /// Not there.
    Absent,
}

/// A key that was compared.
#[derive(Debug, Clone, Serialize)]
pub(super) struct KeyState {
    key: String,
    kind: KeyKind,
    exists: bool,
    ttl: Option<i64>,
    /// The worst of its fields.
    pub(super) state: State,
    pub(super) fields: Vec<FieldState>,
}

/// A field, or the value of a string.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FieldState {
    /// `null`: the string itself.
    pub(super) field: Option<String>,
    pub(super) state: State,
    /// As it would be written.
    pub(super) database: Option<String>,
    pub(super) redis: Option<String>,
    /// Of numbers what Redis holds more than the database, exactly.
    pub(super) difference: Option<String>,
    /// What was written last, where it was an older row.
    pub(super) since: Option<String>,
}

/// A field that is not equal, with its key.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Difference {
    key: String,
    #[serde(flatten)]
    field: FieldState,
}

/// What a refresh wrote.
#[derive(Debug, Clone, Serialize)]
pub struct Refreshed {
    user_id: Shown,
    user_type: String,
    refreshed_fields: Vec<String>,
    removed_fields: Vec<String>,
    keys: Vec<String>,
}

/// A value as JSON: a number where a double carries it exactly (CONTRACT section 4), text, or `null`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shown {
    Nothing,
    Number(Amount),
    Text(String),
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Shown::Nothing => serializer.serialize_none(),
            Shown::Text(text) => serializer.serialize_str(text),
            Shown::Number(amount) if amount.fits_double() => {
                let digits = RawValue::from_string(amount.as_str().to_owned());
                digits.map_err(serde::ser::Error::custom)?.serialize(serializer)
            }
            Shown::Number(amount) => serializer.serialize_str(amount.as_str()),
        }
    }
}

impl Shown {
    fn of(value: Option<&Value>) -> Shown {
        match value {
            None | Some(Value::Null | Value::Unchanged) => Shown::Nothing,
            Some(Value::Number(amount)) => Shown::Number(amount.clone()),
            Some(Value::Text(text)) => Shown::Text(text.to_string()),
        }
    }

    /// What Redis holds, a number where the database has one.
    fn like(held: Option<&[u8]>, example: &Shown) -> Shown {
        let Some(held) = held else { return Shown::Nothing };
        let text = String::from_utf8_lossy(held).into_owned();
        match (example, Amount::parse(&text)) {
            (Shown::Number(_) | Shown::Nothing, Ok(amount)) => Shown::Number(amount),
            _ => Shown::Text(text),
        }
    }
}

impl Account {
    /// The columns besides the balance, in the order of the fields.
    const COLUMNS: [&str; 6] = ["leverage", "margin", "account_number", "group", "status", "is_active"];

    pub(super) fn of(event: &Event) -> Account {
        let column = |name: &str| {
            Shown::of(event.fields.iter().find(|field| *field.name == *name).map(|field| &field.value))
        };
        let [leverage, margin, account_number, group, status, is_active] = Account::COLUMNS.map(column);
        let wallet_balance = column(&event.balance_column);
        Account { wallet_balance, leverage, margin, account_number, group, status, is_active }
    }
}

impl UserCache {
    /// The fields that it takes.
    pub(super) fn fields() -> impl Iterator<Item = &'static str> {
        ["wallet_balance"].into_iter().chain(Account::COLUMNS).chain(["last_updated"])
    }

    /// `None` where the key is not there.
    pub(super) fn of(seen: &Seen, database: &Account) -> Option<UserCache> {
        let held = match &seen.held {
            Held::Absent | Held::Present => return None,
            Held::Fields(held) => held.as_slice(),
            Held::Text(_) | Held::OtherType => &[],
        };
        let mut held = held.iter().map(|value| value.as_deref());
        let mut like = |example: &Shown| Shown::like(held.next().flatten(), example);
        let account = Account {
            wallet_balance: like(&database.wallet_balance),
            leverage: like(&database.leverage),
            margin: like(&database.margin),
            account_number: like(&database.account_number),
            group: like(&database.group),
            status: like(&database.status),
            is_active: like(&database.is_active),
        };
        Some(UserCache { account, last_updated: like(&Shown::Text(String::new())) })
    }
}

impl BalanceCache {
    /// `None` where the key is not there.
    pub(super) fn of(seen: &Seen, database: &Account) -> Option<BalanceCache> {
        let held = match &seen.held {
            Held::Absent => return None,
            Held::Text(held) => Some(&**held),
            _ => None,
        };
        Some(BalanceCache { wallet_balance: Shown::like(held, &database.wallet_balance), ttl: seen.ttl_s })
    }
}

impl Fence {
    pub(super) fn of(written: &Written) -> Fence {
        Fence {
            lsn: written.position.commit_lsn.to_string(),
            epoch: written.epoch,
            xid: written.xid.map(|xid| xid.0),
            deleted: written.is_gone,
        }
    }
}

impl KeyState {
    pub(super) fn new(key: &[u8], kind: KeyKind, seen: &Seen, fields: Vec<FieldState>) -> KeyState {
        let badness = |state: State| match state {
            State::Equal => 0,
            State::Absent => 1,
            State::InFlight => 2,
            State::Stale => 3,
            State::Foreign => 4,
        };
        let worst = fields.iter().map(|field| field.state).max_by_key(|state| badness(*state));
        KeyState {
            key: String::from_utf8_lossy(key).into_owned(),
            kind,
            exists: seen.held != Held::Absent,
            ttl: seen.ttl_s,
            state: worst.unwrap_or(State::Equal),
            fields,
        }
    }

    /// Whether a reader takes it for what the database holds, or asks the database.
    pub(super) fn is_sound(&self) -> bool {
        match self.state {
            State::Equal => true,
            State::Absent => self.kind == KeyKind::String,
            State::Stale | State::Foreign | State::InFlight => false,
        }
    }

    /// What of it is not equal. A key that is not there is one difference, however many fields it lacks.
    pub(super) fn differences(&self) -> Vec<Difference> {
        let difference = |field: FieldState| Difference { key: self.key.clone(), field };
        if !self.exists && self.state != State::Equal {
            let (field, state) = (None, self.state);
            let whole = self.kind == KeyKind::String;
            let database = self.fields.first().filter(|_| whole).and_then(|field| field.database.clone());
            let field = FieldState { field, state, database, redis: None, difference: None, since: None };
            return vec![difference(field)];
        }
        let differs = self.fields.iter().filter(|field| field.state != State::Equal);
        differs.cloned().map(difference).collect()
    }
}

impl Refreshed {
    /// What a plan writes whatever is there.
    pub(super) fn of(user: &User, plan: &KeyPlan) -> Refreshed {
        let id = user.id.to_string();
        let number = Amount::parse(&id).ok().filter(|_| user.id_is_number());
        let (mut fields, mut removed, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for step in plan.steps.iter().filter(|step| *step.guard() == Guard::ALWAYS) {
            match step {
                Step::Hash { key, set, remove, if_exists: false, .. } => {
                    fields.extend(set.iter().map(|(name, _)| name));
                    removed.extend(remove.iter());
                    keys.push(&**key);
                }
                Step::Set { key, .. } => keys.push(&**key),
                _ => {}
            }
        }
        Refreshed {
            user_id: number.map_or(Shown::Text(id), Shown::Number),
            user_type: user.user_type.to_string(),
            refreshed_fields: once_each(&fields),
            removed_fields: once_each(&removed),
            keys: once_each(&keys),
        }
    }
}

/// Names in their order, each once.
fn once_each(names: &[&[u8]]) -> Vec<String> {
    let mut seen = HashSet::new();
    let new = names.iter().filter(|name| seen.insert(**name));
    new.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_json_numbers_where_a_double_carries_them() {
        let shown = |text: &str| serde_json::to_string(&Shown::Number(Amount::parse(text).unwrap())).unwrap();
        assert_eq!(shown("10000.500000"), "10000.5");
        assert_eq!(shown("-0.1"), "-0.1");
        assert_eq!(shown("9007199254740993"), "\"9007199254740993\"");
        assert_eq!(serde_json::to_string(&Shown::Text("a\"b".into())).unwrap(), "\"a\\\"b\"");
        assert_eq!(serde_json::to_string(&Shown::Nothing).unwrap(), "null");
    }

    #[test]
    fn what_redis_holds_is_shown_like_the_database() {
        let number = Shown::Number(Amount::zero());
        assert_eq!(Shown::like(Some(b"100.0"), &number), Shown::Number(Amount::parse("100").unwrap()));
        assert_eq!(Shown::like(Some(b"NaN"), &number), Shown::Text("NaN".into()));
        let text = Shown::Text("0010".into());
        assert_eq!(Shown::like(Some(b"0010"), &text), text);
        assert_eq!(Shown::like(None, &number), Shown::Nothing);
    }
}
