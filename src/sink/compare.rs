//! Whether keys hold what a plan writes, without writing them.
//!
//! Compared is what a plan says of itself: the fields it sets and removes, as text, and the strings it sets. Fields
//! of other writers are none of ours; a key with a time to live that is gone is absent, not wrong; a key that is
//! only written where it exists may be absent; what holds the time of the write is another one after every reading;
//! what a guard decides on, or a later step of the plan may write once more, is left out.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::lanes::Trouble;
use super::look::Finding;
use super::node::Command;
use super::reply::{NodeError, Reply};
use super::slots::{Address, Topology};
use super::{Sink, fence};
use crate::error::Result;
use crate::keyplan::{Guard, KeyPlan, Step, Timed};

/// What a comparison found, from harmless to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// None.
    Equal,
    /// A hash that is to be there is not: readers ask the database.
    Absent,
    /// Something else is there.
    Wrong,
}

/// What is asked for one plan, and what the answers say of it.
pub struct Question<'p> {
    plan: &'p KeyPlan,
    timed: &'p Timed,
    /// The steps that are compared, each with the fields that are.
    asked: Vec<(&'p Step, Vec<&'p [u8]>)>,
}

impl<'p> Question<'p> {
    /// What has to be known to compare `plan`.
    pub fn new(plan: &'p KeyPlan, timed: &'p Timed) -> Question<'p> {
        let mut question = Question { plan, timed, asked: Vec::with_capacity(4) };
        for (at, step) in plan.steps.iter().enumerate() {
            let later = || {
                let behind = plan.steps.iter().skip(at + 1);
                behind.filter(|later| later.key().is_some() && later.key() == step.key())
            };
            let replaced = later().any(|later| !matches!(later, Step::Hash { .. }));
            if *step.guard() == Guard::ALWAYS && !replaced {
                question.ask(step, |name| later().any(|later| names(later).any(|known| known == name)));
            }
        }
        question
    }

    fn ask(&mut self, step: &'p Step, is_later: impl Fn(&[u8]) -> bool) {
        let fields = match step {
            Step::Hash { .. } => {
                let timed = |name: &[u8]| self.timed.fields.iter().any(|timed| timed == name);
                let fields: Vec<&[u8]> = names(step).filter(|name| !timed(name) && !is_later(name)).collect();
                if fields.is_empty() {
                    return;
                }
                fields
            }
            Step::Set { key, .. } if self.timed.strings.iter().any(|head| key.starts_with(head)) => return,
            Step::Set { .. } => Vec::new(),
            Step::Delete { written, .. } if *written || self.plan.deletes_user => Vec::new(),
            _ => return,
        };
        self.asked.push((step, fields));
    }

    /// The steps that are compared, each with the fields that are.
    pub fn asked(&self) -> &[(&'p Step, Vec<&'p [u8]>)] {
        &self.asked
    }

    /// How many commands it takes.
    pub(super) fn len(&self) -> usize {
        self.asked.len()
    }

    /// One command for each key.
    pub fn commands(&self) -> impl Iterator<Item = (&'p Bytes, Command)> {
        self.asked.iter().filter_map(|(step, fields)| {
            let key = step.key()?;
            let command = match step {
                Step::Hash { .. } => {
                    // One allocation for all names: a walk over all users asks for dozens of each.
                    let mut names = BytesMut::with_capacity(fields.iter().map(|field| field.len()).sum());
                    let mut args = Vec::with_capacity(fields.len() + 1);
                    args.push(key.clone());
                    args.extend(fields.iter().map(|field| {
                        names.put_slice(field);
                        names.split().freeze()
                    }));
                    Command::new("HMGET", args)
                }
                Step::Set { .. } => Command::new("GET", vec![key.clone()]),
                _ => Command::new("EXISTS", vec![key.clone()]),
            };
            Some((key, command))
        })
    }

    /// What the answers, in the order of [`commands`](Question::commands), come to; and whether a balance is among
    /// what is wrong, by the key that holds it.
    pub fn judge(&self, answers: &[Result<Reply, NodeError>]) -> (Difference, Vec<&'p Bytes>) {
        let mut worst = Difference::Equal;
        let mut balances = Vec::new();
        for ((step, fields), answer) in self.asked.iter().zip(answers) {
            let difference = difference(step, fields, answer);
            worst = worst.max(difference);
            if difference == Difference::Wrong
                && let Some((key, field, balance)) = self.plan.balance_of(step)
                && holds_other(field, fields, answer, balance)
            {
                balances.push(key);
            }
        }
        (worst, balances)
    }

    /// Everything that differs, in the order of the plan.
    pub fn explain(&self, answers: &[Result<Reply, NodeError>]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for ((step, fields), answer) in self.asked.iter().zip(answers) {
            let (Some(key), false) = (step.key(), difference(step, fields, answer) == Difference::Equal)
            else {
                continue;
            };
            let whole = |wanted: Option<&Bytes>, held: Option<&Bytes>| {
                let (wanted, held) = (wanted.cloned(), held.cloned());
                Finding { key: key.clone(), field: None, wanted, held }
            };
            match (step, answer) {
                (Step::Hash { set, .. }, Ok(answer))
                    if answer.list().iter().any(|held| held.text().is_some()) =>
                {
                    for (name, held) in fields.iter().zip(answer.list()) {
                        let wanted = set.iter().find(|(known, _)| known == name).map(|(_, value)| value);
                        let (held, name) = (held.text(), Bytes::copy_from_slice(name));
                        if held.map(|held| &**held) != wanted {
                            let wanted = wanted.map(Bytes::copy_from_slice);
                            let (key, held) = (key.clone(), held.cloned());
                            findings.push(Finding { key, field: Some(name), wanted, held });
                        }
                    }
                }
                (Step::Set { value, .. }, answer) => {
                    findings.push(whole(Some(value), answer.as_ref().ok().and_then(Reply::text)));
                }
                _ => findings.push(whole(None, None)),
            }
        }
        findings
    }
}

/// Every field that a step sets or removes.
fn names(step: &Step) -> impl Iterator<Item = &[u8]> {
    let (set, remove) = match step {
        Step::Hash { set, remove, .. } => (Some(set), Some(remove)),
        _ => (None, None),
    };
    let set = set.into_iter().flat_map(|set| set.iter().map(|(name, _)| name));
    set.chain(remove.into_iter().flat_map(|remove| remove.iter()))
}

fn difference(step: &Step, fields: &[&[u8]], answer: &Result<Reply, NodeError>) -> Difference {
    let Ok(answer) = answer else { return Difference::Wrong };
    let unless = |same: bool| if same { Difference::Equal } else { Difference::Wrong };
    match step {
        Step::Hash { set, if_exists, .. } => {
            let held = || answer.list().iter().map(Reply::text);
            if held().all(|held| held.is_none()) {
                let wanted = !if_exists && set.iter().any(|(name, _)| fields.contains(&name));
                return if wanted { Difference::Absent } else { Difference::Equal };
            }
            let wanted = |name: &[u8]| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
            unless(fields.iter().zip(held()).all(|(name, held)| wanted(name) == held.map(|held| &**held)))
        }
        Step::Set { value, .. } => unless(answer.text().is_none_or(|held| held == value)),
        _ => unless(answer.int() != Some(1)),
    }
}

/// Whether another balance is there; none is no other one.
fn holds_other(
    field: Option<&str>,
    fields: &[&[u8]],
    answer: &Result<Reply, NodeError>,
    balance: &[u8],
) -> bool {
    let Ok(answer) = answer else { return false };
    let held = match field {
        None => answer.text(),
        Some(field) => {
            let at = fields.iter().position(|name| *name == field.as_bytes());
            at.and_then(|at| answer.list().get(at)).and_then(Reply::text)
        }
    };
    held.is_some_and(|held| **held != *balance)
}

impl Sink {
    /// Compares each plan with what its keys hold. The second value says whether a balance is wrong in a key that
    /// lies in another slot than the user's own, which the script cannot see.
    ///
    /// # Errors
    /// A node that does not answer.
    pub async fn compare(&mut self, plans: &[KeyPlan], timed: &Timed) -> Result<Vec<(Difference, bool)>> {
        let questions: Vec<Question<'_>> = plans.iter().map(|plan| Question::new(plan, timed)).collect();
        let commands: Vec<(&Bytes, Command)> = questions.iter().flat_map(Question::commands).collect();
        let mut answers = match self.read_all(commands).await {
            Ok(answers) => answers.into_iter(),
            Err(trouble) => {
                self.lanes.recover(&trouble).await;
                return Err(trouble.into());
            }
        };
        let topology = self.lanes.topology();
        let found = questions.iter().map(|question| {
            let answers: Vec<_> = answers.by_ref().take(question.len()).collect();
            let (difference, balances) = question.judge(&answers);
            let own = topology.slot(&fence::user_key(&question.plan.user.user_type, &question.plan.user.id));
            (difference, balances.iter().any(|key| topology.slot(key) != own))
        });
        Ok(found.collect())
    }

    /// Sends each command to the owner of its key, all at once; the answers in the same order.
    pub(super) async fn read_all(
        &mut self,
        commands: Vec<(&Bytes, Command)>,
    ) -> Result<Vec<Result<Reply, NodeError>>, Trouble> {
        let mut answers = vec![Ok(Reply::Nil); commands.len()];
        let by_node = by_owner(self.lanes.topology(), commands).ok_or_else(|| self.lanes.unowned())?;
        for (address, commands) in by_node {
            let (places, commands): (Vec<usize>, Vec<Command>) = commands.into_iter().unzip();
            let replies = self.lanes.open(&address).await?.node.send(commands.clone()).await;
            for ((place, command), reply) in places.into_iter().zip(commands).zip(replies) {
                let reply = match reply {
                    Err(NodeError::Ask { to: Some(to), .. }) => {
                        let asking = vec![Command::new("ASKING", Vec::new()), command];
                        let mut replies = self.lanes.open(&to).await?.node.send(asking).await;
                        replies.pop().unwrap_or(Err(NodeError::TimedOut))
                    }
                    reply => reply,
                };
                match reply {
                    Ok(_) | Err(NodeError::WrongType) => {
                        answers.get_mut(place).into_iter().for_each(|answer| *answer = reply.clone());
                    }
                    Err(error) => return Err(Trouble { address, error }),
                }
            }
        }
        Ok(answers)
    }
}

/// Commands by the node they are for, with their places; `None` where a slot has no owner.
pub(super) fn by_owner(
    topology: &Topology,
    commands: Vec<(&Bytes, Command)>,
) -> Option<HashMap<Address, Vec<(usize, Command)>>> {
    let mut by_node: HashMap<Address, Vec<(usize, Command)>> = HashMap::new();
    for (place, (key, command)) in commands.into_iter().enumerate() {
        let owner = topology.owner(topology.slot(key))?;
        by_node.entry(owner.clone()).or_default().push((place, command));
    }
    Some(by_node)
}

#[cfg(test)]
mod tests {
    use super::super::group::tests::{plan, steps};
    use super::*;

    fn text(text: &'static str) -> Reply {
        Reply::Text(text.into())
    }

    fn judged(plan: &KeyPlan, answers: Vec<Reply>) -> (Difference, usize) {
        let timed = Timed { fields: vec![b"last_updated".to_vec()], strings: Vec::new() };
        let answers: Vec<_> = answers.into_iter().map(Ok).collect();
        let question = Question::new(plan, &timed);
        assert_eq!(question.commands().count(), answers.len());
        let (difference, balances) = question.judge(&answers);
        (difference, balances.len())
    }

    #[test]
    fn what_is_as_it_would_be_written_is_equal() {
        let plan = plan(steps());
        let hash = |balance: Reply, email: Reply| Reply::List(vec![balance, email]);
        assert_eq!(judged(&plan, vec![hash(text("10.5"), Reply::Nil), text("10.5")]), (Difference::Equal, 0));
        assert_eq!(judged(&plan, vec![hash(text("10.5"), Reply::Nil), Reply::Nil]), (Difference::Equal, 0));
        assert_eq!(judged(&plan, vec![hash(Reply::Nil, Reply::Nil), text("10.5")]), (Difference::Absent, 0));
        assert_eq!(judged(&plan, vec![hash(text("10.50"), Reply::Nil), text("9")]), (Difference::Wrong, 2));
        let email = hash(text("10.5"), text("removed"));
        assert_eq!(judged(&plan, vec![email, text("10.5")]), (Difference::Wrong, 0));
    }

    #[test]
    fn what_differs_is_told_by_key_and_field() {
        let plan = plan(steps());
        let timed = Timed::default();
        let question = Question::new(&plan, &timed);
        let explained = |hash: Result<Reply, NodeError>, balance: Reply| {
            let told = question.explain(&[hash, Ok(balance)]).into_iter().map(|finding| {
                let text = |bytes: Option<Bytes>| bytes.map(|b| String::from_utf8_lossy(&b).into_owned());
                (text(finding.field), text(finding.wanted), text(finding.held))
            });
            told.collect::<Vec<_>>()
        };
        let hash = |balance: Reply, email: Reply| Ok(Reply::List(vec![balance, email]));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(explained(hash(text("10.5"), Reply::Nil), Reply::Nil), []);
        assert_eq!(
            explained(hash(Reply::Nil, Reply::Nil), text("10.5")),
            [(None, None, None)],
            "it is absent"
        );
        assert_eq!(explained(Err(NodeError::WrongType), text("10.5")), [(None, None, None)]);
        assert_eq!(
            explained(hash(text("9"), text("x")), text("8")),
            [
                (some("balance"), some("10.5"), some("9")),
                (some("email"), None, some("x")),
                (None, some("10.5"), some("8"))
            ]
        );
    }

    #[test]
    fn what_a_later_step_may_write_and_what_holds_the_time_is_left_out() {
        let key: Bytes = "user:{live:7}:config".into();
        let hash = |field: &str, guard| Step::Hash {
            key: key.clone(),
            set: [(field, "1"), ("last_updated", "now")].into_iter().collect(),
            remove: Default::default(),
            if_exists: false,
            guard,
        };
        let guarded = Guard { any_changed: 1, ..Guard::ALWAYS };
        let plan = plan(vec![hash("a", Guard::ALWAYS), hash("b", Guard::ALWAYS), hash("b", guarded)]);
        assert_eq!(judged(&plan, vec![Reply::List(vec![text("2")])]), (Difference::Wrong, 0));
        let timed = Timed { fields: vec![b"last_updated".to_vec()], strings: Vec::new() };
        let question = Question::new(&plan, &timed);
        assert_eq!(question.asked.len(), 1);
        assert_eq!(question.asked[0].1, [b"a"]);
    }
}
