//! The key map, compiled: every template checked, every mistake reported at once.

use std::sync::Arc;
use std::time::Duration;

use super::key::KeyTemplate;
use super::payload::Payload;
use super::template::{Source, Template};
use crate::config::keys::{ActionSpec, Columns, KeyMapSpec, On, StepSpec, Test};
use crate::config::tables::{SECTION_2_COLUMNS, TRANSACTION_COLUMNS};
use crate::config::{Shard, TableKind, TableSpec};
use crate::error::Fault;

/// Columns whose last written values a fence remembers: the bits of a [`Guard`](super::Guard).
pub const MAX_WATCHED: usize = 32;

/// The compiled key map.
#[derive(Debug, Clone)]
pub struct KeyMap {
    pub(super) steps: Vec<Step>,
    /// Every key and pattern of the map, each once.
    pub(super) templates: Vec<KeyTemplate>,
    /// The balance, then the columns of `when_changed`.
    pub(super) watched: Vec<Arc<str>>,
    /// Whose keys they are: those of others count as another program's.
    pub(super) shard: Shard,
}

/// One compiled step.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) action: Action,
    on: u8,
    /// Bits of `watched`; zero: no condition.
    pub(super) when_changed: u32,
    pub(super) when: Vec<(Source, Test)>,
    /// A write that names `$transaction` is done only where a completed row came.
    pub(super) of_transaction: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Action {
    Hash(HashAction),
    String { key: usize, value: Template, ttl: Option<Duration> },
    Delete { keys: Vec<usize> },
    DeletePattern { key: usize },
    Publish { channel: Template, payload: Option<Payload> },
}

#[derive(Debug, Clone)]
pub(super) struct HashAction {
    pub(super) key: usize,
    /// Every mapped column under its own name, but those that `fields` names.
    pub(super) all: bool,
    pub(super) fields: Vec<FieldAction>,
    pub(super) defaults: Vec<(String, String)>,
    pub(super) if_exists: bool,
    /// Whether the published event carries these fields.
    pub(super) in_event: bool,
}

#[derive(Debug, Clone)]
pub(super) struct FieldAction {
    pub(super) name: String,
    pub(super) value: Template,
}

impl HashAction {
    /// What a field holds where its value is NULL.
    pub(super) fn default_of(&self, field: &str) -> Option<&str> {
        self.defaults.iter().find(|(name, _)| name == field).map(|(_, text)| &**text)
    }
}

impl Step {
    pub(super) fn waits_on(&self, on: On) -> bool {
        self.on & bit(on) != 0
    }

    pub(super) fn publishes(&self) -> bool {
        matches!(self.action, Action::Publish { .. })
    }
}

fn bit(on: On) -> u8 {
    1 << (on as u8)
}

impl KeyMap {
    /// Compiles a key map for these tables.
    ///
    /// # Errors
    /// Every mistake, each with its cure.
    pub fn compile(spec: &KeyMapSpec, tables: &[TableSpec]) -> Result<KeyMap, Vec<Fault>> {
        let mut compiler = Compiler::new(tables);
        for (index, step) in spec.steps.iter().enumerate() {
            compiler.number = index + 1;
            compiler.step(step);
        }
        let Compiler { map, mistakes, .. } = compiler;
        if mistakes.is_empty() { Ok(map) } else { Err(mistakes) }
    }

    /// The columns that a fence remembers: the balance (`balance`, whatever its column is called), then
    /// every column of a `when_changed`.
    pub fn watched(&self) -> &[Arc<str>] {
        &self.watched
    }

    /// Every key and pattern of the map.
    pub fn templates(&self) -> &[KeyTemplate] {
        &self.templates
    }

    /// The type and the id of whose key it is, by the first template that it fits; `None` where that is nobody who is
    /// followed.
    pub fn parse_key<'k>(&self, key: &'k str) -> Option<(&'k str, &'k str)> {
        let whose = self.templates.iter().find_map(|template| template.parse_key(key));
        whose.filter(|(_, id)| self.shard.holds(id))
    }

    /// Whether some step writes the key of this template, and does not only delete it.
    pub(super) fn writes(&self, template: usize) -> bool {
        self.steps.iter().any(|step| match &step.action {
            Action::Hash(hash) => hash.key == template,
            Action::String { key, .. } => *key == template,
            Action::Delete { .. } | Action::DeletePattern { .. } | Action::Publish { .. } => false,
        })
    }

    /// The patterns alone: what the index of derived keys follows.
    pub fn patterns(&self) -> impl Iterator<Item = &KeyTemplate> {
        self.templates.iter().filter(|template| template.is_pattern())
    }
}

/// What kind of thing a key is; one key is of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Hash,
    String,
    Delete,
}

struct Compiler {
    number: usize,
    map: KeyMap,
    uses: Vec<(usize, Use)>,
    columns: Vec<String>,
    balance_columns: Vec<String>,
    mistakes: Vec<Fault>,
}

impl Compiler {
    fn new(tables: &[TableSpec]) -> Compiler {
        let (mut columns, mut balance_columns) = (Vec::new(), Vec::new());
        for table in tables {
            let TableKind::Users { balance_column, .. } = &table.kind else { continue };
            columns.push(balance_column.clone());
            balance_columns.push(balance_column.clone());
            match &table.columns {
                Some(named) => columns.extend(named.iter().cloned()),
                None => columns.extend(SECTION_2_COLUMNS.map(str::to_owned)),
            }
        }
        let map = KeyMap {
            steps: Vec::new(),
            templates: Vec::new(),
            watched: vec!["balance".into()],
            shard: Shard::of(tables),
        };
        Compiler { number: 0, map, uses: Vec::new(), columns, balance_columns, mistakes: Vec::new() }
    }

    fn mistake(&mut self, fact: impl std::fmt::Display, cure: &str) {
        let fact = format!("[[keys]] entry {}: {fact}", self.number);
        self.mistakes.push(Fault { fact, cure: cure.to_owned() });
    }

    fn step(&mut self, spec: &StepSpec) {
        let action = self.action(&spec.action);
        let when_changed = spec.when_changed.iter().fold(0, |bits, column| bits | self.watch(column));
        let when: Vec<_> = spec.when.iter().map(|(name, test)| (Source::named(name), test.clone())).collect();
        when.iter().for_each(|(source, _)| self.know(source));
        let on = self.on(spec);
        let Some(action) = action else { return };
        let named = when.iter().map(|(source, _)| source).chain(action.sources());
        let of_transaction = named.into_iter().any(|source| matches!(source, Source::Transaction(_)));
        self.map.steps.push(Step { action, on, when_changed, when, of_transaction });
    }

    fn on(&mut self, spec: &StepSpec) -> u8 {
        let publish = matches!(spec.action, ActionSpec::Publish { .. });
        let Some(words) = &spec.on else {
            let changes = [On::UserCreated, On::BalanceChange, On::UserUpdate];
            let read = [On::Loaded, On::Reread].into_iter().filter(|_| !publish);
            return changes.into_iter().chain(read).fold(0, |bits, on| bits | bit(on));
        };
        if publish && words.iter().any(|on| matches!(on, On::Loaded | On::Reread)) {
            self.mistake(
                "a publish waits on loaded or reread",
                "wait on balance_change: a user that was read again and was wrong is published as one",
            );
        }
        if !publish && words.contains(&On::UserDeleted) {
            self.mistake(
                "a write waits on user_deleted",
                "leave it out: a deleted user's keys are always deleted",
            );
        }
        let only_balance = words.contains(&On::BalanceChange) && !words.contains(&On::UserUpdate);
        if only_balance && !spec.when_changed.is_empty() {
            self.mistake(
                "waits on balance_change alone and has when_changed",
                "add user_update to on; when_changed says which changes count",
            );
        }
        words.iter().fold(0, |bits, on| bits | bit(*on))
    }

    fn action(&mut self, spec: &ActionSpec) -> Option<Action> {
        match spec {
            ActionSpec::Hash { .. } => self.hash(spec),
            ActionSpec::String { key, value, ttl } => {
                let key = self.key(key, Use::String);
                let value = self.template(value);
                Some(Action::String { key: key?, value: value?, ttl: *ttl })
            }
            ActionSpec::Delete { keys } => {
                let keys: Vec<_> = keys.iter().map(|key| self.key(key, Use::Delete)).collect();
                keys.into_iter().collect::<Option<_>>().map(|keys| Action::Delete { keys })
            }
            ActionSpec::DeletePattern { key } => {
                let template = self.key_template(key, true)?;
                Some(Action::DeletePattern { key: self.place(template) })
            }
            ActionSpec::Publish { channel, payload } => {
                let channel = self.template(channel);
                let payload = match payload.as_ref().map(Payload::compile) {
                    None => None,
                    Some(Ok(payload)) => {
                        payload.sources().into_iter().for_each(|source| self.know(source));
                        Some(payload)
                    }
                    Some(Err(fact)) => {
                        self.mistake(fact, "write texts, numbers, booleans, lists and tables");
                        None
                    }
                };
                Some(Action::Publish { channel: channel?, payload })
            }
        }
    }

    fn hash(&mut self, spec: &ActionSpec) -> Option<Action> {
        let ActionSpec::Hash { key, columns, fields, defaults, if_exists } = spec else { return None };
        let key = self.key(key, Use::Hash);
        let mut compiled = Vec::new();
        for (name, text) in fields {
            if let Some(value) = self.template(text) {
                compiled.push(FieldAction::new(name, value));
            }
        }
        if let Columns::Named(names) = columns {
            for name in names {
                let source = Source::named(name);
                self.know(&source);
                compiled.push(FieldAction::new(name, Template::of(source)));
            }
        }
        for (name, _) in defaults {
            let set = *columns == Columns::All || compiled.iter().any(|field| field.name == *name);
            if !set {
                self.mistake(format!("defaults names {name}, which is not set"), "name a field or a column");
            }
        }
        let key = key?;
        let first = self.map.steps.iter().find_map(|step| match &step.action {
            Action::Hash(hash) => Some(hash.key),
            _ => None,
        });
        Some(Action::Hash(HashAction {
            key,
            all: *columns == Columns::All,
            fields: compiled,
            defaults: defaults.clone(),
            if_exists: *if_exists,
            in_event: first.is_none_or(|first| first == key),
        }))
    }

    fn key(&mut self, text: &str, usage: Use) -> Option<usize> {
        let template = self.key_template(text, false)?;
        let at = self.place(template);
        if self.uses.iter().any(|(key, other)| *key == at && *other != usage) {
            self.mistake(format!("{text:?} is used as two kinds of key"), "give each kind its own key");
        }
        self.uses.push((at, usage));
        Some(at)
    }

    fn key_template(&mut self, text: &str, pattern: bool) -> Option<KeyTemplate> {
        let parsed = KeyTemplate::parse(text, pattern);
        parsed
            .map_err(|fact| {
                self.mistake(
                    fact,
                    "write a key like user:{$type:$id}:config, a pattern like summary:$type:$id:*",
                )
            })
            .ok()
    }

    fn place(&mut self, template: KeyTemplate) -> usize {
        let templates = &mut self.map.templates;
        templates.iter().position(|known| *known == template).unwrap_or_else(|| {
            templates.push(template);
            templates.len() - 1
        })
    }

    fn template(&mut self, text: &str) -> Option<Template> {
        match Template::parse(text) {
            Ok(template) => {
                template.sources().for_each(|source| self.know(source));
                Some(template)
            }
            Err(fact) => {
                self.mistake(fact, "name a value, or write $$ for a dollar sign");
                None
            }
        }
    }

    /// Reports a column that no followed table can have.
    fn know(&mut self, source: &Source) {
        match source {
            Source::Column(name) if !self.columns.iter().any(|known| **known == **name) => {
                self.mistake(
                    format!("no followed table of users has the column {name}"),
                    "add it to columns of [[tables]]",
                );
            }
            Source::Transaction(name) if !TRANSACTION_COLUMNS.contains(&&**name) => {
                let cure = format!("use {}", TRANSACTION_COLUMNS.join(", "));
                self.mistake(format!("$transaction.{name} is not known"), &cure);
            }
            _ => {}
        }
    }

    /// The bit of a watched column.
    fn watch(&mut self, column: &str) -> u32 {
        if column == "balance" || self.balance_columns.iter().any(|balance| balance == column) {
            return 1;
        }
        self.know(&Source::Column(column.into()));
        let watched = &mut self.map.watched;
        let at = watched.iter().position(|known| **known == *column).unwrap_or_else(|| {
            watched.push(column.into());
            watched.len() - 1
        });
        if at >= MAX_WATCHED {
            self.mistake(
                format!("when_changed watches more than {} columns", MAX_WATCHED - 1),
                "watch fewer",
            );
        }
        u32::try_from(at).ok().and_then(|at| 1_u32.checked_shl(at)).unwrap_or(0)
    }
}

impl FieldAction {
    fn new(name: &str, value: Template) -> FieldAction {
        FieldAction { name: name.to_owned(), value }
    }
}

impl Action {
    fn sources(&self) -> Vec<&Source> {
        match self {
            Action::Hash(hash) => hash.fields.iter().flat_map(|field| field.value.sources()).collect(),
            Action::String { value, .. } => value.sources().collect(),
            Action::Delete { .. } | Action::DeletePattern { .. } => Vec::new(),
            Action::Publish { channel, payload } => {
                let payload = payload.iter().flat_map(Payload::sources);
                channel.sources().chain(payload).collect()
            }
        }
    }
}
