//! What was found, counted, with bounded examples.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::balance::User;
use crate::keyplan::KeyMap;
use crate::sink::Finding;

/// Examples that are shown.
const MAX_EXAMPLES: usize = 100;
/// Differences that one example shows.
const MAX_SHOWN: usize = 24;
/// Characters of a value that are shown.
const MAX_VALUE_CHARS: usize = 200;
/// Users who are remembered, for a repair one by one.
pub const MAX_FOUND: usize = 10_000;
/// Keys of nobody that are remembered, since one may be found twice; beyond, it is counted twice.
const MAX_ORPHANS: usize = 262_144;

/// What is the matter with a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// The hash is not there: readers ask the database.
    Absent,
    /// Something else is there.
    Wrong,
    /// There are keys, and no user.
    Orphaned,
}

/// A user with whom something is the matter.
#[derive(Debug, Clone)]
pub(super) struct Found<'w> {
    pub(super) user: User,
    pub(super) class: Class,
    pub(super) findings: Vec<Finding>,
    /// Why it is not certain; `None`: it is.
    pub(super) uncertain: Option<&'w str>,
}

/// Counts while it goes on.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) users: u64,
    pub(super) without_keys: u64,
    pub(super) changing: u64,
    report: Report,
    /// Users of the database with whom something is the matter.
    differing: u64,
    /// Digests of keys of nobody, and of whose they would be.
    orphans: HashSet<u64>,
    shows_values: bool,
}

/// What a verification found. The JSON that `lockstep verify --json` prints.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Report {
    /// Users that were compared.
    pub users: u64,
    /// Users all of whose keys hold what the database says, or have expired.
    pub equal: u64,
    /// Users whose hash is not there.
    pub absent: u64,
    /// Users of whom a key holds something else.
    pub wrong: u64,
    /// Users with keys who are not in the database.
    pub orphaned_users: u64,
    /// Their keys.
    pub orphaned_keys: u64,
    /// Users who differ where it is not certain: of the classes above, none.
    pub unconfirmed: u64,
    /// Why, and how many each.
    pub not_confirmed_because: BTreeMap<String, u64>,
    /// Users whose row changed whenever they were looked at: the stream writes all of their keys each time.
    pub changing: u64,
    /// Rows that touch no key: an id or a type that no key can be named by.
    pub without_keys: u64,
    /// What differs, by the key's template, and behind a space the field; with the number of users.
    pub differences: BTreeMap<String, u64>,
    /// The first ones.
    pub examples: Vec<Example>,
    /// How long it took.
    pub seconds: f64,
    /// Users compared in a second.
    pub users_per_second: f64,
    /// Everybody with whom something is the matter, as far as they are remembered.
    #[serde(skip)]
    pub found: Vec<User>,
    /// Whether there are more.
    #[serde(skip)]
    pub found_more: bool,
}

/// One user with whom something is the matter.
#[derive(Debug, Clone, Serialize)]
pub struct Example {
    /// `TYPE:ID`
    pub user: String,
    /// What is the matter.
    pub class: Class,
    /// Whether it is certain.
    pub confirmed: bool,
    /// What differs.
    pub differences: Vec<Shown>,
}

/// One difference of an example.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// The key's template.
    pub key: String,
    /// The field; `null` where it is about the whole key.
    pub field: Option<String>,
    /// What the database says; only where values are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// What Redis holds; only where values are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<String>,
}

impl Tally {
    pub(super) fn new(shows_values: bool) -> Tally {
        Tally { shows_values, ..Tally::default() }
    }

    /// Takes in a user with whom something is the matter.
    pub(super) fn note(&mut self, mut found: Found<'_>, key_map: &KeyMap) {
        let mut is_new_user = true;
        if found.class == Class::Orphaned {
            found.findings.retain(|finding| self.is_new(&finding.key));
            if found.findings.is_empty() {
                return;
            }
            is_new_user = self.is_new(&found.user);
        } else {
            self.differing += 1;
        }
        let report = &mut self.report;
        match (found.uncertain, found.class) {
            (Some(why), _) => {
                report.unconfirmed += 1;
                *report.not_confirmed_because.entry(why.to_owned()).or_default() += 1;
            }
            (None, Class::Absent) => report.absent += 1,
            (None, Class::Wrong) => report.wrong += 1,
            (None, Class::Orphaned) => {
                report.orphaned_keys += found.findings.len() as u64;
                report.orphaned_users += u64::from(is_new_user);
            }
        }
        let shown: Vec<Shown> =
            found.findings.iter().map(|finding| shown(finding, key_map, self.shows_values)).collect();
        let named: BTreeSet<String> = shown.iter().map(Shown::name).collect();
        for name in named {
            *report.differences.entry(name).or_default() += 1;
        }
        if report.examples.len() < MAX_EXAMPLES {
            let user = format!("{}:{}", found.user.user_type, found.user.id);
            let differences = shown.into_iter().take(MAX_SHOWN).collect();
            let confirmed = found.uncertain.is_none();
            report.examples.push(Example { user, class: found.class, confirmed, differences });
        }
        if report.found.len() >= MAX_FOUND {
            report.found_more = true;
        } else if is_new_user {
            report.found.push(found.user);
        }
    }

    /// Whether a key of nobody, or nobody himself, was not counted yet.
    fn is_new(&mut self, what: &impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        self.orphans.len() >= MAX_ORPHANS || self.orphans.insert(hasher.finish())
    }

    pub(super) fn report(self, took: Duration) -> Report {
        let Tally { users, without_keys, changing, differing, report, .. } = self;
        let seconds = took.as_secs_f64();
        Report {
            users,
            without_keys,
            changing,
            equal: users.saturating_sub(differing + changing),
            seconds,
            users_per_second: users as f64 / seconds.max(0.001),
            ..report
        }
    }
}

impl Report {
    /// Whether all is equal.
    pub fn is_clean(&self) -> bool {
        self.absent + self.wrong + self.orphaned_keys + self.unconfirmed == 0
    }
}

impl Shown {
    /// As differences are counted.
    pub fn name(&self) -> String {
        match &self.field {
            Some(field) => format!("{} {field}", self.key),
            None => self.key.clone(),
        }
    }
}

fn shown(finding: &Finding, key_map: &KeyMap, values: bool) -> Shown {
    let text =
        |bytes: &Bytes| String::from_utf8_lossy(bytes).chars().take(MAX_VALUE_CHARS).collect::<String>();
    let template = std::str::from_utf8(&finding.key).ok().and_then(|key| key_map.template_of(key));
    // As the documentation writes keys.
    let key = template.unwrap_or_default().replace("$type", "T").replace("$id", "U");
    Shown {
        key,
        field: finding.field.as_ref().map(text),
        database: finding.wanted.as_ref().filter(|_| values).map(text),
        redis: finding.held.as_ref().filter(|_| values).map(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KeyMapSpec, TableSpec, keys};

    fn found(id: u32, class: Class, keys: &[&str], uncertain: Option<&'static str>) -> Found<'static> {
        let user = User { user_type: "live".into(), id: id.to_string().into(), numeric_id: true };
        let finding = |key: &&str| Finding {
            key: Bytes::from((*key).to_owned()),
            field: None,
            wanted: Some("1".into()),
            held: Some("2".into()),
        };
        Found { user, class, findings: keys.iter().map(finding).collect(), uncertain }
    }

    fn key_map() -> KeyMap {
        KeyMap::compile(&KeyMapSpec::from_toml(keys::BUILT_IN).unwrap(), &TableSpec::defaults()).unwrap()
    }

    #[test]
    fn everybody_is_counted_once_by_what_is_the_matter() {
        let (mut tally, map) = (Tally::new(false), key_map());
        tally.users = 10;
        tally.changing = 1;
        tally.note(found(1, Class::Wrong, &["user_balance:live:1"], None), &map);
        tally.note(found(2, Class::Absent, &["user:{live:2}:config"], None), &map);
        tally.note(found(3, Class::Wrong, &["user_balance:live:3"], Some("nothing streams")), &map);
        let keys = ["user_balance:live:9", "user:{live:9}:config"];
        tally.note(found(9, Class::Orphaned, &keys, None), &map);
        tally.note(found(9, Class::Orphaned, &keys[..1], None), &map);
        tally.note(found(9, Class::Orphaned, &["user_stats:live:9"], None), &map);
        let report = tally.report(Duration::from_secs(2));
        assert_eq!((report.equal, report.absent, report.wrong, report.unconfirmed), (6, 1, 1, 1));
        assert_eq!((report.orphaned_users, report.orphaned_keys, report.found.len()), (1, 3, 4));
        assert_eq!(report.differences["user_balance:T:U"], 3);
        assert_eq!((report.examples.len(), report.users_per_second), (5, 5.0));
        assert!(report.examples.iter().flat_map(|e| &e.differences).all(|shown| shown.redis.is_none()));
        assert!(!report.is_clean());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_counted_is_not() {
        let (mut tally, map) = (Tally::new(true), key_map());
        for id in 0..20_000 {
            tally.note(found(id, Class::Wrong, &[&format!("user_balance:live:{id}")], None), &map);
        }
        let report = tally.report(Duration::from_secs(1));
        assert_eq!((report.wrong, report.found.len(), report.found_more), (20_000, MAX_FOUND, true));
        assert_eq!(report.examples.len(), MAX_EXAMPLES);
        assert_eq!(report.examples[0].differences[0].redis.as_deref(), Some("2"));
    }
}
