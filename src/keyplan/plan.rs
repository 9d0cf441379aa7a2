//! One event -> one plan.

use bytes::{BufMut, Bytes, BytesMut};

use super::json::{self, Fields};
use super::keymap::{Action, HashAction, KeyMap, Step as Compiled};
use super::template::{Scope, Shown, Source};
use super::{EventJson, Guard, KeyPlan, Pairs, Step, Texts};
use crate::balance::{Doubt, Event, Field, Kind, User, Value};
use crate::config::Shard;
use crate::config::keys::{On, Test};
use crate::lsn::{Position, Xid64};

/// Room for an event's keys, and for the fields of a hash; more is taken when needed.
const BUFFER_BYTES: usize = 512;

/// One plan in the making.
struct Planner<'a> {
    map: &'a KeyMap,
    scope: Scope<'a>,
    /// The event's word; `None` where only the fence can tell a `balance_change` from a `user_update`.
    on: Option<On>,
    buffer: BytesMut,
    scratch: String,
    fields: Fields,
    steps: Vec<Step>,
}

impl KeyMap {
    /// What an event does to Redis.
    pub fn plan(&self, event: &Event) -> KeyPlan {
        self.plan_of(event, event.kind != Kind::Loaded)
    }

    /// What an event does to keys; nothing is told of it.
    pub fn plan_keys(&self, event: &Event) -> KeyPlan {
        self.plan_of(event, false)
    }

    fn plan_of(&self, event: &Event, tells: bool) -> KeyPlan {
        let undecodable = event.doubt.as_ref().is_some_and(Doubt::is_whole);
        let is_sent = |fields: &[Field]| fields.iter().all(|field| field.value != Value::Unchanged);
        let time = match event.kind {
            Kind::Loaded | Kind::Reread(_) => None,
            _ => Some(crate::balance::time::commit_iso(event.commit.time)),
        };
        let updated_at = || match event.fields.iter().find(|f| &*f.name == "updated_at").map(|f| &f.value) {
            Some(Value::Text(text)) => Some(&**text),
            _ => None,
        };
        let time = time.as_deref().or_else(updated_at);
        let scope =
            Scope { event, time, transaction: event.completed.last(), is_shard: self.shard != Shard::WHOLE };
        let mut planner = Planner {
            map: self,
            scope,
            on: word(event),
            buffer: BytesMut::with_capacity(BUFFER_BYTES),
            scratch: String::new(),
            fields: Fields::new(),
            steps: Vec::with_capacity(self.steps.len()),
        };
        let deletes_user = event.kind == Kind::Deleted;
        if deletes_user || undecodable {
            planner.steps = self.keys_of(&event.user);
        } else {
            self.steps.iter().filter(|step| !step.publishes()).for_each(|step| planner.write(step));
        }
        if !undecodable && tells {
            self.steps.iter().filter(|step| step.publishes()).for_each(|step| planner.publish(step));
        }
        let silent = undecodable || !tells;
        KeyPlan {
            user: event.user.clone(),
            position: event.position,
            row_xid: event.kind.changes_row().then_some(event.commit.xid),
            deletes_user,
            xid: event.commit.xid,
            restores: deletes_user
                || (event.doubt.is_none() && !event.fields.is_empty() && is_sent(&event.fields)),
            rereads: matches!(event.kind, Kind::Reread(_)),
            watched: planner.watched(undecodable),
            whole: deletes_user || (event.kind != Kind::Completed && !event.lacks_values()),
            doubt: event.doubt.clone(),
            event: if silent {
                EventJson::Fixed(Bytes::new())
            } else {
                json::write(&planner.scope, &planner.fields, planner.on)
            },
            published_as: planner.on.filter(|_| !silent).map(json::event_type),
            steps: planner.steps,
        }
    }

    /// Deletes what is only ever deleted, and nothing else; nothing is told.
    pub fn plan_derived(&self, user: &User) -> KeyPlan {
        let mut steps = self.keys_of(user);
        steps.retain(|step| !matches!(step, Step::Delete { written: true, .. }));
        KeyPlan { deletes_user: false, restores: false, whole: false, steps, ..self.plan_absent(user) }
    }

    /// What is done about a user who is not in the database: every key is deleted, and nothing is told.
    pub fn plan_absent(&self, user: &User) -> KeyPlan {
        KeyPlan {
            user: user.clone(),
            position: Position::default(),
            row_xid: None,
            xid: Xid64::default(),
            deletes_user: true,
            restores: true,
            watched: vec![None; self.watched.len()],
            rereads: false,
            whole: true,
            doubt: None,
            event: EventJson::Fixed(Bytes::new()),
            published_as: None,
            steps: self.keys_of(user),
        }
    }

    /// Deletes every key and every pattern of a user.
    pub fn keys_of(&self, user: &User) -> Vec<Step> {
        let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
        let delete = |(at, template): (usize, &super::KeyTemplate)| {
            let key = template.render(user, &mut buffer);
            match template.is_pattern() {
                true => Step::DeletePattern { prefix: key, suffix: template.suffix(), guard: Guard::ALWAYS },
                false => Step::Delete { key, written: self.writes(at), guard: Guard::ALWAYS },
            }
        };
        self.templates.iter().enumerate().map(delete).collect()
    }
}

/// The event's word, where the event alone can tell.
fn word(event: &Event) -> Option<On> {
    match event.kind {
        Kind::Created => Some(On::UserCreated),
        Kind::Deleted => Some(On::UserDeleted),
        Kind::Completed => Some(On::UserUpdate),
        Kind::Loaded => Some(On::Loaded),
        Kind::Reread(_) => Some(On::Reread),
        Kind::Updated if !event.completed.is_empty() => Some(On::BalanceChange),
        Kind::Updated => event.changed.as_ref().map(|changed| {
            if changed.contains(&event.balance_column) { On::BalanceChange } else { On::UserUpdate }
        }),
    }
}

impl Planner<'_> {
    /// The guard of a step, or `None` where it is not to be done.
    fn guard(&self, step: &Compiled) -> Option<Guard> {
        let event = self.scope.event;
        let mut guard = Guard::ALWAYS;
        match self.on {
            Some(On::Reread) if step.publishes() => {
                guard.stored_balance_differs = !json::is_unconditional(event);
                step.waits_on(On::BalanceChange).then_some(())?;
            }
            Some(on) => step.waits_on(on).then_some(())?,
            None => match (step.waits_on(On::BalanceChange), step.waits_on(On::UserUpdate)) {
                (true, true) => {}
                (true, false) => guard.any_changed = 1,
                (false, true) => guard.none_changed = 1,
                (false, false) => return None,
            },
        }
        if step.when_changed != 0 {
            match (event.kind, &event.changed) {
                (Kind::Created | Kind::Deleted, _) => {}
                (Kind::Completed, _) => return None,
                (_, Some(_)) => self.watched_changed(step.when_changed).then_some(())?,
                (_, None) => guard.any_changed |= step.when_changed,
            }
        }
        let holds = |(source, test): &(Source, Test)| match (test, self.scope.value(source).text()) {
            (Test::Present(present), text) => text.is_some() == *present,
            (Test::Is(wanted), Some(text)) => wanted.iter().any(|wanted| wanted == text),
            (Test::Is(_), None) => false,
        };
        step.when.iter().all(holds).then_some(guard)
    }

    /// Whether one of these watched columns is among those known to have changed.
    fn watched_changed(&self, bits: u32) -> bool {
        let event = self.scope.event;
        let changed = |name: &str| event.changed.iter().flatten().any(|changed| **changed == *name);
        let watched = self.map.watched.iter().enumerate();
        watched
            .filter(|(at, _)| bits.checked_shr(u32::try_from(*at).unwrap_or(32)).unwrap_or(0) & 1 == 1)
            .any(|(at, name)| if at == 0 { changed(&event.balance_column) } else { changed(name) })
    }

    fn write(&mut self, step: &Compiled) {
        let event = self.scope.event;
        // What names a completed row needs one; and a completed row alone moves no balance, so that only
        // what it says itself is written.
        let fits =
            if step.of_transaction { !event.completed.is_empty() } else { event.kind != Kind::Completed };
        if !fits {
            return;
        }
        let Some(guard) = self.guard(step) else { return };
        match &step.action {
            Action::Hash(hash) => self.hash(hash, guard),
            Action::String { key, value, ttl } => {
                let Some(key) = self.key(*key) else { return };
                match value.fill(&self.scope, &mut self.scratch) {
                    Shown::Unsent => {}
                    // A reader falls back to the database on an absent key.
                    Shown::Null => self.steps.push(Step::Delete { key, written: true, guard }),
                    Shown::Number(text) | Shown::Text(text) => {
                        let value = store(&mut self.buffer, text);
                        self.steps.push(Step::Set { key, value, ttl: *ttl, guard });
                    }
                }
            }
            Action::Delete { keys } => {
                for key in keys {
                    let written = self.map.writes(*key);
                    if let Some(key) = self.key(*key) {
                        self.steps.push(Step::Delete { key, written, guard });
                    }
                }
            }
            Action::DeletePattern { key } => {
                let suffix = self.map.templates.get(*key).map(super::KeyTemplate::suffix);
                if let (Some(prefix), Some(suffix)) = (self.key(*key), suffix) {
                    self.steps.push(Step::DeletePattern { prefix, suffix, guard });
                }
            }
            Action::Publish { .. } => {}
        }
    }

    fn hash(&mut self, hash: &HashAction, guard: Guard) {
        let event = self.scope.event;
        let mut set = Pairs::with_capacity(event.fields.len() + hash.fields.len(), BUFFER_BYTES);
        let mut remove = Texts::default();
        for field in &hash.fields {
            let shown = field.value.fill(&self.scope, &mut self.scratch);
            let named = match field.value.parts.as_slice() {
                [super::template::Part::Value(Source::Column(column))] => told(event, column),
                _ => true,
            };
            let told = hash.in_event && named;
            match (shown, hash.default_of(&field.name)) {
                (Shown::Unsent, _) => continue,
                (Shown::Null, None) => {
                    remove.push(field.name.as_bytes());
                    if told {
                        self.fields.remove(&field.name);
                    }
                }
                (Shown::Null, Some(text)) => {
                    set.push(field.name.as_bytes(), text.as_bytes());
                    if told {
                        self.fields.set(&field.name, Shown::Text(text));
                    }
                }
                (shown @ (Shown::Number(text) | Shown::Text(text)), _) => {
                    set.push(field.name.as_bytes(), text.as_bytes());
                    if told {
                        self.fields.set(&field.name, shown);
                    }
                }
            }
        }
        if hash.all {
            self.columns(hash, &mut set, &mut remove);
        }
        if set.is_empty() && remove.is_empty() {
            return;
        }
        let Some(key) = self.key(hash.key) else { return };
        // One command for what is known to be one change: the hash exists once it has been written.
        if let Some(Step::Hash { key: last, set: into, remove: from, if_exists, guard: same }) =
            self.steps.last_mut()
            && *last == key
            && *same == guard
            && (*if_exists == hash.if_exists || (!*if_exists && !into.is_empty()))
            && !names(&set, &remove).any(|name| names(into, from).any(|known| known == name))
        {
            into.append(&set);
            from.append(&remove);
            return;
        }
        self.steps.push(Step::Hash { key, set, remove, if_exists: hash.if_exists, guard });
    }

    /// Every mapped column under its own name, but those that the step names itself.
    fn columns(&mut self, hash: &HashAction, set: &mut Pairs, remove: &mut Texts) {
        let event = self.scope.event;
        for field in &event.fields {
            if hash.fields.iter().any(|named| *named.name == *field.name) {
                continue;
            }
            let shown = match (Shown::of(&field.value), hash.default_of(&field.name)) {
                (Shown::Null, Some(text)) => Shown::Text(text),
                (shown, _) => shown,
            };
            let told = hash.in_event && told(event, &field.name);
            match shown.text() {
                Some(text) => {
                    set.push(field.name.as_bytes(), text.as_bytes());
                    if told {
                        self.fields.set(&field.name, shown);
                    }
                }
                None if shown == Shown::Null => {
                    remove.push(field.name.as_bytes());
                    if told {
                        self.fields.remove(&field.name);
                    }
                }
                None => {}
            }
        }
    }

    fn publish(&mut self, step: &Compiled) {
        let (Action::Publish { channel, payload }, Some(guard)) = (&step.action, self.guard(step)) else {
            return;
        };
        let Some(channel) = channel.fill(&self.scope, &mut self.scratch).text() else { return };
        let channel = store(&mut self.buffer, channel);
        match payload {
            None => self.steps.push(Step::PublishEvent { channel, guard }),
            Some(payload) => {
                let mut out = Vec::with_capacity(256);
                payload.write(&self.scope, &mut self.scratch, &mut out);
                self.steps.push(Step::Publish { channel, payload: Bytes::from(out), guard });
            }
        }
    }

    fn key(&mut self, at: usize) -> Option<Bytes> {
        let template = self.map.templates.get(at)?;
        Some(template.render(&self.scope.event.user, &mut self.buffer))
    }

    /// The watched columns' values; NULL is told as empty text.
    fn watched(&mut self, undecodable: bool) -> Vec<Option<Bytes>> {
        let map = self.map;
        let watched = map.watched.iter().enumerate().map(|(at, name)| {
            let source = if at == 0 { Source::Balance } else { Source::Column(std::sync::Arc::clone(name)) };
            match self.scope.value(&source) {
                Shown::Unsent => None,
                Shown::Null => Some(Bytes::new()),
                Shown::Number(text) | Shown::Text(text) => Some(store(&mut self.buffer, text)),
            }
        });
        if undecodable { vec![None; map.watched.len()] } else { watched.collect() }
    }
}

/// Every field that a change of a hash names.
fn names<'a>(set: &'a Pairs, remove: &'a Texts) -> impl Iterator<Item = &'a [u8]> {
    set.iter().map(|(name, _)| name).chain(remove.iter())
}

/// Whether the event tells of a column: all of them where the old row is not known, else those that
/// changed, and the balance.
fn told(event: &Event, column: &str) -> bool {
    let changed = |changed: &Vec<_>| changed.iter().any(|name: &std::sync::Arc<str>| **name == *column);
    *event.balance_column == *column || event.changed.as_ref().is_none_or(changed)
}

fn store(buffer: &mut BytesMut, text: &str) -> Bytes {
    buffer.put_slice(text.as_bytes());
    buffer.split().freeze()
}
