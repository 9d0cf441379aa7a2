//! What a plan left in its keys, in few bytes: thousands are remembered for as long as a grace.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;

use super::compare::Question;
use super::group::matches;
use super::node::Command;
use super::reply::{NodeError, Reply};
use crate::keyplan::{KeyPlan, Step, Texts, Timed};

/// What plans have in common: of each key how it is read, and whether all of it may be absent.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape(Vec<(Reading, bool)>);

#[derive(Debug, PartialEq, Eq)]
enum Reading {
    /// These fields of a hash.
    Fields(Vec<Bytes>),
    /// A string.
    Text,
    /// Whether it is there, which it is not to be.
    Presence,
}

/// Which keys of a user were announced as written or deleted since the user was last looked at. Whatever else a plan has
/// left is still as it was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announced {
    /// Those with these digests, and no others.
    Keys(Vec<u64>),
    /// It is not known.
    Unknown,
}

impl Default for Announced {
    fn default() -> Announced {
        Announced::Keys(Vec::new())
    }
}

impl Announced {
    /// Notes a key.
    pub fn note(&mut self, key: &[u8]) {
        let digest = digest([Some(key)]);
        match self {
            Announced::Keys(digests) if !digests.contains(&digest) => digests.push(digest),
            _ => {}
        }
    }

    fn has(&self, key: &[u8]) -> bool {
        match self {
            Announced::Keys(digests) => digests.contains(&digest([Some(key)])),
            Announced::Unknown => true,
        }
    }
}

/// What a plan has left behind: digests of what is compared, and what it has deleted.
#[derive(Debug)]
pub struct Expectation {
    shape: Arc<Shape>,
    keys: Texts,
    digests: Box<[u64]>,
    /// Keys that it deleted.
    exactly: Texts,
    /// In pairs: what keys begin and end with that it deleted by a pattern.
    patterns: Texts,
}

impl Expectation {
    /// What `plan` has left behind, once it is applied. `last` is the shape of the plan before, which is mostly the
    /// same.
    pub fn of(plan: &KeyPlan, timed: &Timed, last: &mut Option<Arc<Shape>>) -> Expectation {
        let question = Question::new(plan, timed);
        let (mut shape, mut keys, mut digests) = (Vec::with_capacity(4), Texts::default(), Vec::new());
        for (step, fields) in question.asked() {
            keys.push(step.key().map_or(&[], |key| &**key));
            let (reading, digest, may_lack) = match step {
                Step::Hash { set, if_exists, .. } => {
                    let value = |name: &[u8]| set.iter().find(|(known, _)| *known == name).map(|(_, v)| v);
                    let may_lack = *if_exists || fields.iter().all(|name| value(name).is_none());
                    let names = fields.iter().map(|name| Bytes::copy_from_slice(name)).collect();
                    (Reading::Fields(names), digest(fields.iter().map(|name| value(name))), may_lack)
                }
                Step::Set { value, .. } => (Reading::Text, digest([Some(&**value)]), true),
                _ => (Reading::Presence, 0, true),
            };
            shape.push((reading, may_lack));
            digests.push(digest);
        }
        let shape = Shape(shape);
        let shape = match last {
            Some(last) if **last == shape => Arc::clone(last),
            _ => Arc::clone(last.insert(Arc::new(shape))),
        };
        let (mut exactly, mut patterns) = (Texts::default(), Texts::default());
        for step in &plan.steps {
            match step {
                Step::Delete { key, .. } => exactly.push(key),
                Step::DeletePattern { prefix, suffix, .. } => {
                    patterns.push(prefix);
                    patterns.push(suffix);
                }
                _ => {}
            }
        }
        Expectation { shape, keys, digests: digests.into(), exactly, patterns }
    }

    /// Whether the plan has deleted this key, by its name or by a pattern.
    pub fn deletes(&self, key: &[u8]) -> bool {
        let mut patterns = self.patterns.iter();
        let mut pattern = || Some((patterns.next()?, patterns.next()?));
        self.exactly.iter().any(|exact| exact == key)
            || std::iter::from_fn(&mut pattern).any(|(prefix, suffix)| matches(key, prefix, suffix))
    }

    /// What is to be read: each key that was announced, how, whether all of it may be absent, and the digest.
    fn asked(&self, announced: &Announced) -> impl Iterator<Item = (&[u8], &Reading, bool, u64)> {
        let all = self.keys.iter().zip(&self.shape.0).zip(&self.digests);
        let all = all.map(|((key, (reading, may_lack)), digest)| (key, reading, *may_lack, *digest));
        all.filter(|(key, ..)| announced.has(key))
    }

    /// One command for each key that was announced.
    pub(super) fn commands(&self, announced: &Announced) -> Vec<(Bytes, Command)> {
        let command = |(key, reading, ..): (&[u8], &Reading, bool, u64)| {
            let key = Bytes::copy_from_slice(key);
            let command = match reading {
                Reading::Fields(fields) => {
                    Command::new("HMGET", std::iter::once(&key).chain(fields).cloned().collect())
                }
                Reading::Text => Command::new("GET", vec![key.clone()]),
                Reading::Presence => Command::new("EXISTS", vec![key.clone()]),
            };
            (key, command)
        };
        self.asked(announced).map(command).collect()
    }

    /// Whether the answers to [`commands`](Expectation::commands) say that all is as it was left. Takes as many as there
    /// are commands.
    pub(super) fn is_met(
        &self,
        announced: &Announced,
        answers: &mut impl Iterator<Item = Result<Reply, NodeError>>,
    ) -> bool {
        let mut is_met = true;
        for ((_, reading, may_lack, wanted), answer) in self.asked(announced).zip(answers) {
            is_met &= is_as_left(reading, may_lack, wanted, &answer);
        }
        is_met
    }
}

fn is_as_left(reading: &Reading, may_lack: bool, wanted: u64, answer: &Result<Reply, NodeError>) -> bool {
    let Ok(answer) = answer else { return false };
    let texts = || answer.list().iter().map(|held| held.text().map(|text| &**text));
    match reading {
        Reading::Fields(_) if texts().all(|held| held.is_none()) => may_lack,
        Reading::Fields(_) => digest(texts()) == wanted,
        Reading::Text => answer.text().is_none_or(|held| digest([Some(&**held)]) == wanted),
        Reading::Presence => answer.int() != Some(1),
    }
}

fn digest<'v>(values: impl IntoIterator<Item = Option<&'v [u8]>>) -> u64 {
    let mut hasher = DefaultHasher::new();
    values.into_iter().for_each(|value| value.hash(&mut hasher));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::super::group::tests::{plan, steps};
    use super::*;

    fn text(text: &'static str) -> Result<Reply, NodeError> {
        Ok(Reply::Text(text.into()))
    }

    fn hash(balance: &'static str, email: Reply) -> Result<Reply, NodeError> {
        Ok(Reply::List(vec![Reply::Text(balance.into()), email]))
    }

    fn is_met(expected: &Expectation, answers: &[Result<Reply, NodeError>]) -> bool {
        assert_eq!(expected.commands(&Announced::Unknown).len(), answers.len());
        expected.is_met(&Announced::Unknown, &mut answers.iter().cloned())
    }

    #[test]
    fn an_expectation_is_met_by_what_was_written() {
        let mut last = None;
        let expected = Expectation::of(&plan(steps()), &Timed::default(), &mut last);
        let commands = expected.commands(&Announced::Unknown);
        let names: Vec<_> = commands.iter().map(|(key, _)| key).collect();
        assert_eq!(names, ["user:{live:7}:config", "user_balance:live:7"]);
        let nothing = || Ok(Reply::List(vec![Reply::Nil, Reply::Nil]));
        assert!(is_met(&expected, &[hash("10.5", Reply::Nil), text("10.5")]));
        assert!(is_met(&expected, &[hash("10.5", Reply::Nil), Ok(Reply::Nil)]), "it has expired");
        for other in [
            [hash("10.50", Reply::Nil), text("10.5")],
            [hash("10.5", Reply::Text("x".into())), text("10.5")],
            [hash("10.5", Reply::Nil), text("9")],
            [nothing(), text("10.5")],
            [Err(NodeError::WrongType), text("10.5")],
        ] {
            assert!(!is_met(&expected, &other), "{other:?}");
        }
        let again = Expectation::of(&plan(steps()), &Timed::default(), &mut last);
        assert!(Arc::ptr_eq(&expected.shape, &again.shape), "names are kept once");
    }

    #[test]
    fn only_keys_that_were_announced_are_read() {
        let expected = Expectation::of(&plan(steps()), &Timed::default(), &mut None);
        let mut announced = Announced::default();
        assert!(expected.commands(&announced).is_empty());
        announced.note(b"user_balance:live:7");
        announced.note(b"user_balance:live:7");
        announced.note(b"user:{live:8}:config");
        assert!(matches!(&announced, Announced::Keys(digests) if digests.len() == 2));
        let commands = expected.commands(&announced);
        let names: Vec<_> = commands.iter().map(|(key, _)| key).collect();
        assert_eq!(names, ["user_balance:live:7"]);
        let mut answers = [text("9"), text("of the next one")].into_iter();
        assert!(!expected.is_met(&announced, &mut answers));
        assert_eq!(answers.len(), 1, "no more answers are taken than were asked for");
        assert!(expected.is_met(&announced, &mut [text("10.5")].into_iter()));
    }

    #[test]
    fn what_was_deleted_is_remembered() {
        let mut steps = steps();
        let guard = crate::keyplan::Guard::ALWAYS;
        steps.push(Step::DeletePattern { prefix: "fs:live:7:".into(), suffix: "".into(), guard });
        let expected = Expectation::of(&plan(steps), &Timed::default(), &mut None);
        assert!(expected.deletes(b"user_stats:live:7") && expected.deletes(b"fs:live:7:week"));
        assert!(!expected.deletes(b"user_stats:live:77") && !expected.deletes(b"fs:live:77:week"));
    }
}
