//! The promises, checked after every step.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use lockstep::lsn::Lsn;

use crate::model::keyspace::{CHECKPOINT, Keyspace};
use crate::model::postgres::{Commit, Op, Postgres, Row, User};
use crate::model::redis::{Executed, Redis};

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub rule: &'static str,
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// What a run went through; summed up over many.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub commits: u64,
    pub published: u64,
    /// Published again because Redis had lost the fence.
    pub doubled: u64,
    /// Changes inside a gap of the slot, of which no event told.
    pub unpublished: u64,
    /// Times that every checkpoint was lost, so that no fence counted any more.
    pub epochs: u64,
    /// Keys that moved back when what had come since was sent again then.
    pub moved_back: u64,
}

impl Counts {
    pub fn add(&mut self, other: Counts) {
        self.commits += other.commits;
        self.published += other.published;
        self.doubled += other.doubled;
        self.unpublished += other.unpublished;
        self.epochs += other.epochs;
        self.moved_back += other.moved_back;
    }
}

/// A number that a row was given, where a key can show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Number {
    Email(u64),
    Balance(u64),
}

/// A place in commit order: of the commit, then of the row.
type Place = (u64, u32);

/// What is remembered of the run, to be compared with what comes.
#[derive(Default)]
pub struct Checks {
    pub failure: Option<Failure>,
    pub counts: Counts,
    /// By user and number the last commit that has it, as an index from 1.
    committed: HashMap<(User, Number), usize>,
    /// By key and field the latest commit that was readable there.
    readable: HashMap<(Bytes, &'static str), usize>,
    /// Keys that somebody else wrote, with what he left there.
    pub foreign: BTreeMap<Bytes, BTreeSet<String>>,
    /// What anybody else has ever left in a key: a replica that takes over may bring it back.
    pub ever_foreign: HashMap<Bytes, BTreeSet<String>>,
    /// By user where its fence has ever stood.
    held: HashMap<User, Place>,
    /// By event, user and channel when it was published, in commands, and in which epoch.
    published: HashMap<(String, User, bool), (u64, u64)>,
    /// By user the epoch of its fence.
    fence_epoch: HashMap<User, u64>,
    /// By user the place of the last event that was published for the first time.
    told: HashMap<User, Place>,
    /// By commit and user, whether any event was published.
    events: BTreeSet<(u64, User)>,
    /// By user when Redis last lost its fence.
    fence_lost: HashMap<User, u64>,
    /// Commands so far.
    now: u64,
    /// The first commit of which no acknowledgement has been checked.
    unacknowledged: usize,
    /// Commits in a gap: the slot was made anew behind them.
    in_gap: usize,
    /// Derived keys, and how many commits there were when somebody wrote them.
    pub derived: BTreeMap<Bytes, usize>,
    /// The instance that knows that Redis took a checkpoint of its own.
    remembers: Option<usize>,
    /// The epoch as it was last written, and whether a loss may raise it.
    epoch: u64,
    has_lost: bool,
    /// Commits that were there when the epoch began: they are sent again.
    sent_again: usize,
    /// Rows that an instance may hold.
    most_rows: usize,
}

impl Checks {
    pub fn new(most_rows: usize) -> Checks {
        Checks { most_rows, ..Checks::default() }
    }

    pub fn fail(&mut self, rule: &'static str, what: impl FnOnce() -> String) {
        if self.failure.is_none() {
            self.failure = Some(Failure { rule, what: what() });
        }
    }

    /// A commit is in WAL.
    pub fn committed(&mut self, commits: &[Commit]) {
        let (Some(commit), index) = (commits.last(), commits.len()) else { return };
        self.counts.commits += 1;
        for (_, op) in &commit.ops {
            if let Op::Insert { user, row } | Op::Update { to: user, row, .. } = op {
                self.committed.insert((*user, Number::Email(row.email)), index);
                if let Some(balance) = row.balance {
                    self.committed.insert((*user, Number::Balance(balance)), index);
                }
            }
        }
    }

    /// A server executed a command.
    pub fn executed(&mut self, executed: &Executed, redis: &Redis, postgres: &Postgres) {
        self.now += 1;
        let space = &redis.nodes[executed.node].space;
        self.epoch(executed, redis, postgres.commits.len());
        for key in &executed.touched {
            self.fence(key, space, &postgres.commits);
        }
        for key in &executed.touched {
            self.key(key, space);
        }
        for (channel, message) in &executed.published {
            self.publish(channel == "user_updates", message);
        }
    }

    /// Where every checkpoint is lost, or was another node's, and who wrote them is gone too, nobody knows what the fences are
    /// worth, and a new epoch begins: events that are sent again pass them. Else there is no reason for one.
    fn epoch(&mut self, executed: &Executed, redis: &Redis, commits: usize) {
        let space = &redis.nodes[executed.node].space;
        let is_checkpoint = |key: &&Bytes| key.starts_with(CHECKPOINT);
        let record = space.text(b"lockstep:epoch").and_then(|epoch| text(epoch).parse().ok());
        // Checkpoints say it first.
        let of_checkpoint = |key: &Bytes| between(text(space.text(key)?), "\"epoch\":", ',')?.parse().ok();
        let of_checkpoints = executed.touched.iter().filter(is_checkpoint).filter_map(of_checkpoint);
        let written: u64 = of_checkpoints.chain(record).max().unwrap_or(0);
        let before = self.epoch;
        self.epoch = written.max(before);
        if before == 0 || written <= before {
            return;
        }
        let others = redis.nodes.iter().flat_map(|node| node.space.keys.keys().filter(is_checkpoint));
        let has_checkpoint = others.into_iter().any(|key| !executed.touched.contains(key));
        let is_remembered = executed.instance.is_some() && executed.instance == self.remembers;
        if !self.has_lost && (has_checkpoint || is_remembered) {
            self.fail("the epoch stays", || {
                format!("it went from {before} to {written} though redis lost nothing")
            });
        }
        // Whoever knew knows of the epoch before.
        self.remembers = None;
        self.counts.epochs += 1;
        self.sent_again = commits;
        self.readable.clear();
        let users: Vec<User> = self.held.keys().copied().collect();
        self.fence_lost.extend(users.into_iter().map(|user| (user, self.now)));
    }

    /// A fence tells what Redis has; that of a user who is gone tells of the delete.
    fn fence(&mut self, key: &Bytes, space: &Keyspace, commits: &[Commit]) {
        let Some(name) = text(key).strip_prefix("lockstep:fence:{") else { return };
        let Some(name) = name.strip_suffix('}') else { return };
        let Some(fence) = space.text(key).map(|fence| text(fence)) else { return };
        let at = u64::from_str_radix(&fence[8..24], 16).unwrap();
        let place = (at, u32::from_str_radix(&fence[24..32], 16).unwrap());
        let (own, who) = match name.strip_prefix("user_balance:") {
            Some(who) => (true, who),
            None => (false, name),
        };
        let Some(user) = user(who) else { return };
        if !own {
            self.fence_epoch.insert(user, u64::from_str_radix(&fence[..8], 16).unwrap());
            let held = self.held.entry(user).or_default();
            *held = (*held).max(place);
        }
        if &fence[48..49] == "t"
            && let Ok(index) = commits.binary_search_by_key(&at, |commit| commit.lsn)
            && commits[index].ops.iter().any(|(_, op)| takes_away(op, user))
        {
            let keys: &[(String, &[&'static str])] = match own {
                true => &[(format!("user_balance:{user}"), &["value"])],
                false => &[(format!("user:{{{user}}}:config"), &["email", "balance"])],
            };
            for (key, fields) in keys {
                for field in *fields {
                    let readable = self.readable.entry((key.clone().into(), field)).or_default();
                    *readable = (*readable).max(index + 1);
                }
            }
        }
    }

    /// No key moves backwards.
    fn key(&mut self, key: &Bytes, space: &Keyspace) {
        let Some((user, shown)) = shown(key, space) else { return };
        let mut foreign = self.foreign.remove(key).unwrap_or_default();
        for (field, value) in shown {
            if foreign.contains(&value) {
                continue;
            }
            let number = number(&value);
            let Some(index) = number.and_then(|number| self.committed.get(&(user, number)).copied()) else {
                self.fail("a value that was committed", || format!("{} shows {value}", text(key)));
                continue;
            };
            let readable = self.readable.entry((key.clone(), field)).or_default();
            if index < *readable && *readable <= self.sent_again {
                self.counts.moved_back += 1;
            } else if index < *readable {
                let before = *readable;
                self.fail("no key moves backwards", || {
                    format!("{} went from commit {before} to {index}", text(key))
                });
                return;
            }
            *readable = index;
        }
        foreign.retain(|value| still_shows(key, space, value));
        if !foreign.is_empty() {
            self.foreign.insert(key.clone(), foreign);
        }
    }

    /// No event is published twice, and those of a user come in commit order.
    fn publish(&mut self, updates: bool, message: &[u8]) {
        self.counts.published += 1;
        let message = text(message);
        let (Some(event), Some(user)) = (between(message, "\"event_id\":\"", '"'), user_of(message)) else {
            return self.fail("a message can be read", || message.to_owned());
        };
        let place = u64::from_str_radix(&event[..16], 16).unwrap();
        let place = (place, u32::from_str_radix(&event[17..25], 16).unwrap());
        if event[25..].starts_with("-r") {
            return;
        }
        self.events.insert((place.0, user));
        let key = (event.to_owned(), user, updates);
        let epoch = self.fence_epoch.get(&user).copied().unwrap_or(0);
        if let Some((before, older)) = self.published.insert(key, (self.now, epoch)) {
            let lost = self.fence_lost.get(&user).copied().unwrap_or(0);
            self.counts.doubled += 1;
            // A loss of every checkpoint ends an epoch; what an instance of the old one had under way may come later.
            if lost < before && epoch <= older {
                self.fail("published once", || format!("{event} of {user} again"));
            }
            return;
        }
        let told = self.told.get(&user).copied().unwrap_or_default();
        // Of a truncated table those are told whom Redis holds: sent again in a new epoch it finds others.
        if place < told && !self.fence_lost.contains_key(&user) {
            self.fail("published in commit order", || format!("{event} of {user} behind a later one"));
        }
        self.told.insert(user, place.max(told));
    }

    /// An instance is gone, and what it knew.
    pub fn ended(&mut self, number: usize) {
        self.remembers = self.remembers.filter(|remembers| *remembers != number);
    }

    /// PostgreSQL may forget what is before `flushed`.
    pub fn acknowledged(&mut self, flushed: u64, postgres: &Postgres) {
        // What is still in the pipe of one that was killed is remembered by nobody.
        if flushed > postgres.confirmed && !postgres.leader_is_gone {
            self.remembers = Some(postgres.leader);
        }
        while let Some(commit) =
            postgres.commits.get(self.unacknowledged).filter(|commit| commit.end <= flushed)
        {
            self.unacknowledged += 1;
            for (user, ordinal) in touched(commit) {
                if self.held.get(&user).copied().unwrap_or_default() < (commit.lsn, ordinal) {
                    let at = commit.lsn;
                    self.fail("acknowledged after redis held it", || format!("{user} at {at:X}"));
                }
            }
        }
    }

    /// An instance holds a bounded number of rows.
    pub fn received(&mut self, postgres: &Postgres) {
        let Some(walsender) = &postgres.walsender else { return };
        let (begun, from) = (walsender.begun().min(postgres.commits.len()), self.unacknowledged);
        let mut rows = 0;
        for commit in postgres.commits.get(from..begun).unwrap_or_default() {
            let held =
                |(user, _): &(User, u32)| self.held.get(user).is_some_and(|held| *held >= (commit.lsn, 0));
            rows += touched(commit).iter().filter(|touched| !held(touched)).count();
        }
        if rows > self.most_rows {
            let most = self.most_rows;
            self.fail("memory is bounded", || format!("{rows} users of {most} wait for redis"));
        }
    }

    /// Redis lost what these keys held before.
    pub fn lost(&mut self, changed: &[Bytes], node: usize, redis: &Redis) {
        self.now += 1;
        self.has_lost = true;
        let space = &redis.nodes[node].space;
        let of_node = |key: &[u8]| redis.owner(key) == node;
        for key in changed {
            if let Some(user) = text(key)
                .strip_prefix("lockstep:fence:{")
                .and_then(|name| name.strip_suffix('}'))
                .and_then(user)
            {
                self.fence_lost.insert(user, self.now);
            }
        }
        self.readable.retain(|(key, _), _| !of_node(key));
        self.foreign.retain(|key, _| !of_node(key) || space.keys.contains_key(key));
        for key in space.keys.keys() {
            let Some((user, shown)) = shown(key, space) else { continue };
            let foreign = self.ever_foreign.get(key);
            for (field, value) in shown {
                // What another program wrote over is there again.
                if foreign.is_some_and(|of| of.contains(&value)) {
                    self.foreign.entry(key.clone()).or_default().insert(value);
                } else if let Some(index) =
                    number(&value).and_then(|number| self.committed.get(&(user, number)))
                {
                    self.readable.insert((key.clone(), field), *index);
                }
            }
        }
    }

    /// The leader hears of keys that were written. A derived one counts as written then: a change that Redis has
    /// already is behind it, and the ledger of other writers, which is not modelled, deletes it after a grace.
    pub fn heard(&mut self, keys: &[Bytes], commits: &[Commit]) {
        for key in keys {
            let who = text(key).strip_prefix("financial_summary:").and_then(user);
            if let (Some(written), Some(who)) = (self.derived.get_mut(key), who) {
                let (has, _) = self.held.get(&who).copied().unwrap_or_default();
                *written = (*written).max(commits.partition_point(|commit| commit.lsn <= has));
            }
        }
    }

    /// The slot was made anew: what is before and was not published will not be.
    pub fn gap(&mut self, postgres: &Postgres) {
        self.in_gap = postgres.commits.len();
        self.unacknowledged = self.unacknowledged.max(self.in_gap);
    }

    /// Where the slot was made anew.
    pub fn gap_end(&self, commits: &[Commit]) -> Lsn {
        Lsn(commits.get(..self.in_gap).and_then(<[Commit]>::last).map_or(0, |commit| commit.end))
    }

    /// Everything rests: every change was published, once.
    pub fn all_published(&mut self, commits: &[Commit]) {
        for (index, commit) in commits.iter().enumerate() {
            for (user, _) in touched(commit) {
                if self.events.contains(&(commit.lsn, user)) || silent(commit, user) {
                    continue;
                }
                if index < self.in_gap {
                    self.counts.unpublished += 1;
                    continue;
                }
                let at = commit.lsn;
                self.fail("every change is published", || format!("{user} at {at:X}"));
            }
        }
    }

    /// Everything rests: Redis equals the database.
    pub fn equal(&mut self, redis: &Redis, postgres: &Postgres) {
        let rows: BTreeMap<User, Row> = postgres.all().into_iter().collect();
        for (user, row) in &rows {
            self.user_equals(*user, row, redis);
        }
        for (node, key) in redis
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(at, node)| node.space.keys.keys().map(move |key| (at, key)))
        {
            if let Some(written) = self.derived.get(key).copied() {
                let who = text(key).strip_prefix("financial_summary:").and_then(user);
                let later = postgres.commits.get(written..).unwrap_or_default().iter();
                let changed = later.flat_map(|commit| &commit.ops).any(|(_, op)| {
                    !matches!(op, Op::Completed(_)) && who.is_some_and(|who| op.users().contains(&who))
                });
                if changed {
                    self.fail("derived keys are deleted", || text(key).to_owned());
                }
                continue;
            }
            let is_ours = shown(key, &redis.nodes[node].space).map(|(user, _)| user);
            let stray = is_ours.is_some_and(|user| !rows.contains_key(&user));
            if stray && !self.foreign.contains_key(key) {
                self.fail("redis equals postgres", || format!("{} is of nobody", text(key)));
            }
        }
    }

    fn user_equals(&mut self, user: User, row: &Row, redis: &Redis) {
        let keys = [
            (format!("user:{{{user}}}:config"), true),
            (format!("user_balance:{user}"), true),
            (format!("user:{{{user}}}:portfolio"), false),
        ];
        for (key, must_be) in keys {
            let key = Bytes::from(key);
            let space = &redis.nodes[redis.owner(&key)].space;
            if self.foreign.contains_key(&key) {
                continue;
            }
            let found = shown(&key, space).map(|(_, shown)| shown).unwrap_or_default();
            let balance = row.balance.map(|number| format!("{number}.5"));
            let wanted = |field: &str| match field {
                "email" => Some(row.email_text()),
                _ => balance.clone(),
            };
            let right = found.iter().all(|(field, value)| Some(value.clone()) == wanted(field));
            let there = found.is_empty() != (must_be && balance.is_some());
            let fields = if key.ends_with(b":config") { 3 } else { 1 };
            let whole = found.is_empty() || found.len() == fields;
            if !right || !whole || (!there && (must_be || balance.is_none())) {
                self.fail("redis equals postgres", || {
                    format!("{} shows {found:?}, not {:?} {balance:?}", text(&key), row.email_text())
                });
            }
        }
    }
}

/// Users of whom a commit has to tell, with the place of their last row.
fn touched(commit: &Commit) -> Vec<(User, u32)> {
    let mut users: BTreeMap<User, u32> = BTreeMap::new();
    let rows = commit.ops.iter().map(|(_, op)| op).filter(|op| !matches!(op, Op::Ask(_)));
    for (op, ordinal) in rows.zip(1..) {
        users.extend(op.users().into_iter().map(|user| (user, ordinal)));
    }
    users.into_iter().collect()
}

/// Whether no event can be made of what a commit did to a user: its last row holds what never reaches a key.
fn silent(commit: &Commit, user: User) -> bool {
    let rows = commit.ops.iter().rev().filter(|(_, op)| !matches!(op, Op::Completed(_)));
    let last = rows.into_iter().find(|(_, op)| op.users().contains(&user));
    matches!(last, Some((_, Op::Insert { user: of, row } | Op::Update { to: of, row, .. }))
        if *of == user && row.balance.is_none())
}

fn takes_away(op: &Op, user: User) -> bool {
    match op {
        Op::Delete { user: gone, .. } => *gone == user,
        Op::Update { from, to, .. } => from != to && *from == user,
        Op::Truncate => true,
        _ => false,
    }
}

/// Whose key it is, and the fields by which a commit is known.
fn shown(key: &[u8], space: &Keyspace) -> Option<(User, Vec<(&'static str, String)>)> {
    let name = text(key);
    let hash = |fields: &[&'static str]| {
        let hash = space.hash(key)?;
        let shown =
            fields.iter().filter_map(|field| Some((*field, text(hash.get(field.as_bytes())?).to_owned())));
        Some(shown.collect())
    };
    if let Some(who) = name.strip_prefix("user_balance:") {
        return Some((user(who)?, vec![("value", text(space.text(key)?).to_owned())]));
    }
    let (who, rest) = name.strip_prefix("user:{")?.split_once('}')?;
    let user = user(who)?;
    match rest {
        ":config" => Some((user, hash(&["email", "balance", "wallet_balance"])?)),
        ":portfolio" => Some((user, hash(&["wallet_balance"])?)),
        _ => None,
    }
}

fn still_shows(key: &Bytes, space: &Keyspace, value: &str) -> bool {
    shown(key, space).is_some_and(|(_, shown)| shown.iter().any(|(_, shown)| shown == value))
}

fn number(value: &str) -> Option<Number> {
    if let Some(email) = value.strip_prefix('v') {
        return email.trim_end_matches('.').parse().ok().map(Number::Email);
    }
    value.strip_suffix(".5")?.parse().ok().map(Number::Balance)
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("?")
}

fn between<'t>(text: &'t str, before: &str, after: char) -> Option<&'t str> {
    let (_, rest) = text.split_once(before)?;
    rest.split(after).next()
}

fn user_of(message: &str) -> Option<User> {
    let id = between(message, "\"user_id\":", ',')?;
    let kind = between(message, "\"user_type\":\"", '"')?;
    user(&format!("{kind}:{id}"))
}

/// Reads `T:U`, and what follows behind another colon.
pub fn user(who: &str) -> Option<User> {
    let mut parts = who.split(':');
    let kind = match parts.next()? {
        "live" => "live",
        "demo" => "demo",
        _ => return None,
    };
    Some(User { id: parts.next()?.parse().ok()?, kind })
}
