//! `[[keys]]`: the key map as configured. Templates are checked where they are compiled, in `keyplan`.

use std::time::Duration;

use toml::{Table, Value};

use super::{duration, section::suggestion};
use crate::error::Fault;

/// The key map of CONTRACT section 3, in the language itself: what holds without `[[keys]]`.
pub const BUILT_IN: &str = include_str!("../keyplan/default.toml");

/// Longest time to live: what Redis takes in milliseconds is far more, a typing mistake is far less.
const LONGEST_TTL: Duration = Duration::from_secs(10 * 366 * 86_400);

/// The steps of every event, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyMapSpec {
    /// The steps.
    pub steps: Vec<StepSpec>,
}

/// One entry of `[[keys]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct StepSpec {
    /// What is done.
    pub action: ActionSpec,
    /// `on`: for which events; `None`: every event that this action can serve.
    pub on: Option<Vec<On>>,
    /// `when_changed`: only if one of these columns changed.
    pub when_changed: Vec<String>,
    /// `when`: only if all of these hold.
    pub when: Vec<(String, Test)>,
}

/// What a step does; texts are templates.
#[derive(Debug, Clone, PartialEq)]
pub enum ActionSpec {
    /// `hash`
    Hash {
        /// The key.
        key: String,
        /// `columns`: fields that have their column's name.
        columns: Columns,
        /// `fields`: name and template.
        fields: Vec<(String, String)>,
        /// `defaults`: what a field holds where its value is NULL, instead of being removed.
        defaults: Vec<(String, String)>,
        /// `if_exists`
        if_exists: bool,
    },
    /// `string`
    String {
        /// The key.
        key: String,
        /// `value`
        value: String,
        /// `ttl`
        ttl: Option<Duration>,
    },
    /// `delete`
    Delete {
        /// The keys.
        keys: Vec<String>,
    },
    /// `delete_pattern`
    DeletePattern {
        /// The key with one `*`.
        key: String,
    },
    /// `publish`
    Publish {
        /// The channel.
        channel: String,
        /// `payload`; `None`: the event of CONTRACT section 4.
        payload: Option<Value>,
    },
}

/// `columns`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Columns {
    /// `"all"`: every mapped column of the row.
    All,
    /// These; mostly none.
    Named(Vec<String>),
}

/// A word of `on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// A new user.
    UserCreated,
    /// The balance changed, or a completed transaction row came along.
    BalanceChange,
    /// Something else changed.
    UserUpdate,
    /// The user is gone. Keys are deleted without being told; only a publish can ask for it.
    UserDeleted,
    /// Read by the first load; never published.
    Loaded,
    /// Read again by resync, repair, healing or force-refresh.
    Reread,
}

/// One condition of `when`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// A text, or one of a list.
    Is(Vec<String>),
    /// `true`: has a value; `false`: is NULL or not there.
    Present(bool),
}

impl On {
    const WORDS: [(&'static str, On); 6] = [
        ("user_created", On::UserCreated),
        ("balance_change", On::BalanceChange),
        ("user_update", On::UserUpdate),
        ("user_deleted", On::UserDeleted),
        ("loaded", On::Loaded),
        ("reread", On::Reread),
    ];

    fn from_word(word: &str) -> Option<On> {
        On::WORDS.iter().find(|(known, _)| *known == word).map(|(_, on)| *on)
    }
}

impl KeyMapSpec {
    /// The key map of a text that has `[[keys]]`, [`BUILT_IN`] for example.
    pub fn from_toml(text: &str) -> Result<KeyMapSpec, Vec<Fault>> {
        let mut mistakes = Vec::new();
        let spec = match text.parse::<Table>() {
            Ok(table) => table.get("keys").map(|keys| parse(keys, &mut mistakes)),
            Err(error) => {
                mistakes
                    .push(fault(format!("the key map is no TOML: {}", error.message()), "mend its syntax"));
                None
            }
        };
        match spec {
            Some(spec) if mistakes.is_empty() => Ok(spec),
            Some(_) => Err(mistakes),
            None if mistakes.is_empty() => Err(vec![fault("the key map has no [[keys]]", "add one")]),
            None => Err(mistakes),
        }
    }
}

/// Reads the value of `keys`, an array of tables; every mistake is added to `mistakes`.
pub fn parse(keys: &Value, mistakes: &mut Vec<Fault>) -> KeyMapSpec {
    let Some(entries) = keys.as_array().filter(|entries| entries.iter().all(Value::is_table)) else {
        mistakes.push(fault("keys is not an array of tables", "write each step under its own [[keys]]"));
        return KeyMapSpec { steps: Vec::new() };
    };
    let steps = entries.iter().filter_map(Value::as_table).enumerate();
    let steps =
        steps.filter_map(|(index, entry)| Entry::new(index, entry.clone(), mistakes).step()).collect();
    KeyMapSpec { steps }
}

fn fault(fact: impl Into<String>, cure: impl Into<String>) -> Fault {
    Fault { fact: fact.into(), cure: cure.into() }
}

/// One table of `[[keys]]`, taken apart; what is left in the end was not understood.
struct Entry<'a> {
    number: usize,
    table: Table,
    asked: Vec<&'static str>,
    mistakes: &'a mut Vec<Fault>,
}

impl<'a> Entry<'a> {
    fn new(index: usize, table: Table, mistakes: &'a mut Vec<Fault>) -> Entry<'a> {
        Entry { number: index + 1, table, asked: Vec::new(), mistakes }
    }

    fn mistake(&mut self, fact: impl std::fmt::Display, cure: impl Into<String>) {
        self.mistakes.push(fault(format!("[[keys]] entry {} {fact}", self.number), cure));
    }

    fn has(&mut self, name: &'static str) -> bool {
        if !self.asked.contains(&name) {
            self.asked.push(name);
        }
        self.table.contains_key(name)
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.has(name).then(|| self.table.remove(name)).flatten()
    }

    fn step(mut self) -> Option<StepSpec> {
        let known = ["hash", "string", "delete", "delete_pattern", "publish"];
        let named: Vec<_> = known.into_iter().filter(|word| self.table.contains_key(*word)).collect();
        let action = match named.as_slice() {
            ["hash"] => self.hash(),
            ["string"] => self.string(),
            ["delete"] => self.texts("delete").map(|keys| ActionSpec::Delete { keys }),
            ["delete_pattern"] => self.text("delete_pattern").map(|key| ActionSpec::DeletePattern { key }),
            ["publish"] => self.publish(),
            other => {
                let fact = if other.is_empty() {
                    "has no action".to_owned()
                } else {
                    format!("has {}", other.join(" and "))
                };
                self.mistake(fact, format!("give it exactly one of {}", known.join(", ")));
                return None;
            }
        };
        let on = self.on();
        let when_changed = if self.has("when_changed") { self.texts("when_changed") } else { None };
        let when = self.when();
        let unknown: Vec<_> = self.table.keys().cloned().collect();
        for key in unknown {
            self.mistake(format!("has the unknown key {key:?}"), suggestion(&key, &self.asked));
        }
        Some(StepSpec { action: action?, on, when_changed: when_changed.unwrap_or_default(), when })
    }

    fn hash(&mut self) -> Option<ActionSpec> {
        let key = self.text("hash");
        let columns = match self.take("columns") {
            None => Columns::Named(Vec::new()),
            Some(Value::String(word)) if word == "all" => Columns::All,
            Some(value) => Columns::Named(text_list(&value).unwrap_or_else(|| {
                self.mistake(
                    "has columns that are neither \"all\" nor names",
                    "write columns = [\"leverage\"]",
                );
                Vec::new()
            })),
        };
        let (fields, defaults) = (self.text_table("fields"), self.text_table("defaults"));
        if fields.is_empty() && columns == Columns::Named(Vec::new()) {
            self.mistake("is a hash without fields", "add columns or fields");
        }
        let if_exists = match self.take("if_exists") {
            None => false,
            Some(Value::Boolean(word)) => word,
            Some(_) => {
                self.mistake("has an if_exists that is not a boolean", "write true or false");
                false
            }
        };
        Some(ActionSpec::Hash { key: key?, columns, fields, defaults, if_exists })
    }

    fn string(&mut self) -> Option<ActionSpec> {
        let key = self.text("string");
        let value = self.text("value");
        let ttl = self.take("ttl").and_then(|ttl| {
            let parsed = ttl.as_str().and_then(time_to_live);
            if parsed.is_none() {
                self.mistake(
                    "has a ttl that is not a time",
                    "write it as \"3600s\", \"60m\", \"1h\" or \"1d\"",
                );
            }
            parsed
        });
        Some(ActionSpec::String { key: key?, value: value?, ttl })
    }

    fn publish(&mut self) -> Option<ActionSpec> {
        let channel = self.text("publish");
        let payload = match self.take("payload") {
            None => None,
            Some(Value::String(word)) if word == "event" => None,
            Some(value @ Value::Table(_)) => Some(value),
            Some(_) => {
                self.mistake(
                    "has a payload that is neither \"event\" nor a table",
                    "write payload = { user = \"$id\" }",
                );
                None
            }
        };
        Some(ActionSpec::Publish { channel: channel?, payload })
    }

    fn on(&mut self) -> Option<Vec<On>> {
        if !self.has("on") {
            return None;
        }
        let words = self.texts("on")?;
        let mut events = Vec::new();
        for word in words {
            match On::from_word(&word) {
                Some(on) => events.push(on),
                None => {
                    let known = On::WORDS.map(|(known, _)| known).join(", ");
                    self.mistake(format!("waits on {word:?}"), format!("use {known}"));
                }
            }
        }
        Some(events)
    }

    fn when(&mut self) -> Vec<(String, Test)> {
        let table = match self.take("when") {
            None => return Vec::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.mistake(
                    "has a when that is not a table",
                    "write when = { \"transaction.type\" = \"deposit\" }",
                );
                return Vec::new();
            }
        };
        let mut tests = Vec::new();
        for (name, value) in table {
            match (&value, text_list(&value)) {
                (Value::Boolean(present), _) => tests.push((name, Test::Present(*present))),
                (_, Some(texts)) => tests.push((name, Test::Is(texts))),
                _ => self.mistake(
                    format!("compares {name} with something that is not text"),
                    "compare with a text, a list of texts, or true and false for NOT NULL and NULL",
                ),
            }
        }
        tests
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        match self.take(name) {
            Some(Value::String(text)) => Some(text),
            Some(_) => {
                self.mistake(format!("has a {name} that is not text"), "put it into quotation marks");
                None
            }
            None => {
                self.mistake(format!("has no {name}"), "add it");
                None
            }
        }
    }

    fn texts(&mut self, name: &'static str) -> Option<Vec<String>> {
        let list = self.take(name).and_then(|value| text_list(&value)).filter(|list| !list.is_empty());
        if list.is_none() {
            self.mistake(
                format!("has a {name} that is not a list of texts"),
                format!("write {name} = [\"...\"]"),
            );
        }
        list
    }

    fn text_table(&mut self, name: &'static str) -> Vec<(String, String)> {
        let table = match self.take(name) {
            None => return Vec::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.mistake(
                    format!("has {name} that are not a table"),
                    format!("write {name} = {{ name = \"value\" }}"),
                );
                return Vec::new();
            }
        };
        let mut pairs = Vec::new();
        for (field, value) in table {
            match value {
                Value::String(text) => pairs.push((field, text)),
                _ => self.mistake(
                    format!("sets {field} to something that is not text"),
                    "put it into quotation marks",
                ),
            }
        }
        pairs
    }
}

/// A text or a list of texts.
fn text_list(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// A time that a key may live.
fn time_to_live(text: &str) -> Option<Duration> {
    duration::parse(text).filter(|ttl| !ttl.is_zero() && *ttl <= LONGEST_TTL)
}

#[cfg(test)]
mod tests;
